"""Intake's ledger: decisions rest on what the database holds, and are gathered to be written with their batch."""

from collections.abc import Sequence
from typing import Generic, Literal

from leeward.store import Unit
from services.incident.decisions.claims import (
    Action,
    Current,
    Patient,
    PatientClaim,
    Report,
    Signal,
    SignalDecision,
    combine,
)
from services.incident.decisions.decide import SignalT_contra
from services.incident.hashing import Hasher
from services.incident.intake.batch import Records
from services.incident.intake.patients import Book
from services.incident.intake.unmatched import Queue
from services.incident.sealing import Box


class DatabaseLedger(Generic[SignalT_contra]):
    """Patients and incidents of one batch of signals: read in a few queries, and written by `write`."""

    def __init__(self, unit: Unit, hasher: Hasher, box: Box, signals: Sequence[Signal]) -> None:
        self._unit = unit
        self.book = Book(unit.conn, unit.now.date(), (key for signal in signals for key in signal.all_keys()))
        reports = [signal.said for signal in signals if isinstance(signal.said, Report)]
        self.records = Records(unit, hasher, Queue(box), reports)

    def write(self) -> None:
        """Store and publish what was decided."""
        self.records.write()
        self.book.write(self._unit.conn)

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """What is known of one patient is known of the other; doubts that another incident stands for are settled."""
        for doubt in self.book.merge(surviving, prior):
            self.records.dismiss(doubt)

    def find_opened(self, report: Report) -> Current | None:
        """See `Ledger`."""
        return self.records.find_opened(report)

    def find_told(self, report: Report) -> Current | None:
        """See `Ledger`."""
        return self.records.find_told(report)

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """The patient of a message. Several whom it names as one are one from now on, in whatever order feeds come;
        unless each has a recorded death, since two incidents are out then.
        """
        if not create:
            return self.book.known(keys)
        patients = self.book.find_or_create(keys)
        deaths = {one.current.incident_ref for one in patients if one.current and one.current.state == "recorded"}
        if len(patients) == 1 or len(deaths) > 1:
            return patients
        self.merge(keys, ())
        return self.book.known(keys)

    def view(self, signal: SignalT_contra, patients: Sequence[Patient]) -> Patient:
        """See `Ledger`."""
        return combine(patients)

    def carry_out(
        self, signal: SignalT_contra, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Gather what the decision comes to."""
        self.apply(signal.said, decision, patients, current)

    def apply(
        self,
        said: PatientClaim | Report,
        decision: SignalDecision,
        patients: Sequence[Patient],
        current: Current | None,
    ) -> None:
        """Gather what a decision comes to that rests on this incident of these patients."""
        if decision.action in (Action.RECORD, Action.REVIEW):
            made = self.records.open(said, decision, replaced=current)
            if current is None or current.state != "recorded":
                for patient in patients:
                    patient.current = made
                    self.book.touch(patient)
        elif current and decision.action == Action.ADD:
            self.records.add(current, said.mentions)
        elif current and decision.action == Action.RETRACT:
            self.records.retract(current)
        if current and "known" in decision.reasons and isinstance(said, Report):
            self.records.link(current, said)

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """Remember it with the patient."""
        patient.indicator = indicator
        self.book.touch(patient)

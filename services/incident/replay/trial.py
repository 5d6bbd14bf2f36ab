"""What stored messages of all sources come to by the rules in force now: tried in memory, so that a replay applies only
what nothing later takes back.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple

from sqlalchemy import Connection

from leeward.contracts import bucket_down
from leeward.refs import new_ref
from leeward.settings.policy import IncidentPolicy
from services.incident.decisions.claims import (
    DENIED,
    Action,
    Current,
    Patient,
    PatientClaim,
    Report,
    Signal,
    SignalDecision,
    Visit,
    combine,
    heavier,
)
from services.incident.decisions.decide import decide
from services.incident.hashing import Hasher
from services.incident.intake.patients import Book

_UNKNOWN: Final = "Y"  # what PID-30 said before is not known: so that the first Y is no change


class Stored(NamedTuple):
    """A message of the raw inbox, without its content."""

    raw_ref: str
    key_ref: str
    source: str
    accepted_at: datetime
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Signal):
    """A signal of a stored message, with the death indicator that its patient had until then."""

    stored: Stored
    indicator: Literal["", "Y", "N"] = _UNKNOWN


class Trial:
    """A ledger in memory: patients and reports as they would be if these rules had decided everything since a time.

    A patient's incident of before that time stands; one of later is made again where the messages make it.
    """

    def __init__(self, hasher: Hasher, rules: IncidentPolicy, since: datetime) -> None:
        self._hasher = hasher
        self._rules = rules
        self._since = bucket_down(since)
        self._patients: dict[str, Patient] = {}
        self._by_ref: dict[str, Patient] = {}
        self._opened: dict[str, Current] = {}
        self._threads: dict[str, list[Tried]] = {}

    def list_standing(self) -> list[Tried]:
        """The signals that nothing later has taken back, in their order, each once."""
        found = {id(one): one for thread in self._threads.values() for one in thread}
        return sorted(found.values(), key=lambda one: (one.stored.place, one.stored.accepted_at))

    def feed(self, conn: Connection, messages: Iterable[tuple[Stored, Sequence[Signal]]]) -> None:
        """Further messages, in their order."""
        given = list(messages)
        new = {key for _, signals in given for one in signals for key in one.all_keys()} - self._patients.keys()
        book = Book(conn, self._since.date(), new)
        for key in new:
            for found in book.known([key]):
                one = self._by_ref.setdefault(found.patient_ref, Patient(found.patient_ref, True, _UNKNOWN))
                if found.current and found.current.accepted_at < self._since and one.current is None:
                    one.current = replace(found.current)
                self._patients[key] = one
        for stored, signals in given:
            for signal in signals:
                tried = Tried(signal.said, signal.keys, signal.merges, stored=stored)
                decide(tried, stored.accepted_at, self, self._rules)

    # ---- as a ledger

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """Those of one patient are those of another (A40); they have been joined in the database since."""
        keys = [*surviving, *prior]
        there = self.find_patients(keys, create=False)
        if not there:
            return
        kept, *others = there
        for other in others:
            kept.current = heavier(kept.current, other.current)
            self._threads.setdefault(kept.patient_ref, []).extend(self._threads.pop(other.patient_ref, []))
        moved = {id(other) for other in others}
        for key, patient in self._patients.items():
            if id(patient) in moved:
                self._patients[key] = kept
        for key in keys:
            self._patients[key] = kept

    def find_opened(self, report: Report) -> Current | None:
        """What a report under the same reference has made, or told of."""
        return self._opened.get(self._source_ref(report))

    def find_told(self, report: Report) -> Current | None:
        """See `find_opened`."""
        return None

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """See `Ledger`; nobody for a signal without keys, since another message could not be about the same."""
        there = list({id(one): one for one in (self._patients.get(key) for key in keys) if one}.values())
        if not there and create and keys:
            there = [Patient(new_ref(), True, _UNKNOWN)]
        for key in keys if there and create else ():
            self._patients.setdefault(key, there[0])
        return there

    def view(self, signal: Tried, patients: Sequence[Patient]) -> Patient:
        """See `Ledger`."""
        return combine(patients)

    def carry_out(
        self, signal: Tried, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Note which signals a patient or a report now rests on."""
        said, made = signal.said, _made(signal, decision)
        refs = [one.patient_ref for one in patients]
        if isinstance(said, Report):
            ref = self._source_ref(said)
            if said.withdrawn or ref in self._opened:
                # whether the database holds an incident of this report is not known here
                self._threads[ref] = [signal] if said.withdrawn else [*self._threads.get(ref, []), signal]
                return
            if decision.action != Action.NOTHING:
                self._opened[ref] = current or made
            refs = refs or [ref]
        if decision.action == Action.NOTHING:
            return
        tried = replace(signal, indicator=combine(patients).indicator) if patients else signal
        for ref in refs:
            earlier = self._threads.get(ref, []) if decision.action == Action.ADD else []
            self._threads[ref] = [*earlier, tried]
        if decision.action == Action.RETRACT and current:
            current.state = "retracted"
        elif decision.action != Action.ADD:
            for patient in patients:
                patient.current = made

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """See `Ledger`."""
        patient.indicator = indicator

    def _source_ref(self, report: Report) -> str:
        return self._hasher.of_message(b"source_ref", report.source.encode(), report.source_ref.encode())


def _made(signal: Tried, decision: SignalDecision) -> Current:
    said = signal.said
    claim = said if isinstance(said, PatientClaim) else None
    return Current(
        incident_ref="",
        state="recorded" if decision.action == Action.RECORD else "review",
        certain=decision.certain,
        by_disposition=bool(claim and claim.disposition == "dead"),
        source=said.source,
        visit=claim.visit if claim else Visit(),
        accepted_at=bucket_down(signal.stored.accepted_at),
        occurred_at=bucket_down(min(said.occurred_at or signal.stored.accepted_at, signal.stored.accepted_at)),
        denied=DENIED in decision.reasons,
    )

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
    SignalDecision,
    Visit,
)
from services.incident.decisions.policy import decide_claim, decide_report
from services.incident.hashing import Hasher
from services.incident.intake.intake import Signal
from services.incident.intake.patients import Book, combine, heavier

_UNKNOWN: Final = "Y"  # what PID-30 said before is not known: so that the first Y is no change


class Stored(NamedTuple):
    """A message of the raw inbox, without its content."""

    raw_ref: str
    key_ref: str
    source: str
    accepted_at: datetime
    place: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A signal that led to something, with the death indicator that its patient had until then."""

    stored: Stored
    signal: Signal
    indicator: Literal["", "Y", "N"]


class Trial:
    """Patients and reports as they would be had everything since a time been decided by these rules.

    A patient's incident of before that time stands; one of later is made anew where the messages make it.
    """

    def __init__(self, hasher: Hasher, rules: IncidentPolicy, since: datetime) -> None:
        self._hasher = hasher
        self._rules = rules
        self._since = bucket_down(since)
        self._patients: dict[str, Patient] = {}
        self._by_ref: dict[str, Patient] = {}
        self._known: set[str] = set()
        self._threads: dict[str, list[Tried]] = {}

    def standing(self) -> list[Tried]:
        """The signals that nothing later has taken back, in their order, each once."""
        found = {id(one): one for thread in self._threads.values() for one in thread}
        return sorted(found.values(), key=lambda one: (one.stored.place, one.stored.accepted_at))

    def feed(self, conn: Connection, messages: Iterable[tuple[Stored, Sequence[Signal]]]) -> None:
        """Further messages, in their order."""
        given = list(messages)
        self._load(conn, {key for _, signals in given for one in signals for key in one.all_keys()})
        for stored, signals in given:
            for signal in signals:
                if isinstance(signal.said, Report):
                    self._report(stored, signal, signal.said)
                else:
                    self._claim(stored, signal, signal.said)

    def _load(self, conn: Connection, keys: set[str]) -> None:
        new = keys - self._patients.keys()
        book = Book(conn, self._since.date(), new)
        for key in new:
            for found in book.known([key]):
                one = self._by_ref.setdefault(found.patient_ref, Patient(found.patient_ref, True, _UNKNOWN))
                if found.current and found.current.accepted_at < self._since and one.current is None:
                    one.current = replace(found.current)
                self._patients[key] = one

    def _found(self, keys: Sequence[str], *, new: bool) -> list[Patient]:
        there = list({id(one): one for one in (self._patients.get(key) for key in keys) if one}.values())
        if not there and new and keys:
            there = [Patient(new_ref(), True, _UNKNOWN)]
        for key in keys if there and new else ():
            self._patients.setdefault(key, there[0])
        return there

    # ---- claims

    def _claim(self, stored: Stored, signal: Signal, claim: PatientClaim) -> None:
        for surviving, prior in signal.merges:
            self._merge([*surviving, *prior])
        patients = self._found(signal.keys, new=claim.kind in ("evidence", "update"))
        if not patients:
            return
        view = combine(patients)
        decision = decide_claim(claim, view, self._rules, stored.accepted_at)
        self._carry_out(patients, decision, Tried(stored, signal, view.indicator), claim)
        for patient in patients:
            patient.indicator = "" if claim.indicator == "null" else claim.indicator or patient.indicator

    def _carry_out(
        self, patients: Sequence[Patient], decision: SignalDecision, tried: Tried, said: PatientClaim | Report
    ) -> None:
        current = combine(patients).current
        if decision.action in (Action.RECORD, Action.REVIEW):
            made = _made(decision, said, tried.stored.accepted_at)
            for patient in patients:
                patient.current = made
                self._threads[patient.patient_ref] = [tried]
        elif decision.action == Action.RETRACT and current:
            current.state = "retracted"
            for patient in patients:
                self._threads[patient.patient_ref] = [tried]
        elif decision.action == Action.ADD:
            for patient in patients:
                self._threads.setdefault(patient.patient_ref, []).append(tried)

    def _merge(self, keys: Sequence[str]) -> None:
        """Those of one patient are those of another (A40); they have been joined in the database since."""
        there = self._found(keys, new=False)
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

    # ---- reports

    def _report(self, stored: Stored, signal: Signal, report: Report) -> None:
        """One by its reference; a death is its patient's as well."""
        fingerprint = self._hasher.of_message(b"source_ref", report.source.encode(), report.source_ref.encode())
        patients = self._found(signal.keys, new=True)
        tried = Tried(stored, signal, _UNKNOWN)
        if report.withdrawn or fingerprint in self._known:
            self._threads[fingerprint] = [tried] if report.withdrawn else [*self._threads.get(fingerprint, []), tried]
            return
        decision = decide_report(report, combine(patients) if patients else None, self._rules, stored.accepted_at)
        if decision.action == Action.NOTHING:
            return
        self._known.add(fingerprint)
        if patients:
            self._carry_out(patients, decision, tried, report)
        else:
            self._threads[fingerprint] = [tried]


def _made(decision: SignalDecision, said: PatientClaim | Report, at: datetime) -> Current:
    claim = said if isinstance(said, PatientClaim) else None
    return Current(
        incident_ref="",
        state="recorded" if decision.action == Action.RECORD else "review",
        certain=decision.certain,
        by_disposition=bool(claim and claim.disposition == "dead"),
        source=said.source,
        visit=claim.visit if claim else Visit(),
        accepted_at=bucket_down(at),
        denied=DENIED in decision.reasons,
    )

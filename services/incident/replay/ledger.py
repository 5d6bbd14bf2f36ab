"""A replay's ledger: as intake's, and a replay takes nothing back that is newer than the message it decides on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal

from leeward.contracts import IncidentAmended, bucket_down
from leeward.store import Unit
from services.incident.decisions.claims import (
    Action,
    Current,
    Patient,
    PatientClaim,
    Report,
    SignalDecision,
    combine,
)
from services.incident.hashing import Hasher
from services.incident.intake.ledger import DatabaseLedger
from services.incident.replay import queries
from services.incident.replay.trial import Tried
from services.incident.sealing import Box

DONE: Final = MappingProxyType({Action.RECORD: "recorded", Action.REVIEW: "reviewed", Action.RETRACT: "retracted"})


@dataclass(frozen=True, slots=True)
class Decided:
    """What a message led to; nothing of a patient."""

    raw_ref: str
    came: datetime  # start of its 15-minute bucket
    action: str  # recorded, reviewed, retracted, changed
    reasons: tuple[str, ...]


class ReplayLedger(DatabaseLedger[Tried]):
    """Writes as intake does, and notes what the messages of one batch led to."""

    def __init__(self, unit: Unit, hasher: Hasher, box: Box, batch: Sequence[Tried], since: datetime) -> None:
        super().__init__(unit, hasher, box, batch)
        self._since = bucket_down(since)
        self._decided: list[Decided] = []
        self._added: dict[str, Decided] = {}
        self._opened: set[str] = set()

    def list_decided(self) -> list[Decided]:
        """What became of the messages, in their order, once `write` has published it."""
        emitted = [event.data for event in self._unit.emitted]
        amended = dict.fromkeys(one.incident_ref for one in emitted if isinstance(one, IncidentAmended))
        return [*self._decided, *(self._added[ref] for ref in amended if ref in self._added)]

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """Patients have been joined since."""

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """See `Ledger`."""
        return self.book.find_or_create(keys) if create else self.book.known(keys)

    def view(self, signal: Tried, patients: Sequence[Patient]) -> Patient:
        """The patients with the death indicator that they had until this message came, and an incident of the same
        visit under another name of the patient's: there is no second one.
        """
        view, claim = combine(patients), signal.said
        if isinstance(claim, Report):
            return view
        current = view.current or queries.find_same_visit(self._unit.conn, claim.source, claim.visit)
        if current and view.current is None:
            for patient in patients:
                patient.current = current
                self.book.touch(patient)
        return Patient("", known=True, indicator=signal.indicator, current=current)

    def carry_out(
        self, signal: Tried, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Gather what the decision comes to, as far as a replay may, and note it."""
        decision = self._limit(signal, decision, current)
        self.apply(signal.said, decision, patients, current)
        current = combine(patients).current if patients else current
        action = DONE.get(decision.action)
        decided = Decided(
            signal.stored.raw_ref, bucket_down(signal.stored.accepted_at), action or "changed", decision.reasons
        )
        if action:
            self._decided.append(decided)
        if current and decision.action == Action.RECORD:
            self._opened.add(current.incident_ref)
        if current and decision.action == Action.ADD and current.incident_ref not in self._opened:
            self._added.setdefault(current.incident_ref, decided)

    def _limit(self, signal: Tried, decision: SignalDecision, current: Current | None) -> SignalDecision:
        """What is newer than the message stays, and what was taken back is not recorded again without a person."""
        said = signal.said
        if decision.action == Action.RETRACT and current:
            newer = isinstance(said, PatientClaim) and current.accepted_at > signal.stored.accepted_at
            over = isinstance(said, Report) and current.state not in ("recorded", "review")
            return SignalDecision(Action.NOTHING, ("known",)) if newer or over else decision
        again = current and current.state == "retracted" and current.accepted_at >= self._since
        if decision.action == Action.RECORD and again and current and current.incident_ref not in self._opened:
            return SignalDecision(Action.REVIEW, (*decision.reasons, "retracted_before"), decision.certain)
        return decision

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """What later messages have said since stays."""

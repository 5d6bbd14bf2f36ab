"""The one loop of decisions: from what a ledger knows to a decision, and back to the ledger. No I/O.

Intake, replay, the trial before a replay and `leeward hl7 explain` differ in the ledger they give: a rule that stands
here, or in `policy`, holds for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

from leeward.settings.policy import IncidentPolicy
from services.incident.decisions.claims import Current, Patient, PatientClaim, Report, Signal, SignalDecision
from services.incident.decisions.policy import decide_claim, decide_repeated, decide_report

SHOWS_EVIDENCE: Final = ("evidence", "update")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A signal, and when its message came."""

    signal: Signal
    at: datetime


ArrivalT_contra = TypeVar("ArrivalT_contra", bound=Arrival, contravariant=True)


class Ledger(Protocol[ArrivalT_contra]):
    """What is known before a decision, and the account of it afterwards."""

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """Two patients, each by keys, are one."""

    def find_opened(self, report: Report) -> Current | None:
        """The incident that a report under the same reference has made."""

    def find_told(self, report: Report) -> Current | None:
        """The incident that something else had told of before a report under the same reference came."""

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """The patients that these keys lead to; `create`: a new one where there is none."""

    def view(self, arrival: ArrivalT_contra, patients: Sequence[Patient]) -> Patient:
        """These patients as one, as a decision on this signal sees them."""

    def carry_out(
        self, arrival: ArrivalT_contra, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Keep a decision that is about these patients and rests on this incident."""

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """Remember the death indicator of the last message about a patient."""


def decide(arrival: ArrivalT_contra, ledger: Ledger[ArrivalT_contra], rules: IncidentPolicy) -> None:
    """Decide one signal by what the ledger knows, and hand it the decision."""
    said = arrival.signal.said
    for surviving, prior in arrival.signal.merges:
        ledger.merge(surviving, prior)
    if isinstance(said, Report):
        _decide_report(arrival, said, ledger, rules)
    else:
        _decide_claim(arrival, said, ledger, rules)


def _decide_claim(
    arrival: ArrivalT_contra, claim: PatientClaim, ledger: Ledger[ArrivalT_contra], rules: IncidentPolicy
) -> None:
    patients = ledger.find_patients(arrival.signal.keys, create=claim.kind in SHOWS_EVIDENCE)
    if not patients:
        return
    view = ledger.view(arrival, patients)
    ledger.carry_out(arrival, decide_claim(claim, view, rules, arrival.at), patients, view.current)
    for patient in patients:
        patient.known = True
        # an empty field changes nothing
        indicator = "" if claim.indicator == "null" else claim.indicator or patient.indicator
        if indicator != patient.indicator:
            ledger.set_indicator(patient, indicator)


def _decide_report(
    arrival: ArrivalT_contra, report: Report, ledger: Ledger[ArrivalT_contra], rules: IncidentPolicy
) -> None:
    opened = ledger.find_opened(report)
    known = opened if report.withdrawn else opened or ledger.find_told(report)
    if known or report.withdrawn:
        ledger.carry_out(arrival, decide_repeated(report, known), (), known)
        return
    patients = ledger.find_patients(arrival.signal.keys, create=True) if arrival.signal.keys else ()
    view = ledger.view(arrival, patients) if patients else None
    decision = decide_report(report, view, rules, arrival.at)
    ledger.carry_out(arrival, decision, patients, view.current if view else None)
    for patient in patients:
        patient.known = True

"""The one loop of decisions: from what a ledger knows to a decision, and back to the ledger. No I/O.

Intake, replay, the trial before a replay and `leeward hl7 explain` differ in the ledger they give: a rule that stands
here, or in `policy`, holds for all of them.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

from leeward.settings.policy import IncidentPolicy
from services.incident.decisions.claims import Current, Patient, PatientClaim, Report, Signal, SignalDecision
from services.incident.decisions.policy import decide_claim, decide_repeated, decide_report

SHOWS_EVIDENCE: Final = ("evidence", "update")


SignalT_contra = TypeVar("SignalT_contra", bound=Signal, contravariant=True)


class Ledger(Protocol[SignalT_contra]):
    """What is known before a decision, and the account of it afterwards."""

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """Two patients, each by keys, are one."""

    def find_opened(self, report: Report) -> Current | None:
        """The incident that a report under the same reference has made."""

    def find_told(self, report: Report) -> Current | None:
        """The incident that something else had told of before a report under the same reference came."""

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """The patients that these keys lead to; `create`: a new one where there is none."""

    def view(self, signal: SignalT_contra, patients: Sequence[Patient]) -> Patient:
        """These patients as one, as a decision on this signal sees them."""

    def carry_out(
        self, signal: SignalT_contra, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Keep a decision that is about these patients and rests on this incident."""

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """Remember the death indicator of the last message about a patient."""


def decide(signal: SignalT_contra, at: datetime, ledger: Ledger[SignalT_contra], rules: IncidentPolicy) -> None:
    """Decide one signal, whose message came at that time, by what the ledger knows, and hand it the decision."""
    for surviving, prior in signal.merges:
        ledger.merge(surviving, prior)
    if isinstance(signal.said, Report):
        _decide_report(signal, signal.said, at, ledger, rules)
    else:
        _decide_claim(signal, signal.said, at, ledger, rules)


def _decide_claim(
    signal: SignalT_contra, claim: PatientClaim, at: datetime, ledger: Ledger[SignalT_contra], rules: IncidentPolicy
) -> None:
    patients = ledger.find_patients(signal.keys, create=claim.kind in SHOWS_EVIDENCE)
    if not patients:
        return
    view = ledger.view(signal, patients)
    ledger.carry_out(signal, decide_claim(claim, view, rules, at), patients, view.current)
    for patient in patients:
        patient.known = True
        # an empty field changes nothing
        indicator = "" if claim.indicator == "null" else claim.indicator or patient.indicator
        if indicator != patient.indicator:
            ledger.set_indicator(patient, indicator)


def _decide_report(
    signal: SignalT_contra, report: Report, at: datetime, ledger: Ledger[SignalT_contra], rules: IncidentPolicy
) -> None:
    opened = ledger.find_opened(report)
    known = opened if report.withdrawn else opened or ledger.find_told(report)
    if known or report.withdrawn:
        ledger.carry_out(signal, decide_repeated(report, known), (), known)
        return
    patients = ledger.find_patients(signal.keys, create=True) if signal.keys else ()
    view = ledger.view(signal, patients) if patients else None
    decision = decide_report(report, view, rules, at)
    ledger.carry_out(signal, decision, patients, view.current if view else None)
    for patient in patients:
        patient.known = True

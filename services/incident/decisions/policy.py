"""What a message means, by the site's rules: evidence of a death, doubt, a retraction, or nothing. No I/O."""

from datetime import datetime, timedelta
from typing import Final

from leeward.settings.policy import IncidentPolicy
from services.incident.decisions.claims import (
    Action,
    Current,
    Evidence,
    Patient,
    PatientClaim,
    Report,
    SignalDecision,
    Visit,
)

RECENT: Final = timedelta(hours=72)
SKEW: Final = timedelta(hours=1)  # how far ahead a sender's clock may be
STILL_ARRIVING: Final = timedelta(hours=72)  # within this time further feeds of one death add people to it


def decide_claim(claim: PatientClaim, patient: Patient, rules: IncidentPolicy, now: datetime) -> SignalDecision:
    """The decision on what an EHR's message claims, given what is known of its patient."""
    if claim.kind == "cancel":
        return _cancelled(claim, patient.current)
    finding = find_evidence(claim, patient, now)
    if claim.kind == "update" and patient.current and is_withdrawn(claim, patient.current, finding):
        return SignalDecision(Action.RETRACT, ("evidence_withdrawn",))
    if finding is None:
        return SignalDecision(Action.NOTHING, ("no_evidence",))
    return _settled(finding, patient.current, claim.occurred_at or now, rules, now)


def decide_repeated(report: Report, known: Current | None) -> SignalDecision:
    """The decision on a report that is withdrawn, or whose reference stands for an incident that is known."""
    if not report.withdrawn:
        return SignalDecision(Action.ADD, ("known",))
    return SignalDecision(Action.RETRACT if known else Action.NOTHING, ("evidence_withdrawn",))


def decide_report(report: Report, patient: Patient | None, rules: IncidentPolicy, now: datetime) -> SignalDecision:
    """The decision on a report; only a death concerns what is known of a patient."""
    if report.category in rules.review_categories:
        return SignalDecision(Action.REVIEW, ("review_category",))
    finding = report.ruled
    if finding is None and report.severity.level in rules.trigger_levels:
        finding = Evidence("trigger_level", True)
    elif finding is None and report.category in rules.trigger_categories:
        finding = Evidence("trigger_category", True)
    if finding is None:
        return SignalDecision(Action.NOTHING, ("below_threshold",))
    return _settled(finding, patient.current if patient else None, report.occurred_at, rules, now)


def find_evidence(claim: PatientClaim, patient: Patient, now: datetime) -> Evidence | None:
    """What a message says of a death: the site's own rules, then PV1-36, PID-30 and PID-29 (CONTRACT §Inbound)."""
    if claim.ruled:
        return claim.ruled
    if claim.disposition == "dead":
        return Evidence("disposition_denied", False) if claim.indicator == "N" else Evidence("discharged_dead", True)
    if claim.indicator == "Y":
        return _indicated(claim, patient, now)
    if claim.indicator == "N" and claim.death_given:
        return Evidence("death_time_denied", False)
    return None


def _indicated(claim: PatientClaim, patient: Patient, now: datetime) -> Evidence | None:
    if claim.disposition == "living":
        return Evidence("living_disposition", False)
    if patient.known:
        return None if patient.indicator == "Y" else Evidence("indicator_changed", True)
    if claim.death_until and now - RECENT <= claim.death_until <= now + SKEW + timedelta(days=1):
        return Evidence("indicator_recent", True)
    return Evidence("indicator_first_seen", False)


def is_withdrawn(claim: PatientClaim, current: Current, finding: Evidence | None) -> bool:
    """Whether an A08 takes back what its own source had said; an empty field says nothing, so it takes nothing back.

    A death that was confirmed although PID-30 said N is not taken back by another N. What a coordinator has dismissed
    can be taken back too: otherwise a later death would count as known.
    """
    if current.state == "retracted" or claim.source != current.source or claim.disposition == "dead":
        return False
    if claim.indicator == "null" or (claim.indicator == "N" and not current.denied):
        return current.certain or finding is None
    revoked = claim.disposition in ("living", "null") and same_visit(claim.visit, current.visit)
    return revoked and current.by_disposition and claim.indicator != "Y"


def same_visit(one: Visit, other: Visit) -> bool:
    """PV1-19 decides where both have one, else PID-18; two messages without either are of the same, unnamed visit."""
    if one.number and other.number:
        return one.number == other.number
    if one.account and other.account:
        return one.account == other.account
    return not any((*one, *other))


def _cancelled(claim: PatientClaim, current: Current | None) -> SignalDecision:
    if current is None or current.state == "retracted":
        return SignalDecision(Action.NOTHING, ("nothing_to_cancel",))
    if not same_visit(claim.visit, current.visit):
        return SignalDecision(Action.NOTHING, ("other_visit",))
    return SignalDecision(Action.RETRACT, ("visit_cancelled",))


def _settled(
    finding: Evidence, current: Current | None, occurred_at: datetime, rules: IncidentPolicy, now: datetime
) -> SignalDecision:
    """A finding in the light of what there is: one item for review a patient, and a death once."""
    if current and (known := _known(finding, current, now)):
        return known
    late = occurred_at < now - rules.oldest
    reasons = (finding.reason, "older") if late else (finding.reason,)
    return SignalDecision(Action.REVIEW if late or not finding.certain else Action.RECORD, reasons, finding.certain)


def _known(finding: Evidence, current: Current, now: datetime) -> SignalDecision | None:
    """A decision that rests on the patient's present incident, None where a new one is due."""
    if current.state == "retracted" or (finding.certain and not current.certain and current.state != "recorded"):
        return None
    if finding.certain and current.state != "dismissed" and now - current.accepted_at <= STILL_ARRIVING:
        return SignalDecision(Action.ADD, (finding.reason, "known"))
    return SignalDecision(Action.NOTHING, (finding.reason, "known"))

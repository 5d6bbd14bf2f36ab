"""What a message means, by the site's rules: evidence of a death, doubt, a retraction, or nothing. No I/O."""

from datetime import datetime, timedelta
from typing import Final

from leeward.policy import IncidentPolicy
from services.incident.domain import Action, Adt, Current, Decision, Finding, Patient, Report, Visit

EVIDENCE: Final = frozenset({"A01", "A02", "A03", "A04", "A06", "A07", "A08", "A31"})
CANCELS: Final = frozenset({"A11", "A13"})
MERGES: Final = frozenset({"A40"})
EVENTS: Final = EVIDENCE | CANCELS | MERGES
RECENT: Final = timedelta(hours=72)
SKEW: Final = timedelta(hours=1)  # how far ahead a sender's clock may be
STILL_ARRIVING: Final = timedelta(hours=72)  # so long do further feeds of one death add people to it


def decide_adt(adt: Adt, patient: Patient, rules: IncidentPolicy, now: datetime) -> Decision:
    """The decision on an ADT message, given what is known of its patient."""
    if adt.event in CANCELS:
        return _cancelled(adt, patient.current)
    finding = evidence(adt, patient, now)
    if adt.event == "A08" and patient.current and withdrawn(adt, patient.current, finding):
        return Decision(Action.RETRACT, ("evidence_withdrawn",))
    if finding is None:
        return Decision(Action.NOTHING, ("no_evidence",))
    return _settled(finding, patient.current, adt.occurred_at or now, rules, now)


def decide_report(report: Report, patient: Patient | None, rules: IncidentPolicy, now: datetime) -> Decision:
    """The decision on a native report; only a death concerns what is known of a patient."""
    if report.category in rules.review_categories:
        return Decision(Action.REVIEW, ("review_category",))
    if report.severity.level not in rules.trigger_levels and report.category not in rules.trigger_categories:
        return Decision(Action.NOTHING, ("below_threshold",))
    reason = "trigger_level" if report.severity.level in rules.trigger_levels else "trigger_category"
    return _settled(Finding(reason, True), patient.current if patient else None, report.occurred_at, rules, now)


def evidence(adt: Adt, patient: Patient, now: datetime) -> Finding | None:
    """What a message says of a death: CONTRACT §Inbound, PV1-36 before PID-30 before PID-29."""
    if adt.disposition == "dead":
        return Finding("disposition_denied", False) if adt.indicator == "N" else Finding("discharged_dead", True)
    if adt.indicator == "Y":
        return _indicated(adt, patient, now)
    if adt.indicator == "N" and adt.death_given:
        return Finding("death_time_denied", False)
    return None


def _indicated(adt: Adt, patient: Patient, now: datetime) -> Finding | None:
    if adt.disposition == "living":
        return Finding("living_disposition", False)
    if patient.known:
        return None if patient.indicator == "Y" else Finding("indicator_changed", True)
    if adt.death_until and now - RECENT <= adt.death_until <= now + SKEW + timedelta(days=1):
        return Finding("indicator_recent", True)
    return Finding("indicator_first_seen", False)


def withdrawn(adt: Adt, current: Current, finding: Finding | None) -> bool:
    """Whether an A08 takes back what its own source had said; an empty field says nothing, so it takes nothing back."""
    if current.state not in ("recorded", "review") or adt.source != current.source or adt.disposition == "dead":
        return False
    if adt.indicator in ("N", "null"):
        return current.certain or finding is None
    revoked = adt.disposition in ("living", "null") and same_visit(adt.visit, current.visit)
    return revoked and current.by_disposition and adt.indicator != "Y"


def same_visit(one: Visit, other: Visit) -> bool:
    """PV1-19 decides where both have one, else PID-18; two messages without either are of the same, unnamed visit."""
    if one.number and other.number:
        return one.number == other.number
    if one.account and other.account:
        return one.account == other.account
    return not any((*one, *other))


def _cancelled(adt: Adt, current: Current | None) -> Decision:
    if current is None or current.state not in ("recorded", "review"):
        return Decision(Action.NOTHING, ("nothing_to_cancel",))
    if not same_visit(adt.visit, current.visit):
        return Decision(Action.NOTHING, ("other_visit",))
    return Decision(Action.RETRACT, ("visit_cancelled",))


def _settled(
    finding: Finding, current: Current | None, occurred_at: datetime, rules: IncidentPolicy, now: datetime
) -> Decision:
    """A finding in the light of what there is: one item for review a patient, and a death once."""
    if current and (known := _known(finding, current, now)):
        return known
    late = occurred_at < now - rules.oldest
    reasons = (finding.reason, "older") if late else (finding.reason,)
    return Decision(Action.REVIEW if late or not finding.certain else Action.RECORD, reasons, finding.certain)


def _known(finding: Finding, current: Current, now: datetime) -> Decision | None:
    """A decision that rests on the patient's present incident, None where a new one is due."""
    if current.state == "retracted" or (finding.certain and not current.certain and current.state != "recorded"):
        return None
    if finding.certain and current.state != "dismissed" and now - current.accepted_at <= STILL_ARRIVING:
        return Decision(Action.ADD, (finding.reason, "known"))
    return Decision(Action.NOTHING, (finding.reason, "known"))

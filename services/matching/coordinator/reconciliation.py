"""Whether an outcome has led to an offer: for the hospital's own list, never for a person."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, select

from leeward.store.lookup import in_list
from services.matching.cases import repository
from services.matching.cases.candidates import EXPOSURE
from services.matching.cases.repository import CASE, MAY_BE_THERE, REQUEST, StoredRequest
from services.matching.cases.session import ENTRY, PERSON
from services.matching.inputs.incidents import INCIDENT
from services.matching.inputs.retention import SHIFTS_KEPT
from services.matching.lifecycle.case import OVER, Case

AT_ONCE: Final = 5000
# what may be said of an outcome, the best first
CODES: Final = (
    "offered",
    "on_its_way",
    "quiet_time",
    "expected_unit",
    "rehearsal",
    "offer_failed",
    "needs_attention",
    "no_offer",
    "nobody",
    "forgotten",
)
_HERE: Final = PERSON.c.status.in_(("active", "away"))
_FAILED: Final = frozenset({"failed", "expired", "held_too_long"})


def offers(conn: Connection, incident_refs: Iterable[str], now: datetime) -> dict[str, str]:
    """One of CODES for each outcome that matching knows; the best that is true of anybody around it."""
    wanted = sorted(set(incident_refs))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        found |= _offers(conn, {"keys": wanted[start : start + AT_ONCE]}, now)
    return found


def _offers(conn: Connection, keys: Mapping[str, Any], now: datetime) -> dict[str, str]:
    outcomes = conn.execute(select(INCIDENT).where(in_list(INCIDENT.c.incident_ref)), keys).all()
    entries = select(ENTRY.c.about).where(in_list(ENTRY.c.about), ENTRY.c.kind == "nobody_to_reach")
    nobody = set(conn.execute(entries, keys).scalars())
    around = _around(conn, keys, now)
    found = {}
    for row in outcomes:
        fresh = row.incident_ref in nobody or row.occurred_at > now - SHIFTS_KEPT
        found[row.incident_ref] = _code(row, around.get(row.incident_ref, []), fresh=fresh)
    return found


def _code(outcome: Any, around: Sequence[str], *, fresh: bool) -> str:
    """`fresh`: if somebody had been around it, it would still be known."""
    if outcome.offered:
        return "offered"
    if outcome.expected:
        return "expected_unit"
    if around:
        return min(around, key=CODES.index)
    return "nobody" if fresh else "forgotten"


def _around(conn: Connection, keys: Mapping[str, Any], now: datetime) -> dict[str, list[str]]:
    """A code for everybody around each outcome, in no order."""
    query = (
        select(EXPOSURE.c.incident_ref, EXPOSURE.c.who, PERSON.c.quiet_until)
        .join(PERSON, PERSON.c.person_ref == EXPOSURE.c.who)
        .where(in_list(EXPOSURE.c.incident_ref), EXPOSURE.c.reviewer.is_(False), _HERE)
    )
    exposures = conn.execute(query, keys).all()
    tied = select(CASE.c.case_ref).where(in_list(CASE.c.incident_ref))
    busy = select(EXPOSURE.c.who).where(in_list(EXPOSURE.c.incident_ref))
    cases = [
        repository.case_of(row)
        for row in conn.execute(
            repository.SELECT_CASES.where(CASE.c.case_ref.in_(tied) | CASE.c.person_ref.in_(busy)), keys
        )
    ]
    states = _states(conn, cases)
    found: defaultdict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.incident_ref:
            found[case.incident_ref].append(states[case.case_ref])
    served = {case.person_ref: case for case in cases if case.stage not in OVER}
    for incident_ref, who, quiet_until in exposures:
        other = served.get(who)
        if other is None or other.incident_ref != incident_ref:
            quiet = bool(quiet_until and quiet_until > now)
            found[incident_ref].append(_elsewhere(states[other.case_ref] if other else "", quiet=quiet))
    return found


def _elsewhere(state: str, *, quiet: bool) -> str:
    """Of somebody without a case for this outcome, whose case for another one is in that state."""
    if state in ("offered", "on_its_way") or (not state and quiet):
        return "quiet_time"
    return state or "no_offer"


def _states(conn: Connection, cases: Sequence[Case]) -> dict[str, str]:
    asked: defaultdict[str | None, list[StoredRequest]] = defaultdict(list)
    refs = [case.case_ref for case in cases]
    for start in range(0, len(refs), AT_ONCE):
        these = REQUEST.c.case_ref.in_(refs[start : start + AT_ONCE])
        for one in repository.requests(conn, these, REQUEST.c.template == "offer"):
            asked[one.case_ref].append(one)
    return {case.case_ref: _state(case, asked[case.case_ref]) for case in cases}


def _state(case: Case, asked: Sequence[StoredRequest]) -> str:
    outcomes = {one.outcome for one in asked}
    if case.supporter or case.supported or outcomes & MAY_BE_THERE:
        return "offered"
    if "rehearsal" in case.notes:
        return "rehearsal"
    if outcomes & _FAILED:
        return "offer_failed"
    if case.attention or case.over:
        return "needs_attention" if case.attention else "no_offer"
    return "on_its_way"

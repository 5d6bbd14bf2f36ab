"""Whether an incident has led to an offer: for the hospital's own list, never for a person."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from leeward.store.lookup import AT_ONCE
from services.matching.cases.repository import MAY_BE_THERE
from services.matching.coordinator import queries
from services.matching.inputs.retention import SHIFTS_KEPT
from services.matching.lifecycle.case import OVER, Case

# what may be said of an incident, the best first
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
_FAILED: Final = frozenset({"failed", "expired", "held_too_long"})


def offers(conn: Connection, incident_refs: Iterable[str], now: datetime) -> dict[str, str]:
    """One of CODES for each incident that matching knows; the best that is true of anybody around it."""
    wanted = sorted(set(incident_refs))
    found: dict[str, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        found |= _offers(conn, wanted[start : start + AT_ONCE], now)
    return found


def _offers(conn: Connection, incident_refs: Sequence[str], now: datetime) -> dict[str, str]:
    nobody = queries.with_nobody_to_reach(conn, incident_refs)
    around = _codes_around(conn, incident_refs, now)
    found = {}
    for row in queries.read_incidents(conn, incident_refs):
        if row.offered:
            code = "offered"
        elif row.expected:
            code = "expected_unit"
        elif codes := around.get(row.incident_ref):
            code = min(codes, key=CODES.index)
        elif row.incident_ref in nobody or row.occurred_at > now - SHIFTS_KEPT:
            # if somebody had been around it, it would still be known
            code = "nobody"
        else:
            code = "forgotten"
        found[row.incident_ref] = code
    return found


def _codes_around(conn: Connection, incident_refs: Sequence[str], now: datetime) -> dict[str, list[str]]:
    """A code for everybody around each incident, in no order."""
    cases = queries.cases_around(conn, incident_refs)
    outcomes = queries.offer_outcomes(conn, (case.case_ref for case in cases))
    codes = {case.case_ref: _code(case, outcomes.get(case.case_ref, set())) for case in cases}
    found: defaultdict[str, list[str]] = defaultdict(list)
    for case in cases:
        if case.incident_ref:
            found[case.incident_ref].append(codes[case.case_ref])
    served = {case.person_ref: case for case in cases if case.stage not in OVER}
    for incident_ref, who, quiet_until in queries.read_around(conn, incident_refs):
        other = served.get(who)
        if other and other.incident_ref == incident_ref:
            continue
        # of somebody without a case for this incident, what their case for another one says
        code = codes[other.case_ref] if other else ""
        quiet = bool(quiet_until and quiet_until > now)
        if code in ("offered", "on_its_way") or (not code and quiet):
            code = "quiet_time"
        found[incident_ref].append(code or "no_offer")
    return found


def _code(case: Case, outcomes: set[str | None]) -> str:
    """What a case says of its incident; `outcomes` are those of its offers."""
    if case.supporter or case.supported or outcomes & MAY_BE_THERE:
        return "offered"
    if "rehearsal" in case.notes:
        return "rehearsal"
    if outcomes & _FAILED:
        return "offer_failed"
    if case.attention or case.over:
        return "needs_attention" if case.attention else "no_offer"
    return "on_its_way"

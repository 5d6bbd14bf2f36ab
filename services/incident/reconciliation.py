"""The hospital's own list of severe outcomes beside what incident knows, and the figures that are kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from leeward import telemetry
from leeward.people import Fault, RosterError, csv_rows
from leeward.service import Task
from leeward.store import Store, Unit
from leeward.store.periodic import every
from services.incident import repository
from services.incident.decisions.claims import Identifier
from services.incident.hashing import Hasher
from services.incident.intake.repository import find_reported, find_told
from services.incident.sources.native.table import TableError, header_faults, identifiers

NEEDED: Final = ("occurred_at", "unit")
COLUMNS: Final = (*NEEDED, "patient", "source", "source_ref")
# a list and a feed may mean the end of a stay and the moment of an outcome: so far apart, they are the same
APART: Final = timedelta(days=3)
NEAR: Final = timedelta(hours=1)
EVERY: Final = 60.0
ALL: Final = ""  # the row that counts every outcome of the list
_STATES: Final = {"review": "in_review", "dismissed": "dismissed", "retracted": "retracted", "recorded": ""}


@dataclass(frozen=True, slots=True)
class ListedOutcome:
    """One outcome of the list; it happened in [at, until]. Lives in memory only."""

    line: int
    at: datetime
    until: datetime
    unit: str
    patient: Identifier | None
    source: str
    source_ref: str


class ReconciledRow(NamedTuple):
    """What incident knows of one outcome: a reason why nobody is offered anything, or "" and the incident recorded."""

    line: int
    reason: str
    incident_ref: str = ""


# ---- the list


def read_list(raw: bytes) -> list[ListedOutcome]:
    """The outcomes of a CSV file.

    Raises:
        TableError: naming lines, columns and rules, never a value.
    """
    try:
        (_, header), *rows = csv_rows(raw) or [(1, [])]
    except RosterError as fault:
        raise TableError(fault.faults) from None
    rows = [(line, row) for line, row in rows if any(row)]
    faults = list(header_faults(header, NEEDED, COLUMNS))
    if "patient" not in header and not {"source", "source_ref"} <= set(header):
        rule = "is missing from the header; or name source and source_ref"
        faults.insert(sum(name not in header for name in NEEDED), Fault(1, "patient", rule))
    faults += [
        Fault(line, "row", "has more or fewer cells than the header") for line, row in rows if len(row) != len(header)
    ]
    if faults:
        raise TableError(faults)
    outcomes = []
    for line, row in rows:
        outcome = _read_row(line, dict(zip(header, row, strict=True)))
        if isinstance(outcome, ListedOutcome):
            outcomes.append(outcome)
        else:
            faults += outcome
    if faults:
        raise TableError(faults)
    return outcomes


def _read_row(line: int, record: Mapping[str, str]) -> ListedOutcome | list[Fault]:
    faults: list[Fault] = []
    span, pairs = _span(record["occurred_at"]), identifiers(record.get("patient", ""))
    if span is None:
        rule = "must be a time with its offset such as 2026-11-21T08:40:00Z, or a day"
        faults.append(Fault(line, "occurred_at", rule))
    if not record["unit"]:
        faults.append(Fault(line, "unit", "is needed"))
    if pairs is None or len(pairs) > 1:
        faults.append(Fault(line, "patient", "must be one system=value"))
    by_ref = [bool(record.get(name)) for name in ("source", "source_ref")]
    if any(by_ref) and not all(by_ref):
        faults.append(Fault(line, "source_ref", "and source are needed together"))
    elif not any(by_ref) and pairs == []:
        faults.append(Fault(line, "patient", "is needed, or source and source_ref"))
    if faults or span is None:
        return faults
    patient = Identifier(pairs[0]["system"], pairs[0]["value"]) if pairs else None
    return ListedOutcome(line, *span, record["unit"], patient, record.get("source", ""), record.get("source_ref", ""))


def _span(cell: str) -> tuple[datetime, datetime] | None:
    """A moment, or a day from its first moment anywhere on earth to its last."""
    try:
        given = date.fromisoformat(cell) if len(cell) == 10 else datetime.fromisoformat(cell)
        # days are added to it, and 9999 is what some write for a time they do not know
        if not 1900 <= given.year < 9999:
            return None
        if not isinstance(given, datetime):
            day = datetime.combine(given, time(0), UTC)
            return day - timedelta(hours=14), day + timedelta(hours=36)
        return (given.astimezone(UTC), given.astimezone(UTC)) if given.tzinfo else None
    except ValueError:
        return None


# ---- beside what is known


def reconcile_rows(conn: Connection, listed: Sequence[ListedOutcome], hasher: Hasher) -> list[ReconciledRow]:
    """What incident knows of each."""
    if not listed:
        return []
    refs = [
        hasher.of_message(b"source_ref", one.source.encode(), one.source_ref.encode()) if one.source_ref else ""
        for one in listed
    ]
    keys = [hasher.of_patient(one.patient) if one.patient else "" for one in listed]
    given = set(refs) - {""}
    by_ref = find_told(conn, given) | find_reported(conn, given)
    by_patient = repository.find_by_patient(conn, set(keys) - {""})
    rows = [by_ref.get(ref) or by_patient.get(key) for ref, key in zip(refs, keys, strict=True)]
    taken = {row.incident_ref for row in rows if row}
    first, last = min(one.at for one in listed), max(one.until for one in listed)
    around = repository.list_between(conn, first - NEAR, last + NEAR)
    loose = [row for row in around if row.incident_ref not in taken]
    return [_reconcile(one, row, loose) for one, row in zip(listed, rows, strict=True)]


def _reconcile(one: ListedOutcome, row: Any, loose: Sequence[Any]) -> ReconciledRow:
    """One outcome beside its own incident, else beside those of its time that nothing of the list leads to."""
    if row is None:
        near = any(other.unit == one.unit and _within(one, other.occurred_at, NEAR) for other in loose)
        return ReconciledRow(one.line, "unlinked" if near else "no_incident")
    if not one.source_ref and not _within(one, row.occurred_at, APART):
        return ReconciledRow(one.line, "other_time")
    return ReconciledRow(one.line, _STATES[row.state], row.incident_ref)


def _within(one: ListedOutcome, at: datetime, span: timedelta) -> bool:
    return one.at - span <= at <= one.until + span


# ---- the figures


def keep_figures(unit: Unit, outcomes: int, missing: Mapping[str, int]) -> None:
    """Keep what came of the last list, in numbers, in place of the one before."""
    repository.replace_figures(unit.conn, {ALL: outcomes, **missing}, unit.now)


def show_figures(conn: Connection) -> None:
    """Set the gauges to what is kept."""
    telemetry.RECONCILIATION_MISSING.clear()
    for reason, row in repository.read_figures(conn).items():
        if reason == ALL:
            telemetry.RECONCILIATION_OUTCOMES.set(row.outcomes)
            telemetry.RECONCILIATION_TIME.set(row.made_at.timestamp())
        else:
            telemetry.RECONCILIATION_MISSING.labels(reason).set(row.outcomes)


def watch_figures(store: Store) -> Task:
    """Every minute: show what the command has left in the database."""
    return every(EVERY, partial(store.read, show_figures), store.clock)


def summarize(conn: Connection) -> dict[str, Any] | None:
    """For `leeward status`: the day of the last list, how many outcomes it had and how many of them were missing."""
    counts = repository.read_figures(conn)
    if not counts:
        return None
    total = counts.pop(ALL)
    missing = sum(row.outcomes for row in counts.values())
    return {"day": total.made_at.date().isoformat(), "outcomes": total.outcomes, "missing": missing}

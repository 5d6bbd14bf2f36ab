"""The hospital's own list of severe outcomes beside what incident knows, and the figures that are kept of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, func, select

from leeward import telemetry
from leeward.people import Fault, RosterError, csv_rows
from leeward.service import Task
from leeward.store import Insert, Store, Unit
from leeward.store.lookup import in_list, rows_of
from leeward.store.periodic import every
from services.incident.decisions.claims import Identifier
from services.incident.hashing import Hasher
from services.incident.intake.batch import FIND_TOLD, INCIDENT, INVOLVED, LINK
from services.incident.models import PatientKey, PatientRow, Reconciliation, table_of
from services.incident.sources.native.table import TableError, identifiers

NEEDED: Final = ("occurred_at", "unit")
COLUMNS: Final = (*NEEDED, "patient", "source", "source_ref")
# a list and a feed may mean the end of a stay and the moment of an outcome: so far apart, they are the same
APART: Final = timedelta(days=3)
NEAR: Final = timedelta(hours=1)
EVERY: Final = 60.0
ALL: Final = ""  # the row that counts every outcome of the list
_STATES: Final = {"review": "in_review", "dismissed": "dismissed", "retracted": "retracted", "recorded": ""}
_FIGURES: Final = table_of(Reconciliation)
_KEPT: Final = Insert(_FIGURES, ("reason", "outcomes", "made_at"))
_KEY: Final = table_of(PatientKey)
_PATIENT: Final = table_of(PatientRow)
_BY_PATIENT: Final = (
    select(_KEY.c.key_hash.label("fingerprint"), INCIDENT)
    .join(_PATIENT, _PATIENT.c.patient_ref == _KEY.c.patient_ref)
    .join(INCIDENT, INCIDENT.c.incident_ref == _PATIENT.c.incident_ref)
    .where(in_list(_KEY.c.key_hash))
)
_BY_REF: Final = select(INCIDENT.c.source_ref.label("fingerprint"), INCIDENT).where(in_list(INCIDENT.c.source_ref))


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
    faults = [*_header_faults(header), *(_width(line) for line, row in rows if len(row) != len(header))]
    records = [] if faults else [(line, dict(zip(header, row, strict=True))) for line, row in rows]
    faults += [fault for line, record in records for fault in _row_faults(line, record)]
    if faults:
        raise TableError(faults)
    return [_listed(line, record) for line, record in records]


def _header_faults(header: Sequence[str]) -> Iterator[Fault]:
    for name in NEEDED:
        if name not in header:
            yield Fault(1, name, "is missing from the header")
    if "patient" not in header and not {"source", "source_ref"} <= set(header):
        yield Fault(1, "patient", "is missing from the header; or name source and source_ref")
    for number, name in enumerate(header, 1):
        if name not in COLUMNS:
            yield Fault(1, f"column {number}", "is not a known column")
    if len(set(header)) != len(header):
        yield Fault(1, "header", "names a column twice")


def _width(line: int) -> Fault:
    return Fault(line, "row", "has more or fewer cells than the header")


def _row_faults(line: int, record: Mapping[str, str]) -> Iterator[Fault]:
    if _span(record["occurred_at"]) is None:
        yield Fault(line, "occurred_at", "must be a time with its offset such as 2026-11-21T08:40:00Z, or a day")
    if not record["unit"]:
        yield Fault(line, "unit", "is needed")
    pairs = identifiers(record.get("patient", ""))
    if pairs is None or len(pairs) > 1:
        yield Fault(line, "patient", "must be one system=value")
    by_ref = [bool(record.get(name)) for name in ("source", "source_ref")]
    if any(by_ref) and not all(by_ref):
        yield Fault(line, "source_ref", "and source are needed together")
    elif not any(by_ref) and pairs == []:
        yield Fault(line, "patient", "is needed, or source and source_ref")


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


def _listed(line: int, record: Mapping[str, str]) -> ListedOutcome:
    span, pairs = _span(record["occurred_at"]), identifiers(record.get("patient", ""))
    assert span is not None
    patient = Identifier(pairs[0]["system"], pairs[0]["value"]) if pairs else None
    return ListedOutcome(line, *span, record["unit"], patient, record.get("source", ""), record.get("source_ref", ""))


# ---- beside what is known


def reconcile_rows(conn: Connection, listed: Sequence[ListedOutcome], hasher: Hasher) -> list[ReconciledRow]:
    """What incident knows of each."""
    refs = {_fingerprint_of(one, hasher) for one in listed if one.source_ref}
    by_ref = _found(conn, FIND_TOLD, refs) | _found(conn, _BY_REF, refs)
    by_patient = _found(conn, _BY_PATIENT, {hasher.of_patient(one.patient) for one in listed if one.patient})
    rows = [by_ref.get(_fingerprint_of(one, hasher)) or _of_patient(one, by_patient, hasher) for one in listed]
    taken = {row.incident_ref for row in rows if row}
    loose = [row for row in _around(conn, listed) if row.incident_ref not in taken]
    return [_standing(one, row, loose) for one, row in zip(listed, rows, strict=True)]


def _of_patient(one: ListedOutcome, found: Mapping[str, Any], hasher: Hasher) -> Any:
    return found.get(hasher.of_patient(one.patient)) if one.patient else None


def _fingerprint_of(one: ListedOutcome, hasher: Hasher) -> str:
    return hasher.of_message(b"source_ref", one.source.encode(), one.source_ref.encode())


def _found(conn: Connection, statement: Any, keys: set[str]) -> dict[str, Any]:
    return {row.fingerprint: row for row in rows_of(conn, statement, keys)}


def _around(conn: Connection, listed: Sequence[ListedOutcome]) -> list[Any]:
    """Incidents of the list's time that are not over."""
    if not listed:
        return []
    first, last = min(one.at for one in listed), max(one.until for one in listed)
    span = INCIDENT.c.occurred_at.between(first - NEAR, last + NEAR)
    return list(conn.execute(select(INCIDENT).where(span, INCIDENT.c.state.in_(("review", "recorded")))))


def _standing(one: ListedOutcome, row: Any, loose: Sequence[Any]) -> ReconciledRow:
    if row is None:
        near = any(other.unit == one.unit and _within(one, other.occurred_at, NEAR) for other in loose)
        return ReconciledRow(one.line, "unlinked" if near else "no_incident")
    if not one.source_ref and not _within(one, row.occurred_at, APART):
        return ReconciledRow(one.line, "other_time")
    return ReconciledRow(one.line, _STATES[row.state], row.incident_ref)


def _within(one: ListedOutcome, at: datetime, span: timedelta) -> bool:
    return one.at - span <= at <= one.until + span


def find_waiting(conn: Connection, incident_refs: Sequence[str]) -> set[str]:
    """Of incidents those that name identifiers of the work queue, and nobody on the roster."""
    known = select(INVOLVED.c.incident_ref).where(in_list(INVOLVED.c.incident_ref), INVOLVED.c.reviewer.is_(False))
    queued = select(LINK.c.incident_ref).where(in_list(LINK.c.incident_ref), LINK.c.reviewer.is_(False))
    there = {row.incident_ref for row in rows_of(conn, known, incident_refs)}
    return {row.incident_ref for row in rows_of(conn, queued, incident_refs)} - there


# ---- the figures


def keep_figures(unit: Unit, outcomes: int, missing: Mapping[str, int]) -> None:
    """Keep what came of the last list, in numbers, in place of the one before."""
    unit.conn.execute(delete(_FIGURES))
    _KEPT.run(unit.conn, [(ALL, outcomes, unit.now), *((reason, n, unit.now) for reason, n in missing.items())])


def show_figures(conn: Connection) -> None:
    """Set the gauges to what is kept."""
    rows = {row.reason: row for row in conn.execute(select(_FIGURES))}
    telemetry.RECONCILIATION_MISSING.clear()
    for reason, row in rows.items():
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
    made_at = conn.execute(select(func.max(_FIGURES.c.made_at))).scalar()
    if made_at is None:
        return None
    counts = {row.reason: row.outcomes for row in conn.execute(select(_FIGURES))}
    total = counts.pop(ALL)
    return {"day": made_at.date().isoformat(), "outcomes": total, "missing": sum(counts.values())}

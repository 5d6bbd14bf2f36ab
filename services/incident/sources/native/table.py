"""Native reports as a table (CONTRACT §Inbound): the CSV export of an incident system, checked whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from leeward.people import Fault, RosterError, csv_rows, split
from services.incident.sources.native.report import NativeIncident

NEEDED: Final = (
    "source_ref",
    "occurred_at",
    "category",
    "severity_scheme",
    "severity_code",
    "unit",
    "involved",
)
COLUMNS: Final = (*NEEDED, "urgency", "patient", "reviewers")
MOST_ROWS: Final = 1000
_PEOPLE: Final = ("involved", "reviewers")
_PAIRS: Final = "must be system=value, joined by ;"


class TableError(Exception):
    """A table that was refused whole, with every fault by line (1 is the header) and column."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(f"{len(faults)} fault(s)")
        self.faults = list(faults)


def read_table(raw: bytes) -> list[NativeIncident]:
    """The reports of a CSV file: one a row, the names of the JSON in its header.

    Raises:
        TableError: naming lines, columns and rules, never a value.
    """
    try:
        header, *rows = csv_rows(raw) or [(1, [])]
    except RosterError as fault:
        raise TableError(fault.faults) from None
    rows = [(line, row) for line, row in rows if any(row)]
    faults = list(_table_faults(header[1], rows))
    if faults:
        raise TableError(faults)
    records = [(line, dict(zip(header[1], row, strict=True))) for line, row in rows]
    reports = [(line, _report(line, record)) for line, record in records]
    faults = [fault for _, found in reports if isinstance(found, list) for fault in found]
    good = [(line, found) for line, found in reports if isinstance(found, NativeIncident)]
    first: dict[str, int] = {}
    for line, report in good:
        if (earlier := first.setdefault(report.source_ref, line)) != line:
            faults.append(Fault(line, "source_ref", f"is the same as in line {earlier}"))
    if faults:
        raise TableError(sorted(faults, key=lambda fault: (fault.line, fault.column)))
    return [found for _, found in good]


def _table_faults(header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> Iterator[Fault]:
    """What must be right before a cell is looked at."""
    yield from header_faults(header, NEEDED, COLUMNS)
    if not rows:
        yield Fault(2, "file", "holds no report")
    if len(rows) > MOST_ROWS:
        yield Fault(rows[MOST_ROWS][0], "file", f"has more than {MOST_ROWS} rows; send it in several files")
    for line, row in rows:
        if len(row) != len(header):
            yield Fault(line, "row", f"has {len(row)} cells; the header has {len(header)}")


def header_faults(header: Sequence[str], needed: Sequence[str], columns: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with a header, by the columns that a table needs and may have."""
    for name in needed:
        if name not in header:
            yield Fault(1, name, "is missing from the header")
    for number, name in enumerate(header, 1):
        if name not in columns:
            yield Fault(1, f"column {number}", "is not a known column")
    if len(set(header)) != len(header):
        yield Fault(1, "header", "names a column twice")


def _report(line: int, record: Mapping[str, str]) -> NativeIncident | list[Fault]:
    given: dict[str, Any] = {name: record[name] for name in ("source_ref", "occurred_at", "category", "unit")}
    given["severity"] = {"scheme": record["severity_scheme"], "code": record["severity_code"]}
    if urgency := record.get("urgency"):
        given["urgency"] = urgency
    faults = []
    for name in ("patient", *_PEOPLE):
        pairs = identifiers(record.get(name, ""))
        if pairs is None or (name == "patient" and len(pairs) > 1):
            faults.append(Fault(line, name, _PAIRS if name in _PEOPLE else "must be one system=value"))
        elif name in _PEOPLE:
            given[name] = pairs
        elif pairs:
            given[name] = pairs[0]
    try:
        report = NativeIncident.model_validate({"involved": (), **given})
    except ValidationError as fault:
        for error in fault.errors(include_input=False, include_url=False):
            # where the JSON's place stands in the table
            first, *rest = error["loc"]
            part = (rest[0] if rest else error["ctx"]["part"]) if first == "severity" else ""
            faults.append(Fault(line, f"severity_{part}" if part else str(first), error["msg"]))
        return faults
    return faults or report


def identifiers(cell: str) -> list[dict[str, str]] | None:
    """The identifiers of a cell, None where one of them is not `system=value`."""
    pairs = [part.partition("=") for part in split(cell)]
    if not all(system.strip() and value.strip() for system, _, value in pairs):
        return None
    return [{"system": system.strip(), "value": value.strip()} for system, _, value in pairs]

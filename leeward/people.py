"""People as a roster gives them: parsing, checking, and the references that stand for them everywhere else.

`staff_id` never leaves this module's callers: services see `person_ref` and `recipient_ref`, two HMACs of it that look
random and have nothing in common, and identifiers only as keyed hashes.
"""

import csv
import hmac
import io
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from email.utils import parseaddr
from functools import cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import available_timezones

COLUMNS: Final = (
    "staff_id",
    "identifiers",
    "display_name",
    "profession",
    "unit",
    "line_managers",
    "languages",
    "email",
    "mobile",
    "timezone",
    "status",
    "supporter",
    "introduction",
    "training_completed",
    "training_expires",
    "max_active",
)
STATUSES: Final = ("active", "away", "left", "deceased")
GONE: Final = frozenset({"left", "deceased"})


@dataclass(frozen=True, slots=True)
class Member:
    """One person of the roster as services may take it: references instead of `staff_id`.

    `identifiers` are (system, opaque value); `line_managers` are person_refs; `languages` are BCP 47 tags; `max_active`
    is None where the site's own cap holds. Each service's import keeps only what that service may know.
    """

    person_ref: str
    recipient_ref: str
    identifiers: tuple[tuple[str, str], ...]
    display_name: str
    profession: str
    unit: str
    line_managers: tuple[str, ...]
    languages: tuple[str, ...]
    email: str
    mobile: str
    timezone: str
    status: str
    supporter: bool
    introduction: str
    training_completed: date | None
    training_expires: date | None
    max_active: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a roster: its line (1 is the header), column and the rule; never the value."""

    line: int
    column: str
    rule: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.column}: {self.rule}"


class RosterError(Exception):
    """A file that was refused whole, with every fault that was found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(f"{len(faults)} fault(s)")
        self.faults = list(faults)


def keyed_hash(key: bytes, *parts: str) -> str:
    """Hex HMAC-SHA256 of parts, each with its length before it, so that no two lists of parts run together."""
    message = b"".join([len(raw).to_bytes(4, "big") + raw for raw in [part.encode() for part in parts]])
    return hmac.digest(key, message, "sha256").hex()


def person_ref(key: bytes, staff_id: str) -> str:
    """The reference known to incident and matching; looks like a UUIDv4."""
    return _ref(key, "person", staff_id)


def recipient_ref(key: bytes, staff_id: str) -> str:
    """The reference known to notify and matching; looks like a UUIDv4."""
    return _ref(key, "recipient", staff_id)


def _ref(key: bytes, kind: str, staff_id: str) -> str:
    digest = bytes.fromhex(keyed_hash(key, kind, staff_id))
    return str(uuid.UUID(bytes=digest[:16], version=4))


Record = Mapping[str, str]
Rows = Iterable[tuple[int, Sequence[str]]]


def read_roster(path: Path) -> list[Record]:
    """The rows of a CSV or XLSX roster by column, validated whole; no key is needed for that.

    Raises:
        RosterError: with every fault by line and column.
        OSError: when the file cannot be read.
    """
    raw = path.read_bytes()
    return check_rows(_xlsx_rows(raw) if path.suffix.lower() == ".xlsx" else csv_rows(raw))


def members(records: Iterable[Record], key: bytes) -> list[Member]:
    """The people of a roster, by the references that the people key makes."""
    return [_member(record, key) for record in records]


def check_rows(rows: Rows) -> list[Record]:
    """Records from numbered rows, the first of which is the header.

    Raises:
        RosterError: with every fault by line and column.
    """
    numbered = list(rows)
    _check_header(numbered[0][1] if numbered else ())
    header = numbered[0][1]
    rows = [(line, row) for line, row in numbered[1:] if any(row)]
    faults = [
        Fault(line, "row", f"has {len(row)} cells; the header has {len(COLUMNS)}")
        for line, row in rows
        if len(row) != len(header)
    ]
    if not rows:
        # whoever is missing from a file has left: an empty one would end everything for everybody
        faults.append(Fault(2, "file", "names nobody"))
    records: list[tuple[int, Record]] = [
        (line, dict(zip(header, row, strict=True))) for line, row in rows if len(row) == len(header)
    ]
    # a row that is shifted may be the very one that another row names
    faults += [] if faults else _table_faults(records)
    faults += [fault for line, record in records for fault in _row_faults(line, record)]
    if faults:
        raise RosterError(sorted(faults, key=lambda fault: (fault.line, fault.column)))
    return [record for _, record in records]


def csv_rows(raw: bytes) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file in UTF-8, each with the number of its first line; cells without blanks around them.

    Raises:
        RosterError: naming the line where it is not one.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = raw[: fault.start].count(b"\n") + 1
        raise RosterError([Fault(line, "file", "is not UTF-8")]) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for row in reader:
            rows.append((line, [cell.strip() for cell in row]))
            # a cell may hold line breaks; a row is named by its first line
            line = reader.line_num + 1
    except csv.Error:
        raise RosterError([Fault(line, "file", "is not CSV (a quote is not closed or misplaced)")]) from None
    return rows


def _xlsx_rows(raw: bytes) -> Rows:
    from openpyxl import load_workbook

    try:
        with closing(load_workbook(io.BytesIO(raw), read_only=True, data_only=True)) as book:
            rows = [[_cell(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
    except Exception:  # a damaged workbook raises whatever its zip, its XML or its cells make of it
        raise RosterError([Fault(1, "file", "is not an .xlsx workbook")]) from None
    width = max((n for n, cell in enumerate(rows[0], 1) if cell), default=0) if rows else 0
    # a workbook leaves empty cells out, or adds some: each row becomes as wide as the header
    filled = [row + [""] * (width - len(row)) for row in rows]
    return [(n, row if any(row[width:]) else row[:width]) for n, row in enumerate(filled, 1)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if hasattr(value, "date"):
        return str(value.date().isoformat())
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def _check_header(header: Sequence[str]) -> None:
    """Every column once and no other.

    Raises:
        RosterError: with every fault.
    """
    faults = [Fault(1, name, "is missing from the header") for name in COLUMNS if name not in header]
    faults += [
        Fault(1, f"column {n}", "is not a known column") for n, name in enumerate(header, 1) if name not in COLUMNS
    ]
    if len(set(header)) != len(header):
        faults.append(Fault(1, "header", "names a column twice"))
    if faults:
        raise RosterError(faults)


# as wide as the services' columns: what does not fit is said here, by line, and not by a database
WIDEST: Final = {"display_name": 200, "profession": 200, "unit": 200, "languages": 200, "introduction": 2000}


def _row_faults(line: int, record: Record) -> list[Fault]:
    faults = [Fault(line, column, rule) for column, check in _CHECKS.items() if (rule := check(record[column]))]
    for column in COLUMNS:
        # an introduction alone may have several lines
        cell = "".join(record[column].splitlines()) if column == "introduction" else record[column]
        if not cell.replace("\t", " ").isprintable():
            faults.append(Fault(line, column, "holds a character that cannot be printed"))
    long = [column for column, most in WIDEST.items() if len(record[column]) > most]
    return faults + [Fault(line, column, f"is longer than {WIDEST[column]} characters") for column in long]


def _table_faults(records: Sequence[tuple[int, Record]]) -> list[Fault]:
    """What only the whole table shows: doubles, and line managers that are not in it."""
    faults: list[Fault] = []
    known = {record.get("staff_id", "") for _, record in records}
    seen: dict[tuple[str, str], int] = {}
    for line, record in records:
        keys = [("staff_id", record.get("staff_id", ""))]
        if email := record.get("email", ""):
            keys.append(("email", email.lower()))
        keys += [("identifiers", value) for value in dict.fromkeys(split(record.get("identifiers", "")))]
        for key in keys:
            first = seen.setdefault(key, line)
            if first != line:
                faults.append(Fault(line, key[0], f"is the same as in line {first}"))
        if not set(split(record.get("line_managers", ""))) <= known:
            faults.append(Fault(line, "line_managers", "names a staff_id that is not in this file"))
        if record.get("staff_id", "") in split(record.get("line_managers", "")):
            faults.append(Fault(line, "line_managers", "names the person's own staff_id"))
    return faults


def split(cell: str) -> list[str]:
    """The parts of a `;` list."""
    return [part.strip() for part in cell.split(";") if part.strip()]


def _member(record: Record, key: bytes) -> Member:
    identifiers = [part.partition("=") for part in split(record["identifiers"])]
    return Member(
        person_ref=person_ref(key, record["staff_id"]),
        recipient_ref=recipient_ref(key, record["staff_id"]),
        identifiers=tuple((system.strip(), value.strip()) for system, _, value in identifiers),
        display_name=record["display_name"],
        profession=record["profession"],
        unit=record["unit"],
        line_managers=tuple(person_ref(key, manager) for manager in split(record["line_managers"])),
        languages=tuple(split(record["languages"])),
        email=record["email"],
        mobile=record["mobile"],
        timezone=record["timezone"] or "UTC",
        status=record["status"] or "active",
        supporter=record["supporter"] == "yes",
        introduction=record["introduction"],
        training_completed=_date(record["training_completed"]),
        training_expires=_date(record["training_expires"]),
        max_active=int(record["max_active"]) if record["max_active"] else None,
    )


def _date(cell: str) -> date | None:
    return date.fromisoformat(cell) if cell else None


def _needed(cell: str) -> str:
    return "" if cell else "is needed"


def _matches(pattern: str, rule: str) -> Callable[[str], str]:
    return lambda cell: "" if not cell or re.fullmatch(pattern, cell) else rule


def _each_matches(pattern: str, rule: str) -> Callable[[str], str]:
    return lambda cell: "" if all(re.fullmatch(pattern, part) for part in split(cell)) else rule


def _one_of(*allowed: str) -> Callable[[str], str]:
    return lambda cell: "" if not cell or cell in allowed else f"must be one of {', '.join(allowed)}"


def _email(cell: str) -> str:
    good = not cell or (
        parseaddr(cell)[1] == cell and len(cell) <= 254 and re.fullmatch(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+", cell)
    )
    return "" if good else "must be one e-mail address"


@cache
def _zone(cell: str) -> str:
    return "" if not cell or cell in available_timezones() else "must be an IANA time zone such as Europe/Berlin"


def _iso_date(cell: str) -> str:
    try:
        _date(cell)
    except ValueError:
        return "must be a date such as 2026-11-21"
    return ""


_CHECKS: Final[Mapping[str, Callable[[str], str]]] = {
    "staff_id": _needed,
    "identifiers": _each_matches(r"[^=\s]+=\S.*", "must be system=value, joined by ;"),
    "display_name": _needed,
    "languages": _each_matches(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", "must be BCP 47 tags joined by ;"),
    "email": _email,
    "mobile": _matches(r"\+?[0-9][0-9 ()./-]{4,24}", "must be a phone number"),
    "timezone": _zone,
    "status": _one_of(*STATUSES),
    "supporter": _one_of("yes", "no"),
    "training_completed": _iso_date,
    "training_expires": _iso_date,
    "max_active": _matches(r"[0-9]{1,2}", "must be a number from 0 to 99"),
}

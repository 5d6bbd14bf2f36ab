"""A roster is checked whole: every fault by line and column, never a value, and nothing else ever comes out."""

import csv
import io
import uuid
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as rounds
from hypothesis import strategies as st
from openpyxl import Workbook

from leeward.people import (
    COLUMNS,
    Member,
    RosterError,
    check_rows,
    keyed_hash,
    members,
    person_ref,
    read_roster,
    recipient_ref,
)

KEY = bytes(range(32))
CANARY = "canary-4711"


def row(staff_id: str = "S1", **cells: str) -> dict[str, str]:
    return {"staff_id": staff_id, "display_name": "Ada Lo", "profession": "nurse", "unit": "ICU", **cells}


def csv_text(*rows: dict[str, str], header: tuple[str, ...] = COLUMNS) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read(tmp_path: Path, content: str | bytes, name: str = "staff.csv") -> list[Member]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return members(read_roster(path), KEY)


def faults(tmp_path: Path, content: str | bytes, name: str = "staff.csv") -> list[str]:
    with pytest.raises(RosterError) as refused:
        read(tmp_path, content, name)
    told = [str(fault) for fault in refused.value.faults]
    assert CANARY not in "".join(told) + str(refused.value)
    return told


def workbook(*rows: list[Any]) -> bytes:
    book = Workbook()
    for cells in rows:
        book.active.append(cells)  # type: ignore[union-attr]
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_full_row_becomes_a_member_without_its_staff_id(tmp_path: Path) -> None:
    boss = row("S2")
    full = row(
        identifiers="ehr=P473714; npi=1234567893",
        line_managers="S2",
        languages="en; pt-BR",
        email="ada@hospital.example",
        mobile="+44 20 7946 0000",
        timezone="Europe/London",
        supporter="yes",
        introduction="I work nights.\nCall me Ada.",
        training_completed="2026-01-31",
        training_expires="2028-01-31",
        max_active="3",
    )
    ada, _ = read(tmp_path, csv_text(full, boss))
    assert ada.person_ref == person_ref(KEY, "S1")
    assert ada.identifiers == (("ehr", "P473714"), ("npi", "1234567893"))
    assert ada.line_managers == (person_ref(KEY, "S2"),)
    assert ada.languages == ("en", "pt-BR")
    assert ada.training_expires == date(2028, 1, 31)
    assert (ada.supporter, ada.max_active, ada.status) == (True, 3, "active")
    assert "S1" not in {getattr(ada, name) for name in Member.__slots__ if isinstance(getattr(ada, name), str)}


def test_empty_cells_are_the_defaults(tmp_path: Path) -> None:
    [plain] = read(tmp_path, csv_text(row()))
    assert (plain.status, plain.timezone, plain.supporter) == ("active", "UTC", False)
    assert (plain.max_active, plain.training_expires, plain.languages) == (None, None, ())


def test_a_byte_order_mark_blank_lines_and_any_column_order_are_fine(tmp_path: Path) -> None:
    text = csv_text(row(), header=tuple(reversed(COLUMNS)))
    assert len(read(tmp_path, b"\xef\xbb\xbf" + f"{text}\r\n{',' * 15}\r\n".encode())) == 1


def test_a_workbook_gives_the_same_as_a_csv(tmp_path: Path) -> None:
    cells = row(supporter="yes", training_expires="2028-01-31", max_active="3")
    from_csv = read(tmp_path, csv_text(cells))
    typed: dict[str, Any] = {**cells, "training_expires": datetime(2028, 1, 31), "max_active": 3.0}  # noqa: DTZ001
    sheet = workbook([*COLUMNS, None], [typed.get(name) for name in COLUMNS], [None, None])
    assert read(tmp_path, sheet, "staff.XLSX") == from_csv


def test_a_number_in_a_workbook_is_its_digits(tmp_path: Path) -> None:
    [member] = read(tmp_path, workbook(list(COLUMNS), [4711, "ehr=1", "Ada"]), "staff.xlsx")
    assert member.person_ref == person_ref(KEY, "4711")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"staff_id,", workbook(["x"])[:-200]])
def test_what_is_no_workbook_is_said(tmp_path: Path, content: bytes) -> None:
    assert faults(tmp_path, content, "staff.xlsx") == ["line 1, file: is not an .xlsx workbook"]


WRONG_CELLS: list[tuple[str, str]] = [
    ("identifiers", CANARY),
    ("identifiers", f"={CANARY}"),
    ("identifiers", f"a b={CANARY}"),
    ("display_name", ""),
    ("display_name", f"{CANARY}\r\nBcc: x"),
    ("unit", f"{CANARY}\0"),
    ("unit", CANARY * 50),
    ("introduction", CANARY * 500),
    ("languages", f"{CANARY}, en"),
    ("email", CANARY),
    ("email", f"{CANARY}@x, b@y"),
    ("email", f"{CANARY}@x@y"),
    ("email", f"{CANARY}\x01@x"),
    ("mobile", f"call {CANARY}"),
    ("timezone", CANARY),
    ("status", CANARY),
    ("supporter", "perhaps"),
    ("training_completed", "31.01.2026"),
    ("training_expires", "2026-02-30"),
    ("max_active", "-1"),
    ("max_active", "²"),
    ("line_managers", CANARY),
    ("line_managers", "S1"),
]


@pytest.mark.parametrize(("column", "value"), WRONG_CELLS)
def test_a_wrong_cell_is_named_by_line_and_column(tmp_path: Path, column: str, value: str) -> None:
    told = faults(tmp_path, csv_text(row("S0"), row("S1", **{column: value})))
    assert [line for line in told if line.startswith(f"line 3, {column}: ")] == told


def test_a_supporter_without_training_dates_is_taken_and_not_asked_yet(tmp_path: Path) -> None:
    [sue] = read(tmp_path, csv_text(row(supporter="yes")))
    assert sue.supporter
    assert (sue.training_completed, sue.training_expires) == (None, None)


def test_every_fault_of_a_file_is_told_at_once_in_order(tmp_path: Path) -> None:
    told = faults(tmp_path, csv_text(row("", email="x", timezone="y"), row("S2"), row("S3", status="z")))
    assert [line.split(":")[0] for line in told] == [
        "line 2, email",
        "line 2, staff_id",
        "line 2, timezone",
        "line 4, status",
    ]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("email", "a@x.example", "A@x.example"),
        ("identifiers", f"ehr={CANARY}", f"npi=1;ehr={CANARY}"),
    ],
)
def test_doubles_are_told_with_both_lines(tmp_path: Path, column: str, first: str, second: str) -> None:
    text = csv_text(row("S1", **{column: first}), row("S2"), row("S3", **{column: second}))
    assert faults(tmp_path, text) == [f"line 4, {column}: is the same as in line 2"]


def test_the_same_person_twice_is_told(tmp_path: Path) -> None:
    assert faults(tmp_path, csv_text(row("S1"), row("S1"))) == ["line 3, staff_id: is the same as in line 2"]


@pytest.mark.parametrize("extra", [f',"{CANARY}"', ","])
def test_a_row_of_another_width_is_told_and_not_cut(tmp_path: Path, extra: str) -> None:
    lines = csv_text(row()).splitlines()
    assert faults(tmp_path, "\n".join([lines[0], lines[1] + extra])) == ["line 2, row: has 17 cells; the header has 16"]
    assert faults(tmp_path, "\n".join([lines[0], "S1,x"])) == ["line 2, row: has 2 cells; the header has 16"]


def test_a_row_is_named_by_its_first_line(tmp_path: Path) -> None:
    text = csv_text(row("S1", introduction="one\ntwo\nthree"), row("S2", status="x"))
    assert [line.split(",")[0] for line in faults(tmp_path, text)] == ["line 5"]


def test_a_header_must_be_the_documented_one(tmp_path: Path) -> None:
    assert len(faults(tmp_path, "")) == len(COLUMNS)
    assert faults(tmp_path, ",".join(COLUMNS[:-1])) == ["line 1, max_active: is missing from the header"]
    assert faults(tmp_path, ",".join([*COLUMNS, CANARY])) == ["line 1, column 17: is not a known column"]
    assert faults(tmp_path, ",".join([*COLUMNS, "email"])) == ["line 1, header: names a column twice"]


def test_a_file_that_names_nobody_is_refused(tmp_path: Path) -> None:
    assert faults(tmp_path, csv_text()) == ["line 2, file: names nobody"]


def test_what_is_not_utf_8_or_csv_is_told_by_line(tmp_path: Path) -> None:
    text = csv_text(row("S1"), row("S2", display_name="Zoë"))
    assert faults(tmp_path, text.encode("latin-1")) == ["line 3, file: is not UTF-8"]
    assert "line 2, file: is not CSV" in faults(tmp_path, csv_text() + f'"{CANARY}')[0]


def test_references_look_random_differ_by_purpose_and_stay(tmp_path: Path) -> None:
    person, recipient = person_ref(KEY, "S1"), recipient_ref(KEY, "S1")
    assert uuid.UUID(person).version == uuid.UUID(recipient).version == 4
    assert len({person, recipient, person_ref(KEY, "S2"), person_ref(bytes(32), "S1")}) == 4
    assert person == person_ref(KEY, "S1")


def test_parts_of_a_keyed_hash_do_not_run_together() -> None:
    assert keyed_hash(KEY, "ab", "c") != keyed_hash(KEY, "a", "bc")
    assert keyed_hash(KEY, "ab") != keyed_hash(KEY, "ab", "")


def outcome(attempt: Callable[[], list[Member]]) -> list[Member] | RosterError:
    """Members or faults; anything else that is raised fails the test."""
    try:
        return attempt()
    except RosterError as refused:
        return refused


CELLS = st.text(max_size=12) | st.sampled_from(["S1", "yes", "2026-01-01", "2026-13-01", "a=b", "a@b.c", ";", "UTC"])


@given(st.lists(st.lists(CELLS, min_size=14, max_size=18), max_size=4))
def test_no_table_raises_anything_but_its_faults(rows: list[list[str]]) -> None:
    found = outcome(lambda: members(check_rows([(1, COLUMNS), *enumerate(rows, 2)]), KEY))
    if isinstance(found, RosterError):
        assert all(1 <= fault.line <= len(rows) + 1 or fault.line == 2 for fault in found.faults)
    else:
        assert len(found) == sum(any(row) for row in rows)


@given(st.binary(max_size=400) | st.text(max_size=200).map(str.encode), st.sampled_from(["x.csv", "x.xlsx"]))
@rounds(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_file_raises_anything_but_its_faults(tmp_path: Path, content: bytes, name: str) -> None:
    for raw in (content, csv_text().encode() + content):
        with pytest.raises(RosterError):
            read(tmp_path, raw, name)


@given(st.data())
@rounds(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_damaged_workbook_raises_nothing_but_its_faults(tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(WORKBOOK)
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(lambda: read(tmp_path, bytes(raw), "x.xlsx"))


WORKBOOK = workbook(list(COLUMNS), ["S1", "ehr=1", "Ada"])


def test_a_bad_cell_does_not_hide_what_only_the_whole_table_shows(tmp_path: Path) -> None:
    text = csv_text(row("S1", identifiers="ehr=1"), row("S2", identifiers="ehr=1", timezone="Mars/Base"))
    assert faults(tmp_path, text) == [
        "line 3, identifiers: is the same as in line 2",
        "line 3, timezone: must be an IANA time zone such as Europe/Berlin",
    ]

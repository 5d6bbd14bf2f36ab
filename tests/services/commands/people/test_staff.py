"""Rosters and rotas by the command: whole or not at all, twice changes nothing, and nobody's value is echoed."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.services.commands.conftest import HEADER, ROSTER, Leeward

ROTA = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//example//rota//EN
BEGIN:VEVENT
UID:1@h.example
DTSTAMP:20261120T000000Z
DTSTART:20261121T060000Z
DTEND:20261121T140000Z
LOCATION:ICU
ATTENDEE:urn:leeward:staff:A1
ATTENDEE:mailto:cy@h.example
END:VEVENT
END:VCALENDAR
"""
NOON = {"LEEWARD_CLOCK": "2026-11-21T12:00:00Z"}


def counts(leeward: Leeward, path: Path, *words: str) -> list[int]:
    done = leeward("staff", "import", path, "--json", *words, **NOON)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout).values())


def test_twice_changes_nothing_and_who_is_missing_has_left(leeward: Leeward, roster: Path) -> None:
    assert counts(leeward, roster) == [3, 0, 0, 0]
    assert counts(leeward, roster) == [0, 0, 0, 3]

    without_cy = [line for line in ROSTER.splitlines() if not line.startswith("A3")]
    roster.write_text("\n".join(without_cy).replace("Ann One", "Ann Uno") + "\n")
    assert counts(leeward, roster, "--leaving", "1") == [0, 1, 1, 1]
    assert counts(leeward, roster) == [0, 0, 0, 2]

    roster.write_text(ROSTER)
    assert counts(leeward, roster) == [0, 2, 0, 1]


def test_a_change_in_any_column_counts_the_person_once(leeward: Leeward, roster: Path) -> None:
    counts(leeward, roster)
    for old, new in (
        ("ehr=P1", "ehr=P9"),
        ("ann@h", "anna@h"),
        ("A3,ehr=P3,Cy Three,nurse,ICU,A1", "A3,ehr=P3,Cy Three,nurse,ICU,A2"),
    ):
        roster.write_text(roster.read_text().replace(old, new))
        assert counts(leeward, roster) == [0, 1, 0, 2], old


def test_faults_name_line_and_column_and_nothing_is_applied(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    counts(leeward, roster)
    before = dump(tmp_path / "data" / "notify.db")
    roster.write_text(
        HEADER + "B1,ehr=P7,New Person,nurse,ICU,,en,new@h.example,,UTC,,no,,,,\n"
        "B2,hidden-value,Other Person,nurse,ICU,,en,not an address,,Mars/Base,,no,,,,\n"
    )

    for word in ("check", "import"):
        done = leeward("staff", word, roster)
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert [line.partition(":")[0] for line in lines[:3]] == [
            "line 3, email",
            "line 3, identifiers",
            "line 3, timezone",
        ]
        assert "nothing of it was imported" in lines[-1]
        assert done.stdout == ""
        for value in ("hidden-value", "not an address", "Mars", "Other Person"):
            assert value not in done.stderr

    assert dump(tmp_path / "data" / "notify.db") == before


def test_check_writes_nothing_not_even_a_key(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    done = leeward("staff", "check", roster)
    assert (done.returncode, done.stdout) == (0, "3 people, 1 of them supporters: nothing is wrong with this file\n")
    assert not (tmp_path / "data").exists()


def test_no_staff_number_in_any_file_and_names_in_one_alone(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    roster.write_text(ROSTER.replace("A1", "STAFF-0001"))
    counts(leeward, roster)
    held = {path.name: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert not [name for name, raw in held.items() if b"STAFF-0001" in raw]
    assert {name.partition("-")[0] for name, raw in held.items() if b"Ann One" in raw or b"ann@h" in raw} == {
        "notify.db"
    }


def test_a_file_that_is_not_there_is_wrong_usage(leeward: Leeward, tmp_path: Path) -> None:
    assert leeward("staff", "import", tmp_path / "none.csv").returncode == 2


def test_a_rota_knows_people_by_number_and_by_mail(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    counts(leeward, roster)
    rota = tmp_path / "rota.ics"
    rota.write_text(ROTA)
    for _ in range(2):
        done = leeward("rota", "import", rota, **NOON)
        assert (done.returncode, done.stdout) == (0, "2 shifts\n"), done.stderr
    with closing(sqlite3.connect(tmp_path / "data" / "matching.db")) as conn:
        assert conn.execute("SELECT count(*), count(DISTINCT person_ref) FROM shift").fetchone() == (2, 2)

    rota.write_text(ROTA.replace("staff:A1", "staff:NOBODY"))
    done = leeward("rota", "import", rota, **NOON)
    assert done.returncode == 1
    assert "event 1, ATTENDEE: is not on the roster" in done.stderr
    assert "NOBODY" not in done.stderr


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as conn:
        return list(conn.iterdump())

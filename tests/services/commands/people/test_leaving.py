"""A roster by which many people would leave is rather a wrong file, so somebody says how many are meant to."""

import json
import os
import pty
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests import nursery
from tests.services.commands.conftest import HEADER, Leeward

NOON = {"LEEWARD_CLOCK": "2026-11-21T12:00:00Z"}


def row(number: int, status: str = "") -> str:
    return f"S{number},ehr=P{number},Person {number},nurse,ICU,,en,p{number}@h.example,,UTC,{status},no,,,,\n"


def people(*numbers: int) -> str:
    return HEADER + "".join(map(row, numbers))


@pytest.fixture
def twenty(leeward: Leeward, tmp_path: Path) -> Path:
    """The file of a roster of twenty people, imported."""
    file = tmp_path / "staff.csv"
    file.write_text(people(*range(20)))
    assert leeward("staff", "import", file, **NOON).returncode == 0
    return file


def here(tmp_path: Path) -> int:
    with closing(sqlite3.connect(tmp_path / "data" / "matching.db")) as conn:
        (found,) = conn.execute("SELECT count(*) FROM person WHERE status = 'active'").fetchone()
    return int(found)


def test_a_tenth_may_leave_without_a_word(leeward: Leeward, twenty: Path) -> None:
    twenty.write_text(people(*range(2, 20)))
    done = leeward("staff", "import", twenty, "--json", **NOON)
    assert json.loads(done.stdout)["left"] == 2, done.stderr


@pytest.mark.parametrize("status", ["missing", "left", "deceased"])
def test_more_than_a_tenth_leave_when_their_number_is_said(
    leeward: Leeward, twenty: Path, tmp_path: Path, status: str
) -> None:
    gone = "" if status == "missing" else "".join(row(number, status) for number in range(3))
    twenty.write_text(people(*range(3, 20)) + gone)
    refused = leeward("staff", "import", twenty, **NOON)
    assert (refused.returncode, refused.stdout, here(tmp_path)) == (1, "", 20)
    assert refused.stderr == (
        "by this roster 3 of 20 people would leave: nothing of it was imported; if that is meant, say --leaving 3\n"
    )
    for wrong in ("2", "4", "20", "0"):
        assert leeward("staff", "import", twenty, "--leaving", wrong, **NOON).stderr == refused.stderr
    assert here(tmp_path) == 20
    assert leeward("staff", "import", twenty, "--leaving", "3", **NOON).returncode == 0
    assert here(tmp_path) == 17
    assert leeward("staff", "import", twenty, **NOON).returncode == 0, "who has left does not leave again"


def test_a_number_that_is_said_has_to_be_right_for_few_as_well(leeward: Leeward, twenty: Path, tmp_path: Path) -> None:
    twenty.write_text(people(*range(1, 20)))
    assert leeward("staff", "import", twenty, "--leaving", "2", **NOON).returncode == 1
    assert here(tmp_path) == 20
    assert leeward("staff", "import", twenty, "--leaving", "1", **NOON).returncode == 0


def test_a_roster_in_which_everybody_is_missing_is_refused(leeward: Leeward, twenty: Path, tmp_path: Path) -> None:
    twenty.write_text(people(*range(100, 120)))
    done = leeward("staff", "import", twenty, **NOON)
    assert (done.returncode, here(tmp_path)) == (1, 20)
    assert done.stderr == (
        "by this roster 20 of 20 people would leave, as by that of another hospital: nothing of it was imported; if "
        "that is meant, say --leaving 20\n"
    )


def test_faults_of_rows_are_told_first(leeward: Leeward, twenty: Path, tmp_path: Path) -> None:
    twenty.write_text(people(1) + row(2).replace("UTC", "Mars"))
    done = leeward("staff", "import", twenty, **NOON)
    assert done.stderr.splitlines() == [
        "line 3, timezone: must be an IANA time zone such as Europe/Berlin",
        "staff.csv: nothing of it was imported",
    ]
    assert here(tmp_path) == 20


@pytest.fixture
def terminal(environment: dict[str, str]) -> Callable[[Path, str], int]:
    """`terminal(file, "y")`: an import at a real terminal, with that typed."""

    def run(file: Path, typed: str) -> int:
        ours, theirs = pty.openpty()
        os.write(ours, f"{typed}\n".encode())
        done = nursery.run(["staff", "import", str(file)], {**environment, **NOON}, stdin=theirs)
        os.close(ours)
        os.close(theirs)
        return done.returncode

    return run


def test_at_a_terminal_it_is_asked(terminal: Callable[[Path, str], int], twenty: Path, tmp_path: Path) -> None:
    twenty.write_text(people(*range(10)))
    assert (terminal(twenty, "n"), here(tmp_path)) == (1, 20)
    assert (terminal(twenty, "y"), here(tmp_path)) == (0, 10)

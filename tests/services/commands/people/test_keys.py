"""An import uses the keys with which the databases were made, or none: another one makes strangers of everybody."""

import base64
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.services.commands.conftest import ROSTER, Leeward
from tests.services.commands.people.test_staff import NOON, ROTA, dump

OTHER = base64.b64encode(b"o" * 32).decode()


@pytest.fixture
def imported(leeward: Leeward, roster: Path, tmp_path: Path) -> Path:
    """The data folder of an installation with three people."""
    assert leeward("staff", "import", roster, **NOON).returncode == 0
    return tmp_path / "data"


def stored(data: Path) -> list[list[str]]:
    return [dump(data / f"{name}.db") for name in ("incident", "matching", "notify")]


def tell(leeward: Leeward, word: str, folder: Path, **variables: str) -> str:
    rota = folder / "rota.ics"
    rota.write_text(ROTA)
    done = leeward(word, "import", folder / "roster.csv" if word == "staff" else rota, **NOON, **variables)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("word", ["staff", "rota"])
def test_a_people_key_that_is_missing_is_not_made_again(
    leeward: Leeward, imported: Path, tmp_path: Path, word: str
) -> None:
    key = imported / "keys" / "people.key"
    key.unlink()
    before = stored(imported)
    assert tell(leeward, word, tmp_path) == (
        f"{key}: is missing, and the roster was imported with it; put it back from your copy of the keys"
    )
    assert not key.exists()
    assert stored(imported) == before


@pytest.mark.parametrize("word", ["staff", "rota"])
def test_a_people_key_of_another_installation_imports_nothing(
    leeward: Leeward, imported: Path, tmp_path: Path, word: str
) -> None:
    before = stored(imported)
    told = "is another key than the roster was imported with; put that one back from your copy of the keys"
    assert tell(leeward, word, tmp_path, LEEWARD_PEOPLE_KEY=OTHER) == f"LEEWARD_PEOPLE_KEY: {told}"
    key = imported / "keys" / "people.key"
    key.write_text(OTHER)
    assert tell(leeward, word, tmp_path) == f"{key}: {told}"
    assert stored(imported) == before


def test_incidents_key_is_compared_as_well(leeward: Leeward, imported: Path, tmp_path: Path) -> None:
    key = imported / "keys" / "incident.key"
    before = stored(imported)
    assert tell(leeward, "staff", tmp_path, LEEWARD_INCIDENT_KEY=OTHER) == (
        "LEEWARD_INCIDENT_KEY: is another key than the database of incident was made with; "
        "put that one back from your copy of the keys"
    )
    key.unlink()
    assert tell(leeward, "staff", tmp_path) == (
        f"{key}: is missing, and the database of incident was made with it; put it back from your copy of the keys"
    )
    assert stored(imported) == before


def test_doctor_and_what_reads_by_a_key_say_the_same(leeward: Leeward, imported: Path, tmp_path: Path) -> None:
    (tmp_path / "leeward.toml").write_text("[sources.ehr]\nkind = 'hl7v2'\n")
    listed = tmp_path / "list.csv"
    listed.write_text("occurred_at,unit,patient\n2026-11-20T08:00:00Z,ICU,mrn=1\n")
    commands = ("reconcile", listed), ("hl7", "replay", "--source", "ehr", "--since", "36h")
    assert "key" not in leeward("doctor").stdout
    assert not [said for words in commands if "key:" in (said := leeward(*words, **NOON).stderr)]

    key = imported / "keys" / "incident.key"
    for change, told in ((lambda: key.write_text(OTHER), "is another key than"), (key.unlink, "is missing, and")):
        change()
        for words in commands:
            done = leeward(*words, **NOON)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith(f"{key}: {told} the database of incident was made with")
        assert f"error: {done.stderr.strip()}; nothing starts" in leeward("doctor").stdout
    (imported / "keys" / "people.key").write_text(OTHER)
    assert "people.key: is another key than the roster was imported with" in leeward("doctor").stdout


def forget_checks(data: Path) -> None:
    """What a database of the release before does not know."""
    for name in ("incident", "matching", "notify"):
        with closing(sqlite3.connect(data / f"{name}.db")) as conn:
            conn.execute("DELETE FROM key_check")
            conn.commit()


def test_after_an_upgrade_the_first_import_keeps_the_check_values(
    leeward: Leeward, imported: Path, roster: Path, tmp_path: Path
) -> None:
    forget_checks(imported)
    assert leeward("staff", "import", roster, **NOON).returncode == 0
    assert "another key" in tell(leeward, "staff", tmp_path, LEEWARD_PEOPLE_KEY=OTHER)


def test_after_an_upgrade_a_foreign_or_missing_key_makes_nobody_leave(
    leeward: Leeward, imported: Path, roster: Path, tmp_path: Path
) -> None:
    forget_checks(imported)
    before = stored(imported)
    assert "by this roster 3 of 3 people would leave" in tell(leeward, "staff", tmp_path, LEEWARD_PEOPLE_KEY=OTHER)
    (imported / "keys" / "people.key").unlink()
    assert "people.key: is missing" in tell(leeward, "staff", tmp_path)
    assert stored(imported) == before


def test_a_rota_alone_says_nothing_of_a_key(leeward: Leeward, imported: Path, roster: Path, tmp_path: Path) -> None:
    forget_checks(imported)
    rota = tmp_path / "rota.ics"
    rota.write_text("\n".join(line for line in ROTA.splitlines() if "staff:A1" not in line))
    assert leeward("rota", "import", rota, **NOON, LEEWARD_PEOPLE_KEY=OTHER).returncode == 0
    assert leeward("staff", "import", roster, **NOON).returncode == 0, "the right key is still taken"


def test_a_roster_at_fault_makes_no_key(leeward: Leeward, roster: Path, tmp_path: Path) -> None:
    roster.write_text(ROSTER.replace("UTC", "Mars"))
    assert leeward("staff", "import", roster, **NOON).returncode == 1
    assert not (tmp_path / "data" / "keys").exists()

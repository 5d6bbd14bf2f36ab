"""`backup` and `restore` as an operator calls them: what is refused is one line, and nothing is touched then."""

import base64
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from leeward.settings import SERVICES
from leeward.store.copies.erasures import ErasureList
from leeward.store.sqlite import sqlite_connection
from tests.services.commands.conftest import Leeward

ROOT = Path(__file__).parents[4]
ROTA = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//x//x//
BEGIN:VEVENT
UID:1
DTSTAMP:20261121T000000Z
DTSTART:20261121T160000Z
DTEND:20261122T000000Z
LOCATION:ICU
ATTENDEE:urn:leeward:staff:A1
END:VEVENT
END:VCALENDAR
"""
NOON, LATER = "2026-11-21T12:00:00Z", "2026-11-21T15:00:00Z"
Change = Callable[[Path], object]


@pytest.fixture
def data(leeward: Leeward, roster: Path, tmp_path: Path) -> Path:
    """A folder with people in it, and a message that came today."""
    assert leeward("migrate", LEEWARD_CLOCK=NOON).returncode == 0
    assert leeward("staff", "import", roster, LEEWARD_CLOCK=NOON).returncode == 0
    write(tmp_path / "data", "incident", "INSERT INTO day_key VALUES ('k', '2026-11-21', 'DAYKEY', '2026-11-21')")
    for name in SERVICES:
        write(tmp_path / "data", name, "INSERT OR REPLACE INTO last_seen VALUES ('clock', '2026-11-21 11:00:00', NULL)")
    message = "('r', 'k', 'ehr', '2026-11-21', 'PID-WILLIAMS', 0)"
    write(tmp_path / "data", "incident", f"INSERT INTO raw_message VALUES {message}")
    # as matching begins it at its start
    ErasureList(tmp_path / "data" / "erasures").begin(datetime(2026, 11, 21, 9, tzinfo=UTC))
    return tmp_path / "data"


@pytest.fixture
def backup(leeward: Leeward, data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "backups" / "noon"
    done = leeward("backup", folder, LEEWARD_CLOCK=NOON)
    assert done.returncode == 0, done.stderr
    return folder


def write(data: Path, service: str, statement: str) -> None:
    with closing(sqlite_connection(data / f"{service}.db")) as conn:
        conn.execute(statement)


def read(data: Path, service: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(data / f"{service}.db")) as conn:
        return conn.execute(query).fetchall()


def fingerprint(data: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(data.rglob("*.db"))}


def test_a_backup_holds_five_databases_and_neither_keys_nor_messages(data: Path, backup: Path) -> None:
    assert data.is_dir()
    found = {path.name for path in backup.iterdir()}
    assert found == {"incident.db", "matching.db", "notify.db", "issuer.db", "box.db", "manifest.json"}
    assert b"WILLIAMS" in (data / "incident.db").read_bytes()
    content = (backup / "incident.db").read_bytes()
    assert b"WILLIAMS" not in content
    assert b"DAYKEY" not in content
    assert all(path.stat().st_mode & 0o077 == 0 for path in (backup, *backup.iterdir()))
    manifest = json.loads((backup / "manifest.json").read_text())
    assert manifest["mode"] == "embedded"
    assert manifest["made_at"].startswith("2026-11-21T12:00:00")
    assert len({record["log"] for record in manifest["databases"].values()}) == 5
    assert manifest["databases"]["incident"]["left_out"] == ["raw_message", "day_key"]
    assert manifest["databases"]["notify"]["size"] == (backup / "notify.db").stat().st_size


def test_a_restore_brings_all_five_back(leeward: Leeward, data: Path, backup: Path) -> None:
    write(data, "notify", "DELETE FROM recipient")
    write(data, "matching", "DELETE FROM person")
    done = leeward("restore", backup, LEEWARD_CLOCK=LATER)
    assert done.returncode == 0, done.stderr
    assert read(data, "notify", "SELECT count(*) FROM recipient") == [(3,)]
    assert read(data, "matching", "SELECT count(*) FROM person") == [(3,)]
    assert sorted(path.name for path in data.iterdir() if path.suffix != ".db") == ["erasures", "keys"]
    assert leeward("migrate").stdout.startswith("nothing to do")


def test_each_restore_gives_the_logs_new_identities_and_forgets_what_the_clock_showed(
    leeward: Leeward, data: Path, backup: Path
) -> None:
    manifest = json.loads((backup / "manifest.json").read_text())
    seen = {manifest["databases"][name]["log"] for name in SERVICES}
    for _ in range(2):
        assert leeward("restore", backup, LEEWARD_CLOCK=LATER).returncode == 0
        identities = {read(data, name, "SELECT identity FROM log")[0][0] for name in SERVICES}
        assert not identities & seen
        seen |= identities
        assert [read(data, name, "SELECT count(*) FROM last_seen") for name in SERVICES] == [[(0,)]] * 5
    assert len(seen) == 15


def test_a_folder_that_is_there_is_not_written_over(leeward: Leeward, backup: Path) -> None:
    before = {path: path.read_bytes() for path in backup.iterdir()}
    done = leeward("backup", backup, LEEWARD_CLOCK=LATER)
    assert done.returncode == 1
    assert "is there already" in done.stderr
    assert {path: path.read_bytes() for path in backup.iterdir()} == before


def test_a_backup_that_fails_leaves_nothing_behind(leeward: Leeward, data: Path, tmp_path: Path) -> None:
    (data / "box.db").unlink()
    done = leeward("backup", tmp_path / "backups" / "one", LEEWARD_CLOCK=NOON)
    assert done.returncode == 1
    assert done.stderr == "box: there is no database; run `leeward migrate`\n"
    assert not (tmp_path / "backups" / "one").exists()


def change_manifest(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def older_schema(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["databases"]["incident"]["revision"] = "0001"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "is no whole backup, it has no manifest.json"),
        (lambda folder: (folder / "notify.db").unlink(), "notify.db is missing; half a backup cannot be restored"),
        (lambda folder: (folder / "box.db").write_bytes(b"half"), "box.db is not as it was made; take another"),
        (lambda folder: os.truncate(folder / "matching.db", 4096), "matching.db is not as it was made"),
        (change_manifest(release="0.0.9"), "was made by release 0.0.9, and this is 0.1.0; restore it with release"),
        (change_manifest(format=2), "was made by release 0.1.0"),
        (change_manifest(mode="postgresql"), "is of postgresql databases, and this installation has embedded ones"),
        (older_schema, "incident is at revision 0001, and this release has"),
        (change_manifest(made_at="2026-11-22T00:00:00Z"), "put this machine's clock right first"),
    ],
)
def test_what_is_no_backup_of_this_installation_is_refused_in_one_line(
    leeward: Leeward, data: Path, backup: Path, change: Change, said: str
) -> None:
    change(backup)
    before = fingerprint(data)
    done = leeward("restore", backup, "--yes", LEEWARD_CLOCK=LATER)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert fingerprint(data) == before


@pytest.mark.parametrize("name", ["incident", "people"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_key_of_another_installation_or_none_is_refused(
    leeward: Leeward, data: Path, backup: Path, name: str, lost: bool
) -> None:
    key = data / "keys" / f"{name}.key"
    if lost:
        key.unlink()
    else:
        key.write_text(base64.b64encode(b"another key of thirty-two bytes!").decode())
    before = fingerprint(data)
    done = leeward("restore", backup, LEEWARD_CLOCK=LATER)
    assert done.returncode == 1
    assert f"{name}.key: is {'missing' if lost else 'another key'}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert fingerprint(data) == before
    assert key.exists() is not lost


def test_no_folder_is_one_line(leeward: Leeward, data: Path, tmp_path: Path) -> None:
    done = leeward("restore", tmp_path / "nowhere", LEEWARD_CLOCK=LATER)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert data.is_dir()


def test_while_somebody_has_a_database_open_nothing_is_put_back(leeward: Leeward, data: Path, backup: Path) -> None:
    with closing(sqlite_connection(data / "issuer.db")) as service:
        service.execute("SELECT 1 FROM epoch").fetchall()
        done = leeward("restore", backup, LEEWARD_CLOCK=LATER)
    assert done.returncode == 1
    assert done.stderr == "restore: issuer runs; stop all services first\n"


def test_a_list_that_matching_does_not_keep_is_not_made_and_vouches_for_nothing(
    leeward: Leeward, data: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for number, when in enumerate((NOON, LATER)):
        folder = tmp_path / "backups" / str(number)
        done = leeward("backup", folder, LEEWARD_CLOCK=when, LEEWARD_ERASURES=str(elsewhere))
        assert done.returncode == 0
        assert "LEEWARD_ERASURES must name the one that matching keeps" in done.stderr
    assert not elsewhere.exists()
    assert not (tmp_path / "backups" / "erasures").exists()
    first = tmp_path / "backups" / "0"
    restored = leeward("restore", first, LEEWARD_CLOCK="2026-11-22T09:00:00Z", LEEWARD_ERASURES=str(elsewhere))
    assert restored.returncode == 2
    assert "2026-11-21, 2026-11-22" in restored.stderr
    assert data.is_dir()


def test_days_that_no_list_vouches_for_are_named_and_want_a_yes(leeward: Leeward, data: Path, backup: Path) -> None:
    (data / "erasures").unlink()
    before, when = fingerprint(data), "2026-11-24T09:00:00Z"
    done = leeward("restore", backup, LEEWARD_CLOCK=when)
    assert done.returncode == 2
    assert "2026-11-21, 2026-11-22, 2026-11-23, 2026-11-24" in done.stderr
    assert fingerprint(data) == before
    assert leeward("restore", backup, "--yes", LEEWARD_CLOCK=when).returncode == 0


def test_a_restore_cut_short_while_files_took_their_places_lets_nobody_start(
    leeward: Leeward, data: Path, backup: Path, roster: Path
) -> None:
    (data / "restore-unfinished").touch()
    for words in (("up",), ("staff", "import", roster), ("status",)):
        done = leeward(*words, LEEWARD_CLOCK=LATER)
        assert done.returncode == 1, words
        assert "was cut short; run `leeward restore` again" in done.stderr
    assert leeward("restore", backup, LEEWARD_CLOCK=LATER).returncode == 0
    assert leeward("status", LEEWARD_CLOCK=LATER).returncode == 0


def test_the_procedures_of_the_documentation_bring_a_lost_disk_back(
    leeward: Leeward, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapter = (ROOT / "docs/operations.md").read_text().split("## Backups\n")[1].split("\n## ")[0]
    before, after = (fenced(part) for part in chapter.split("### To restore"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somewhere-else").mkdir()
    (tmp_path / "rota.ics").write_text(ROTA.replace("\n", "\r\n"))

    def follow(line: str, when: str) -> None:
        words = line.split()
        if words[0] != "leeward":
            subprocess.run(words, check=True)
            return
        if words[1] == "restore":
            # the list of erasures was on the lost disk as well, and somebody says yes to that
            assert leeward(*words[1:], LEEWARD_CLOCK=when).returncode == 2
            words.append("--yes")
        done = leeward(*words[1:], LEEWARD_CLOCK=when)
        assert words[1] == "doctor" or done.returncode == 0, f"{line}: {done.stderr}"

    for line in before:
        follow(line, NOON)
    keys = {path.name: path.read_bytes() for path in (data / "keys").iterdir()}
    people = read(data, "matching", "SELECT person_ref FROM person ORDER BY 1")
    shutil.rmtree(data)
    assert after[-1] == "leeward up"
    for line in after[:-1]:
        follow(line, LATER)
    assert {path.name: path.read_bytes() for path in (data / "keys").iterdir()} == keys
    # by the same key the same people
    assert read(data, "matching", "SELECT person_ref FROM person ORDER BY 1") == people
    assert read(data, "notify", "SELECT count(*) FROM recipient WHERE status = 'active'") == [(3,)]


def fenced(text: str) -> list[str]:
    """The lines of a chapter's blocks, in their order."""
    return [line.strip() for block in text.split("```")[1::2] for line in block.strip().splitlines()]


def test_the_ratings_of_an_open_window_are_left_out_and_it_says_so(
    leeward: Leeward, data: Path, tmp_path: Path
) -> None:
    (data / "keys" / "box.key").write_text(base64.b64encode(bytes(32)).decode())
    columns = "epoch, state, key, opened_on, closes_at, doubtful"
    values = "'e', 'rating', x'00', '2026-08-01', '2026-12-01', 0"
    write(data, "box", f"INSERT INTO epoch ({columns}) VALUES ({values})")
    write(data, "box", "INSERT INTO sealed VALUES ('TOKENHASH', 'e', x'01')")
    write(data, "box", "INSERT INTO opened VALUES ('r', 'd', 'an earlier one')")
    folder = tmp_path / "backups" / "window"
    done = leeward("backup", folder, LEEWARD_CLOCK=NOON)
    assert "a rating window is open: its ratings are not in this backup" in done.stdout
    assert b"TOKENHASH" not in (folder / "box.db").read_bytes()
    restored = leeward("restore", folder, LEEWARD_CLOCK=LATER)
    assert "its ratings are lost" in restored.stdout
    assert read(data, "box", "SELECT state FROM epoch") == [("rating",)]
    assert read(data, "box", "SELECT rating FROM opened") == [("an earlier one",)]
    assert read(data, "box", "SELECT count(*) FROM sealed") == [(0,)]

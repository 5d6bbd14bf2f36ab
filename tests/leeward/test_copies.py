"""Copies of one moment each, and the list that keeps what was erased from coming back."""

import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from leeward.runtime import awaited
from leeward.settings import Settings, SettingsError, load_settings
from leeward.store.copies import RESTORE_UNFINISHED
from leeward.store.copies.erasures import ErasureList, check_appendable, hash_of
from leeward.store.copies.manifest import NoBackup, read_manifest
from leeward.store.copies.postgresql import connection_variables
from leeward.store.copies.sqlite import SqliteCopies
from leeward.store.migrate import migrate
from leeward.store.sqlite import sqlite_connection, sqlite_engine
from services.commands import catalogue

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TABLES = """
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
CREATE TABLE raw_message (raw_ref VARCHAR(36) PRIMARY KEY, sealed TEXT);
CREATE TABLE inbox (event_id VARCHAR(36) PRIMARY KEY, seen_on DATE) WITHOUT ROWID;
CREATE INDEX outbox_body ON outbox (body);
CREATE UNIQUE INDEX once ON raw_message (sealed) WHERE sealed != '';
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path)})


@pytest.fixture
def source(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database that somebody writes to."""
    conn = sqlite_connection(tmp_path / "incident.db")
    conn.executescript(TABLES)
    conn.execute("INSERT INTO outbox (body) VALUES ('first'), ('second'), ('third')")
    conn.execute("DELETE FROM outbox WHERE body = 'third'")
    conn.execute("INSERT INTO raw_message VALUES ('one', 'PID||WILLIAMS')")
    conn.execute("INSERT INTO inbox VALUES ('e-1', '2026-11-21')")
    yield conn
    conn.close()


def test_a_copy_is_of_its_moment_whatever_is_written_meanwhile(
    settings: Settings, source: sqlite3.Connection, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    with SqliteCopies(settings).snapshot("incident", target) as snapshot:
        source.execute("INSERT INTO outbox (body) VALUES ('later')")
        source.execute("DELETE FROM inbox")
        source.execute("PRAGMA wal_checkpoint(PASSIVE)")
        snapshot.copy(())
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT body FROM outbox ORDER BY seq").fetchall() == [("first",), ("second",)]
        assert copy.execute("SELECT event_id FROM inbox").fetchall() == [("e-1",)]
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        # a number that was given is not given again
        copy.execute("INSERT INTO outbox (body) VALUES ('next')")
        assert copy.execute("SELECT max(seq) FROM outbox").fetchone() == (4,)
        names = "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        assert copy.execute(names).fetchall() == [("once",), ("outbox_body",)]
    copy.close()
    assert target.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob("copy.db-*"))


def test_of_what_is_left_out_and_what_was_deleted_no_byte_is_in_the_copy(
    settings: Settings, source: sqlite3.Connection, tmp_path: Path
) -> None:
    target = tmp_path / "copy.db"
    with SqliteCopies(settings).snapshot("incident", target) as snapshot:
        snapshot.copy({"raw_message"})
    assert source.execute("SELECT count(*) FROM raw_message").fetchone() == (1,)
    content = target.read_bytes()
    assert b"first" in content
    assert b"WILLIAMS" not in content
    assert b"third" not in content


def test_a_line_of_the_list_says_nothing_without_the_key(tmp_path: Path) -> None:
    erasures = ErasureList(tmp_path / "folder" / "erasures")
    erasures.append([hash_of(b"k", "case", "c-1")], NOON)
    text = erasures.path.read_text()
    assert "c-1" not in text
    assert "case" not in text
    assert erasures.path.stat().st_mode & 0o077 == 0
    # nor does the file say when in the day somebody was erased
    assert datetime.fromtimestamp(erasures.path.stat().st_mtime, UTC) == datetime(2026, 11, 21, tzinfo=UTC)
    assert erasures.read().hashes == {hash_of(b"k", "case", "c-1")}
    assert hash_of(b"k", "case", "c-1") != hash_of(b"k", "person", "c-1") != hash_of(b"l", "person", "c-1")


def test_a_list_that_is_kept_vouches_from_its_first_moment_on(tmp_path: Path) -> None:
    erasures = ErasureList(tmp_path / "erasures")
    assert erasures.read(until=NOON).unvouched(NOON - DAY, NOON) == [date(2026, 11, 20), date(2026, 11, 21)]
    erasures.begin(NOON - 2 * DAY)
    assert erasures.read(until=NOON).unvouched(NOON - DAY, NOON) == []
    assert erasures.read(until=NOON).unvouched(NOON - 3 * DAY, NOON) == [date(2026, 11, 18), date(2026, 11, 19)]


def test_the_list_beside_the_backups_vouches_up_to_the_last_backup(tmp_path: Path) -> None:
    living, beside = ErasureList(tmp_path / "data" / "erasures"), ErasureList(tmp_path / "backups" / "erasures")
    living.begin(NOON - 5 * DAY)
    living.append(["a" * 64], NOON - 4 * DAY)
    beside.merge(living, NOON - 3 * DAY)
    living.append(["b" * 64], NOON - 2 * DAY)
    beside.merge(living, NOON - DAY)
    assert beside.path.read_text().count("a" * 64) == 1
    # the disk is lost, and a new one begins a list of its own
    os.remove(living.path)
    living.begin(NOON)
    found = living.read(until=NOON + HOUR).joined(beside.read())
    assert found.hashes == {"a" * 64, "b" * 64}
    assert found.unvouched(NOON - 2 * DAY, NOON - DAY) == []
    assert found.unvouched(NOON - 2 * DAY, NOON + HOUR) == [date(2026, 11, 20), date(2026, 11, 21)]


@pytest.mark.parametrize("place", [".", "a file/erasures"])
def test_where_nothing_can_be_listed_nothing_starts(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(SettingsError, match=r"LEEWARD_ERASURES: .* cannot be written"):
        check_appendable(tmp_path / place)
    check_appendable(tmp_path / "not" / "there" / "yet")
    assert not (tmp_path / "not").exists()


def test_a_file_that_is_no_list_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "erasures"
    path.write_text("2026-11-21 anything\n")
    with pytest.raises(ValueError, match="no list"):
        ErasureList(path).read()


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1, "release": "0.1.0"}', "[1]"])
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(NoBackup, match="damaged"):
        read_manifest(tmp_path)


def test_programs_of_postgresql_are_told_the_address_and_no_password_on_their_command_line() -> None:
    url = "postgresql+asyncpg://us%40er:p%2Fw@db.example:5433/incident?ssl=verify-full&passfile=/run/pass"
    assert connection_variables(url) == {
        "PGHOST": "db.example",
        "PGPORT": "5433",
        "PGUSER": "us@er",
        "PGPASSWORD": "p/w",
        "PGDATABASE": "incident",
        "PGSSLMODE": "verify-full",
        "PGPASSFILE": "/run/pass",
    }
    assert connection_variables("postgresql+asyncpg://u@/box?host=/run/pg")["PGHOST"] == "/run/pg"


def test_a_database_whose_restore_was_not_finished_lets_no_service_begin(tmp_path: Path) -> None:
    (service,) = catalogue.load(["issuer"])
    engine = sqlite_engine(tmp_path / "issuer.db")
    with engine.begin() as conn:
        assert awaited(conn, service.package) == "migrated"
        migrate(conn, service.package, service.metadata)
        assert awaited(conn, service.package) is None
        conn.exec_driver_sql(f"CREATE TABLE {RESTORE_UNFINISHED} (one integer)")
        assert awaited(conn, service.package) == "restored"
    engine.dispose()

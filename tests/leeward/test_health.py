"""Health tells the truth: a file that is full, gone, zeroed or damaged turns its store red, with the reason."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from leeward.store import SqliteStore, StoreUnavailable, Unit
from leeward.store.health import AILMENTS
from leeward.store.health.files import MAGIC, damage, look_for_room
from leeward.store.sqlite import sqlite_connection
from leeward.testing import ManualClock, eventually
from tests.contract.test_store import ADD, METADATA, names
from tests.leeward.limits import no_room


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    """A store that is watched, every few milliseconds instead of seconds."""
    for name, seconds in (("LOOK_EVERY", 0.01), ("_CHECKPOINT_EVERY", 0.01), ("HANGS", 0.05)):
        monkeypatch.setattr(f"leeward.store.sqlite.{name}", seconds)
    monkeypatch.setattr("leeward.store.health.QUIET", 0.01)
    opened = SqliteStore(tmp_path / "thing.db", METADATA, clock)
    await opened.administer(METADATA.create_all)
    stop = asyncio.Event()
    watching = asyncio.create_task(opened.watch(stop))
    await opened.write(lambda unit: ADD.run(unit.conn, [(f"n{i:05}", i, None) for i in range(5000)]))
    yield opened
    stop.set()
    await watching
    await opened.close()


def zero_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


async def becomes(store: SqliteStore, reason: str) -> None:
    await eventually(lambda: store.health.reason == reason, within=5)


async def test_a_disk_that_takes_no_more_is_noticed_though_nobody_writes(store: SqliteStore) -> None:
    with no_room():
        await becomes(store, "disk_full")
    await becomes(store, "")
    assert len(await names(store)) == 5000


async def test_a_folder_that_cannot_be_written_is_said_to_be_read_only() -> None:
    with pytest.raises(StoreUnavailable) as fault:
        look_for_room(Path("/sys"))  # not even root writes there
    assert fault.value.reason == "read_only"


async def test_a_write_that_is_refused_is_red_until_one_succeeds(store: SqliteStore) -> None:
    def refused(unit: Unit) -> None:
        unit.conn.exec_driver_sql("PRAGMA query_only=ON")
        ADD.run(unit.conn, [("a", 1, None)])

    with pytest.raises(StoreUnavailable):
        await store.write(refused)
    assert store.health.reason == "read_only"
    await becomes(store, "")


async def test_a_zeroed_header_is_damage_that_no_commit_covers_up(store: SqliteStore) -> None:
    await store.tidy()
    zero_header(store.path)
    for number in range(100):
        try:
            await store.write(lambda unit, n=number: ADD.run(unit.conn, [(f"late{n}", 1, None)]))  # type: ignore[misc]
        except StoreUnavailable:
            break
        await asyncio.sleep(0.01)
    assert store.health.reason == "damaged"
    with pytest.raises(StoreUnavailable):
        await store.write(lambda unit: ADD.run(unit.conn, [("after", 1, None)]))
    await asyncio.sleep(0.1)
    assert (store.health.reason, store.path.read_bytes()[:16]) == ("damaged", bytes(16))
    assert damage(store.path) == "it does not begin as a database does"


async def test_a_damaged_page_is_noticed_by_whoever_meets_it(store: SqliteStore, clock: ManualClock) -> None:
    await store.tidy()
    with store.path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(store.path.stat().st_size - 4096))
    other = SqliteStore(store.path, METADATA, clock)
    with pytest.raises(StoreUnavailable):
        await names(other)
    assert other.health.reason == "damaged"
    await other.probe()
    assert other.health.reason == "damaged"
    assert damage(store.path) == "its pages do not hold together"
    await other.close()


@pytest.mark.parametrize("other", [None, MAGIC], ids=["gone", "another"])
async def test_a_file_that_is_not_the_one_that_was_opened_is_missing(store: SqliteStore, other: bytes | None) -> None:
    await eventually(lambda: store._file._opened)
    store.path.rename(store.path.with_name("away.db"))
    if other:
        store.path.write_bytes(other)
    await becomes(store, "missing")


async def test_a_lock_that_somebody_else_keeps_is_said(store: SqliteStore) -> None:
    with closing(sqlite_connection(store.path)) as other:
        other.execute("BEGIN IMMEDIATE")
        await becomes(store, "locked")
        other.execute("ROLLBACK")
    await becomes(store, "")


async def test_what_does_not_come_back_is_said(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leeward.store.health.HANGS", 0.05)
    hanging = asyncio.get_running_loop().create_future()

    async def hang(_conn: object) -> None:
        await hanging

    monkeypatch.setattr(store, "_begin", hang)
    await becomes(store, "hangs")
    monkeypatch.undo()
    hanging.set_result(None)


async def test_looking_takes_no_lock_from_those_who_use_the_file(store: SqliteStore) -> None:
    await eventually(lambda: store._file._opened)
    code = (
        f"import sqlite3; c = sqlite3.connect({str(store.path)!r}); "
        "c.execute(\"INSERT INTO thing (name) VALUES ('x')\"); c.commit(); c.close()"
    )
    for _ in range(3):
        await asyncio.sleep(0.05)
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code.replace("'x'", f"'{os.urandom(4).hex()}'")
        )
        assert await other.wait() == 0
    # whoever closes last moves the log into the file and deletes it, unless another's lock says that it is not the last
    assert store.path.with_name("thing.db-wal").exists()
    assert len(await names(store)) == 5003
    assert store.health.reason == ""


def test_a_whole_file_has_no_damage_and_a_cut_one_has(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert damage(path) == ""
    with closing(sqlite_connection(path)) as made:
        made.execute("CREATE TABLE t (x)")
        made.execute("INSERT INTO t VALUES (zeroblob(100000))")
    assert damage(path, thorough=True) == ""
    os.truncate(path, 8192)
    assert damage(path) == "its end is missing"
    path.write_bytes(b"")
    assert damage(path) == "it is empty"


def test_damage_deep_inside_is_found_by_a_thorough_look(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with closing(sqlite_connection(path)) as made:
        made.execute("CREATE TABLE t (x INTEGER PRIMARY KEY, y)")
        made.executemany("INSERT INTO t (y) VALUES (?)", [(f"row {n}" * 20,) for n in range(5000)])
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 8 * 4096)
        file.write(os.urandom(4096))
    assert damage(path) == ""
    assert damage(path, thorough=True) == "its pages do not hold together"


def test_every_reason_has_words_that_end_in_a_remedy() -> None:
    assert all(found.what and found.do for found in AILMENTS.values())

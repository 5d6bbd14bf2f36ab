"""Copies of SQLite files: each of one moment, while others go on writing, packed, without what is left out."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, StaticPool, create_engine
from sqlalchemy.exc import DBAPIError

from leeward.settings import SERVICES, ServiceName, Settings
from leeward.store.copies import CopyFailed, DatabaseInUse, Mode
from leeward.store.copies.erasures import sync_folder
from leeward.store.health.files import damage
from leeward.store.sqlite import sqlite_connection

STAGING: Final = "restoring"
UNFINISHED: Final = "restore-unfinished"
_TABLES: Final = (
    "SELECT name, sql FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND rootpage > 0"
)
_INDEXES: Final = "SELECT sql FROM main.sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
_NUMBERED: Final = "SELECT count(*) FROM main.sqlite_schema WHERE name = 'sqlite_sequence'"
_FLUSH_EVERY: Final = 0.05  # seconds
_BESIDE: Final = ("-wal", "-shm", "-journal")


class SqliteSnapshot:
    """What a file holds at one moment, and a copy in the making.

    While it is open the write-ahead log grows, since nothing that it still reads may be overwritten.
    """

    def __init__(self, conn: Connection, target: Path) -> None:
        self.conn = conn
        self._target = target
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        conn.exec_driver_sql("ATTACH ? AS copy", (f"file:{quote(str(target.absolute()))}?mode=rw",))
        conn.exec_driver_sql("PRAGMA copy.journal_mode=OFF").close()
        conn.exec_driver_sql("PRAGMA copy.synchronous=OFF").close()
        conn.exec_driver_sql("BEGIN")
        # the first look is the moment
        self._tables = conn.exec_driver_sql(_TABLES).all()

    def copy(self, left_out: Collection[str]) -> None:
        """Tables go over in the order of their keys, so that the copy is packed and has no free pages."""
        try:
            with _flushing(self._target):
                self._fill(left_out)
            settle(self._target)
        except (OSError, DBAPIError, sqlite3.Error) as fault:
            raise CopyFailed(f"{self._target}: cannot be written ({fault})") from fault

    def _fill(self, left_out: Collection[str]) -> None:
        for _, sql in self._tables:
            self.conn.exec_driver_sql(_into_copy(sql))
        for (sql,) in self.conn.exec_driver_sql(_INDEXES).all():
            self.conn.exec_driver_sql(_into_copy(sql))
        for name, _ in self._tables:
            if name not in left_out:
                self.conn.exec_driver_sql(f'INSERT INTO copy."{name}" SELECT * FROM main."{name}"')  # noqa: S608
        if self.conn.exec_driver_sql(_NUMBERED).scalar():
            # a number that was given before must not be given again, though its row is gone
            self.conn.exec_driver_sql("DELETE FROM copy.sqlite_sequence")
            self.conn.exec_driver_sql("INSERT INTO copy.sqlite_sequence SELECT * FROM main.sqlite_sequence")
        self.conn.exec_driver_sql("COMMIT")
        self.conn.exec_driver_sql("DETACH copy")


class SqliteCopies:
    """The five files of one data folder.

    What is put back is made ready in a folder beside them and takes their place at the very end. A file tells whoever
    starts that this is under way.
    """

    mode: Mode = "embedded"
    suffix = ".db"

    def __init__(self, settings: Settings) -> None:
        self._data = settings.data
        self._staging = settings.data / STAGING
        # the list of erasures stays where it is
        variables = {**settings.variables, "ERASURES": str(settings.erasures.absolute())}
        self.staged = settings.model_copy(update={"data": self._staging, "variables": variables})

    @contextmanager
    def snapshot(self, service: ServiceName, target: Path) -> Iterator[SqliteSnapshot]:
        path = self._data / f"{service}.db"
        # read-only as a whole would not let it write the copy; not one statement here writes to the source
        engine = create_engine("sqlite://", creator=lambda: sqlite_connection(path), poolclass=StaticPool)
        try:
            with engine.connect() as conn:
                yield SqliteSnapshot(conn, target)
        finally:
            engine.dispose()

    def check_idle(self) -> None:
        for service in SERVICES:
            if _is_open(self._data / f"{service}.db"):
                raise DatabaseInUse(service)

    def begin(self) -> None:
        """Nothing that is there has been touched yet, so a start may still go by it."""
        if self._staging.exists():
            shutil.rmtree(self._staging)
        self._staging.mkdir(parents=True, mode=0o700)

    def put_back(self, service: ServiceName, copy: Path) -> None:
        target = self._staging / f"{service}.db"
        try:
            shutil.copyfile(copy, target)
            target.chmod(0o600)
        except OSError as fault:
            raise CopyFailed(
                f"{target}: cannot be written ({fault.strerror}); make room, then restore again"
            ) from fault
        if found := damage(target, thorough=True):
            raise CopyFailed(f"{copy}: {found}; take another backup")

    def finish(self) -> None:
        """The five take their places. Should the power go in between, no start goes by a half of them."""
        for service in SERVICES:
            settle(self._staging / f"{service}.db")
        unfinished = self._data / UNFINISHED
        unfinished.touch(mode=0o600)
        sync_folder(self._data)
        for service in SERVICES:
            target = self._data / f"{service}.db"
            for beside in _BESIDE:
                # a log of the old file's would be played into the new one
                target.with_name(target.name + beside).unlink(missing_ok=True)
            (self._staging / target.name).replace(target)
        sync_folder(self._data)
        shutil.rmtree(self._staging)
        unfinished.unlink()
        sync_folder(self._data)


@contextmanager
def _flushing(path: Path) -> Iterator[None]:
    """Bring a file to the disk while it is written: a gigabyte at once would hold every commit up meanwhile."""
    done = threading.Event()

    def flush() -> None:
        file = os.open(path, os.O_RDONLY)
        try:
            while not done.wait(_FLUSH_EVERY):
                os.fsync(file)
        finally:
            os.close(file)

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def is_unfinished(data: Path) -> bool:
    """Whether a restore of this folder was cut short while files took their places."""
    return (data / UNFINISHED).exists()


def settle(path: Path) -> None:
    """Have a file that is whole stand by itself and on the disk."""
    with closing(sqlite3.connect(_address(path), uri=True, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=DELETE").close()
    with path.open("rb") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _address(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=rw"


def _into_copy(sql: str) -> str:
    """A definition as the schema keeps it, for the database attached as `copy`."""
    for begin in ("CREATE TABLE ", "CREATE UNIQUE INDEX ", "CREATE INDEX "):
        if sql.startswith(begin):
            return f"{begin}copy.{sql.removeprefix(begin)}"
    raise ValueError("a definition of an unknown kind")


def _is_open(path: Path) -> bool:
    """Whether another connection has a database open; one that is damaged is to be replaced, and is not."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(_address(path), uri=True, isolation_level=None, timeout=0)) as conn:
        try:
            # in this mode the first look takes the whole file, which fails where any other connection is
            conn.execute("PRAGMA locking_mode=EXCLUSIVE").close()
            conn.execute("BEGIN IMMEDIATE")
            conn.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        except sqlite3.DatabaseError:
            return False
    return False

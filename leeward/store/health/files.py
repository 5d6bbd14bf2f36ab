"""What a look at an SQLite file and its folder finds, without a transaction in it."""

import errno
import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from leeward.store.group import StoreUnavailable

ROOM: Final = 4 * 1024 * 1024  # bytes: a batch with all that it moves
MAGIC: Final = b"SQLite format 3\0"  # SQLite's file format, section 1.3
_HEADER: Final = 100
_BY_NUMBER: Final[Mapping[int | None, str]] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EROFS: "read_only",
    errno.EACCES: "read_only",
    errno.EPERM: "read_only",
    errno.ENOENT: "missing",
}
# by the beginning of SQLite's own name for it
_BY_NAME: Final[Mapping[str, str]] = {
    "SQLITE_FULL": "disk_full",
    "SQLITE_READONLY_DBMOVED": "missing",
    "SQLITE_READONLY": "read_only",
    "SQLITE_PERM": "read_only",
    "SQLITE_CORRUPT": "damaged",
    "SQLITE_NOTADB": "damaged",
    "SQLITE_IOERR": "io_error",
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_CANTOPEN": "cannot_open",
}


def reason_of(fault: BaseException | None) -> str:
    """The code for a fault of SQLite's driver or of the system."""
    if isinstance(fault, OSError):
        return _BY_NUMBER.get(fault.errno, "io_error")
    name = getattr(fault, "sqlite_errorname", None) or ""
    return next((reason for start, reason in _BY_NAME.items() if name.startswith(start)), "away")


class DatabaseFile:
    """One file as this process knows it, by a descriptor that stays open.

    POSIX drops all locks that a process has on a file when it closes any descriptor of it, SQLite's as well, and then
    another process takes the write-ahead log away (SQLite, "How to corrupt", section 2.2).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: int | None = None
        self._one = threading.Lock()

    def look(self) -> bool:
        """See that the file is still the same and has its header; False while there is none yet.

        Raises:
            StoreUnavailable: with the reason where one of these is not so.
        """
        try:
            with self._one:
                return self._look()
        except OSError as fault:
            if isinstance(fault, FileNotFoundError) and self._opened is None:
                return False
            raise StoreUnavailable(type(fault).__name__, reason_of(fault)) from fault

    def _look(self) -> bool:
        now = os.stat(self.path)
        if self._opened is None:
            if not now.st_size:
                return False  # somebody is making it at this moment
            self._opened = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        known = os.fstat(self._opened)
        if (known.st_dev, known.st_ino) != (now.st_dev, now.st_ino):
            raise StoreUnavailable("replaced", "missing")
        if _fault_of_header(os.pread(self._opened, _HEADER, 0), known.st_size, self.path):
            raise StoreUnavailable("header", "damaged")
        return True

    def close(self) -> None:
        """Only once no connection of this process is left."""
        if self._opened is not None:
            os.close(self._opened)

    def look_around(self) -> bool:
        """The same, and that the folder takes more.

        Raises:
            StoreUnavailable: with the reason where it does not.
        """
        there = self.look()
        if there:
            look_for_room(self.path.parent)
        return there


def look_for_room(folder: Path) -> None:
    """See that a folder takes a new file and as much as a batch needs; nothing of it stays.

    Raises:
        StoreUnavailable: with the reason where it does not.
    """
    try:
        with TemporaryFile(dir=folder, buffering=0) as scratch:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(scratch.fileno(), 0, ROOM)
            else:
                scratch.write(bytes(ROOM))
    except OSError as fault:
        raise StoreUnavailable(type(fault).__name__, reason_of(fault)) from fault


def _fault_of_header(header: bytes, size: int, path: Path) -> str:
    """What is wrong with a file's first bytes and its size, in words; empty where nothing is."""
    if not header:
        return "it is empty"
    if not header.startswith(MAGIC):
        return "it does not begin as a database does"
    page = int.from_bytes(header[16:18], "big")
    whole = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    log = path.with_name(f"{path.name}-wal")
    if size < whole and not (log.exists() and log.stat().st_size):
        return "its end is missing"
    return ""


def damage(path: Path, *, thorough: bool = False) -> str:
    """What is damaged in a database that this process has not opened, in words; empty where nothing was found.

    A quick look reads the header, the schema and the first page of each table; a thorough one reads all pages. What
    only keeps it from being opened now, a full disk or a folder without rights, is not its damage.
    """
    if not path.exists():
        return ""
    try:
        with path.open("rb") as file:
            fault = _fault_of_header(file.read(_HEADER), path.stat().st_size, path)
        return fault or _fault_inside(path, thorough=thorough)
    except OSError:
        return ""
    except sqlite3.DatabaseError as fault:
        return "its pages do not hold together" if reason_of(fault) == "damaged" else ""


def _fault_inside(path: Path, *, thorough: bool) -> str:
    from leeward.store.sqlite import sqlite_connection

    connection = sqlite_connection(path, read_only=True)
    try:
        if thorough and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            return "its pages do not hold together"
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            connection.execute(f'SELECT 1 FROM "{table}" LIMIT 1').fetchone()  # noqa: S608 a name of the schema
    finally:
        connection.close()
    return ""

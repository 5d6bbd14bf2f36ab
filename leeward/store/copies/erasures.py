"""The list of what was erased: keyed hashes in one file, so that a restored copy does not bring it back.

A line is a day and a hash. Two kinds of lines have a moment instead: since when the list is kept, and until when it was
whole. Whoever erases appends before the commit: what is on the list and was not erased after all is erased by a
restore, which is the safe way to be wrong. Without the key a line says nothing.
"""

import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

from leeward.settings import SettingsError

BEGUN: Final = "begun"
WHOLE: Final = "whole"
HASH: Final = 64  # hex of HMAC-SHA256
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Erased:
    """What lists say: everything erased as `hashes`, and from when to when (aware UTC) nothing is missing in them."""

    hashes: frozenset[str] = field(default_factory=frozenset, repr=False)
    spans: tuple[tuple[datetime, datetime], ...] = ()

    def unvouched(self, since: datetime, until: datetime) -> list[date]:
        """The days between two moments of which no list says everything."""
        found: set[date] = set()
        covered = since
        for first, last in (*sorted(self.spans), (until, until)):
            if covered < min(first, until):
                found.update(_days(covered, min(first, until)))
            covered = max(covered, last)
        return sorted(found)

    def joined(self, other: "Erased") -> "Erased":
        """What two lists say together."""
        return Erased(self.hashes | other.hashes, (*self.spans, *other.spans))


class ErasureList:
    """The file of one installation; every process that erases appends to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, now: datetime) -> None:
        """Make the file where there is none.

        Raises:
            OSError: when it cannot be made.
        """
        if not self.path.exists():
            self._append([_line(now, BEGUN)], now)

    def append(self, hashes: Iterable[str], now: datetime) -> None:
        """Put these on the list; they are on the disk when this returns.

        Raises:
            OSError: when the file cannot be written.
        """
        self.begin(now)
        self._append([f"{now.date()} {one}" for one in hashes], now)

    def _append(self, lines: Iterable[str], now: datetime) -> None:
        """One write, so that lines of several processes do not mix."""
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = not self.path.exists()
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, "".join(f"{line}\n" for line in lines).encode())
            # when in the day somebody was erased is nobody's business
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
            os.utime(file, (midnight, midnight))
            os.fsync(file)
        finally:
            os.close(file)
        if fresh:
            sync_folder(folder)

    def read(self, until: datetime | None = None) -> Erased:
        """What the list says, nothing where it is not there; `until` is given for one that has been kept till then.

        Raises:
            ValueError: when the file is not such a list. OSError: when it cannot be read.
        """
        if not self.path.exists():
            return Erased()
        hashes, begun = set(), None
        spans: list[tuple[datetime, datetime]] = []
        for line in self.path.read_text(encoding="ascii").splitlines():
            stamp, _, word = line.partition(" ")
            moment = datetime.fromisoformat(stamp)
            if word == BEGUN:
                begun = moment
            elif word == WHOLE and begun:
                spans.append((begun, moment))
            elif len(word) == HASH:
                hashes.add(word)
            else:
                raise ValueError(f"{self.path.name}: is no list of erasures")
        if until and begun:
            spans.append((begun, until))
        return Erased(frozenset(hashes), tuple(spans))

    def merge(self, other: "ErasureList", now: datetime) -> None:
        """Take over what the living list says, and note that up to now nothing is missing here.

        Raises:
            OSError: when one of them cannot be read, or this one not written.
        """
        known = set(self.path.read_text(encoding="ascii").splitlines()) if self.path.exists() else set()
        living = other.path.read_text(encoding="ascii").splitlines()
        self._append([*(line for line in living if line not in known), _line(now, WHOLE)], now)


def check_appendable(path: Path) -> None:
    """See that the list can be appended to, or made, before anything is touched.

    Raises:
        SettingsError: when it cannot: what is erased could come back with a restore.
    """
    place = next(one for one in (path, *path.absolute().parents) if one.exists())
    fits = path.is_file() if place == path else place.is_dir()
    if not fits or not os.access(place, os.W_OK):
        allowed = "allowed is the path of a file that this process can append to, and that outlives it"
        raise SettingsError(f"LEEWARD_ERASURES: {path} cannot be written; {allowed}")


def hash_of(key: bytes, kind: str, ref: str) -> str:
    """What stands on the list for something of this kind (`case`, `person`) with this reference."""
    return hmac.digest(key, f"{kind} {ref}".encode(), "sha256").hex()


def sync_folder(folder: Path) -> None:
    """Have the names of a folder's files survive a power cut, too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _line(moment: datetime, word: str) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {word}"


def _days(since: datetime, until: datetime) -> Iterable[date]:
    return (since.date() + _DAY * n for n in range((until.date() - since.date()).days + 1))

"""What is sealed in incident's database (AES-256-GCM): raw messages with a key a day, the work queue's identifiers."""

import base64
import json
import secrets
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from typing import Final

from sqlalchemy import Connection

from leeward.refs import new_ref
from leeward.sealing import Sealer
from leeward.settings.keys import Keyring
from leeward.store import Unit
from services.incident import repository
from services.incident.decisions.claims import Identifier

KEY_LIFE: Final = timedelta(hours=72)
KEY_TIMER: Final = "day_key"


class Box:
    """A `Sealer` whose sealed content is text (base64)."""

    def __init__(self, key: bytes) -> None:
        self._sealer = Sealer(key)

    def seal(self, content: bytes, about: str) -> str:
        return base64.b64encode(self._sealer.seal(content, about)).decode()

    def open(self, sealed: str, about: str) -> bytes:
        """The content.

        Raises:
            CannotOpen: when it is not of this key, or was changed.
        """
        return self._sealer.open(base64.b64decode(sealed), about)


def identifier_box(keys: Keyring) -> Box:
    """The box of the work queue."""
    return Box(keys.derive("incident unmatched"))


def seal_identifier(box: Box, unmatched_ref: str, identifier: Identifier) -> str:
    """An identifier for its row in the work queue."""
    return box.seal(json.dumps(identifier).encode(), unmatched_ref)


def open_identifier(box: Box, unmatched_ref: str, sealed: str) -> Identifier:
    """The identifier of a row in the work queue."""
    return Identifier(*json.loads(box.open(sealed, unmatched_ref)))


@dataclass(frozen=True, repr=False)
class Today:
    """The key of a day, opened."""

    key_ref: str
    day: date
    box: Box


class DayKeys:
    """The keys of the raw inbox. A key is made when its day's first message comes, and destroyed 72 hours later."""

    def __init__(self, keys: Keyring) -> None:
        self._outer = Box(keys.derive("incident day key"))
        self._today: Today | None = None

    def today(self, unit: Unit) -> Today:
        """The key to seal with now; made in this transaction where the day has none."""
        if self._today and self._today.day == unit.now.date():
            return self._today
        found = self._find(unit.conn, unit.now.date())
        if found is None:
            key_ref, key = new_ref(), secrets.token_bytes(32)
            sealed = self._outer.seal(key, key_ref)
            repository.insert_day_key(unit.conn, key_ref, unit.now.date(), sealed, unit.now)
            unit.set_timer(KEY_TIMER, key_ref, unit.now + KEY_LIFE)
            found = self._find(unit.conn, unit.now.date())
        if found is None:
            raise LookupError("the day's key was not stored")
        unit.after_commit(partial(setattr, self, "_today", found))
        return found

    def open(self, conn: Connection, key_ref: str) -> Box | None:
        """The box of one day; None once its key is destroyed."""
        row = repository.find_key(conn, key_ref)
        return Box(self._outer.open(row.sealed, key_ref)) if row else None

    def _find(self, conn: Connection, day: date) -> Today | None:
        row = repository.find_day_key(conn, day)
        return Today(row.key_ref, day, Box(self._outer.open(row.sealed, row.key_ref))) if row else None

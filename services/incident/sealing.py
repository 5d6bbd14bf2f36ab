"""What is sealed in incident's database (AES-256-GCM): raw messages with a key a day, the work queue's identifiers."""

import base64
import json
import secrets
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy import Connection, select

from leeward.refs import new_ref
from leeward.sealing import Sealer
from leeward.settings.keys import Keyring
from leeward.store import Insert, Unit
from services.incident.decisions.claims import Identifier
from services.incident.models import DayKey, table_of

KEY_LIFE: Final = timedelta(hours=72)
KEY_TIMER: Final = "day_key"
_DAY_KEY: Final = table_of(DayKey)
_NEW_KEY: Final = Insert(_DAY_KEY, ("key_ref", "day", "sealed", "made_at"), conflict="nothing")
_OF_DAY: Final = select(_DAY_KEY.c.key_ref, _DAY_KEY.c.sealed)


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
        if self._today is None or self._today.day != unit.now.date():
            found = self._find(unit.conn, unit.now) or self._make(unit)
            unit.after_commit(lambda: self._keep(found))
            return found
        return self._today

    def open(self, conn: Connection, key_ref: str) -> Box | None:
        """The box of one day; None once its key is destroyed."""
        sealed = conn.execute(_OF_DAY.where(_DAY_KEY.c.key_ref == key_ref)).one_or_none()
        return Box(self._outer.open(sealed.sealed, key_ref)) if sealed else None

    def _keep(self, found: Today) -> None:
        self._today = found

    def _find(self, conn: Connection, now: datetime) -> Today | None:
        row = conn.execute(_OF_DAY.where(_DAY_KEY.c.day == now.date())).one_or_none()
        return Today(row.key_ref, now.date(), Box(self._outer.open(row.sealed, row.key_ref))) if row else None

    def _make(self, unit: Unit) -> Today:
        key_ref, key = new_ref(), secrets.token_bytes(32)
        _NEW_KEY.run(unit.conn, [(key_ref, unit.now.date(), self._outer.seal(key, key_ref), unit.now)])
        unit.set_timer(KEY_TIMER, key_ref, unit.now + KEY_LIFE)
        found = self._find(unit.conn, unit.now)
        if found is None:
            raise LookupError("the day's key was not stored")
        return found

"""Taking ratings while a window is open, opening them in one shuffled batch after it, and releasing figures."""

import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from leeward.store import Insert, Unit
from services.feedback import blind, reports
from services.feedback.box.models import EPOCH, OPENED, RELEASE, SEALED
from services.feedback.reports import Rating

OPEN: Final = select(EPOCH).where(EPOCH.c.state == "rating")
# every open window is written by whoever adds to one or ends one: what two replicas do at once, one does again, having
# seen the other's. Locking alone would leave the second with the rows as they were before the first.
_TOUCH: Final = update(EPOCH).where(EPOCH.c.state == "rating").values(state=EPOCH.c.state)
KEEP_OPENED: Final = Insert(OPENED, ("ref", "epoch", "rating"))


class NotOpen(Exception):
    """No window is open for this token's epoch."""


class NoToken(Exception):
    """The signature does not hold under the epoch's key."""


class AlreadyGiven(Exception):
    """This token was spent on another answer."""


@dataclass(frozen=True)
class SpentToken:
    """A token and what it is spent on; `sealed` has a fixed size."""

    epoch: str
    prepared: bytes
    signature: bytes
    sealed: bytes


def shuffled(rows: Sequence[Any]) -> list[Any]:
    """The rows in an order drawn from the system's randomness."""
    mixed = list(rows)
    secrets.SystemRandom().shuffle(mixed)
    return mixed


def take(given: SpentToken) -> Callable[[Unit], None]:
    """Work: spend the token on the sealed rating; the same again changes nothing.

    Raises:
        NotOpen, NoToken, AlreadyGiven: and then nothing is stored.
    """
    token = hashlib.sha256(given.prepared).hexdigest()

    def work(unit: Unit) -> None:
        epoch = _window(unit, given.epoch)
        if not blind.verify(epoch.key, given.prepared, given.signature):
            raise NoToken
        spent = unit.conn.execute(select(SEALED.c.sealed).where(SEALED.c.token == token)).scalar()
        if spent is None:
            _add(unit.conn, {"token": token, "epoch": given.epoch, "sealed": given.sealed})
        elif spent != given.sealed:
            raise AlreadyGiven

    return work


def _window(unit: Unit, name: str) -> Row[Any]:
    """The epoch; whoever adds a rating to it writes those of every open one anew."""
    unit.conn.execute(_TOUCH)
    for epoch in unit.conn.execute(OPEN):
        if epoch.epoch == name and unit.now < epoch.closes_at:
            return epoch
    raise NotOpen


def _add(conn: Connection, row: dict[str, Any]) -> None:
    rows = [dict(other._mapping) for other in conn.execute(select(SEALED))]
    conn.execute(delete(SEALED))
    conn.execute(SEALED.insert(), shuffled([*rows, row]))


def sealed_in(conn: Connection, epoch: str) -> list[bytes]:
    """What was given in an epoch's window."""
    return list(conn.execute(select(SEALED.c.sealed).where(SEALED.c.epoch == epoch)).scalars())


def open_window(
    name: str, sealed: Collection[bytes], ratings: Sequence[Rating], unreadable: int
) -> Callable[[Unit], bool]:
    """Work, once the window is over: keep the opened batch, destroy what was sealed and its key, release what may be.

    Everything that waits for a release is written anew in one shuffled batch, so no row tells which came with which.

    Returns:
        False where more was sealed than has been opened (in the last moment, on another replica): nothing is done.
    """

    def work(unit: Unit) -> bool:
        unit.conn.execute(_TOUCH)
        epoch = unit.conn.execute(OPEN.where(EPOCH.c.epoch == name)).first()
        if epoch is None or unit.now < epoch.closes_at:
            return True  # another replica was first
        if set(sealed_in(unit.conn, name)) != set(sealed):
            return False
        unit.conn.execute(delete(SEALED).where(SEALED.c.epoch == name))
        doubtful = unreadable + max(0, len(ratings) - (epoch.issued or 0))
        ended = update(EPOCH).where(EPOCH.c.epoch == name)
        unit.conn.execute(ended.values(state="ended", seal_private=None, seal_key=None, doubtful=doubtful))
        waiting = [(row.epoch, row.rating) for row in unit.conn.execute(select(OPENED))]
        _keep(unit.conn, [*waiting, *((name, _text(rating)) for rating in ratings)])
        return True

    return work


def _text(rating: Rating) -> str:
    return reports.payload(rating).decode()


def _keep(conn: Connection, waiting: Sequence[tuple[str, str]]) -> None:
    conn.execute(delete(OPENED))
    figures = reports.figures([reports.parse(text.encode()) for _, text in waiting])
    if figures is None:
        KEEP_OPENED.run(conn, shuffled([(secrets.token_hex(16), epoch, text) for epoch, text in waiting]))
    else:
        _release(conn, {epoch for epoch, _ in waiting}, figures)


def _release(conn: Connection, epochs: set[str], figures: dict[str, Any]) -> None:
    """Freeze a release of whole epochs; the ratings behind it are gone, so none is ever in two."""
    days = select(func.min(EPOCH.c.opened_on), func.max(EPOCH.c.closed_on)).where(EPOCH.c.epoch.in_(epochs))
    first, last = conn.execute(days).one()
    number = (conn.execute(select(func.max(RELEASE.c.number))).scalar() or 0) + 1
    row = {"number": number, "first_day": first, "last_day": last, "figures": json.dumps(figures)}
    conn.execute(RELEASE.insert().values(**row))


def releases(conn: Connection) -> list[dict[str, Any]]:
    """The ledger, newest first."""
    rows = conn.execute(select(RELEASE).order_by(RELEASE.c.number.desc()))
    return [
        {"release": row.number, "from": row.first_day, "to": row.last_day, **json.loads(row.figures)} for row in rows
    ]

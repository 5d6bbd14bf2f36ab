"""The box's statements.

Where a row lies in its page tells when it was added. So whoever adds a row about a rating writes all of them again, in
an order drawn from the system's randomness, in one transaction.
"""

import json
import secrets
from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, select, update

from leeward.store import Insert, Unit
from services.feedback.box.models import EPOCH, OPENED, RELEASE, SEALED

_IN_WINDOW: Final = EPOCH.c.state == "rating"
_ADD_OPENED: Final = Insert(OPENED, ("ref", "epoch", "rating"))


def count_rows(conn: Connection) -> dict[str, int]:
    """Windows open, releases made, and epochs with more answers than tokens, or with unreadable ones."""
    windows = conn.execute(select(func.count()).select_from(EPOCH).where(_IN_WINDOW)).scalar_one()
    doubtful = conn.execute(select(func.count()).select_from(EPOCH).where(EPOCH.c.doubtful > 0)).scalar_one()
    released = conn.execute(select(func.count()).select_from(RELEASE)).scalar_one()
    return {"windows_open": windows, "releases": released, "epochs_in_doubt": doubtful}


# --- epochs and their windows ---


def list_epochs(conn: Connection) -> Sequence[Row[Any]]:
    """The epochs as pinned, newest first."""
    return conn.execute(select(EPOCH).order_by(EPOCH.c.opened_on.desc(), EPOCH.c.epoch)).all()


def states_of_epochs(conn: Connection) -> dict[str, str]:
    """The state of every pinned epoch."""
    return {row.epoch: row.state for row in conn.execute(select(EPOCH.c.epoch, EPOCH.c.state))}


def pin_epoch(conn: Connection, epoch: str, key: bytes, opened_on: date) -> None:
    """Pin an epoch's key, unless another replica was first."""
    if conn.execute(select(EPOCH.c.epoch).where(EPOCH.c.epoch == epoch)).first() is None:
        row = {"epoch": epoch, "state": "issuing", "key": key, "opened_on": opened_on, "doubtful": 0}
        conn.execute(EPOCH.insert().values(**row))


def begin_window(conn: Connection, epoch: str, **values: Any) -> None:
    """Let ratings in, with the box's own key to which they are sealed; once, whatever other replicas do."""
    begun = update(EPOCH).where(EPOCH.c.epoch == epoch, EPOCH.c.state == "issuing")
    conn.execute(begun.values(state="rating", **values))


def windows_to_end(conn: Connection, now: datetime) -> list[tuple[str, bytes]]:
    """(epoch, the sealed private key of its window) where the time for ratings is over, oldest first."""
    over = select(EPOCH.c.epoch, EPOCH.c.seal_private).where(_IN_WINDOW, EPOCH.c.closes_at <= now)
    return [(row.epoch, row.seal_private) for row in conn.execute(over.order_by(EPOCH.c.closes_at))]


def lock_window(unit: Unit, epoch: str) -> Row[Any] | None:
    """An epoch in its window, for whoever adds a rating to it or ends it; None where it is in none.

    Adding and ending both write the rows of all windows again, so two replicas that do so conflict on every one.
    """
    unit.conflict_on(EPOCH, _IN_WINDOW)
    return unit.conn.execute(select(EPOCH).where(_IN_WINDOW, EPOCH.c.epoch == epoch)).first()


def end_window(conn: Connection, epoch: str, doubtful: int) -> None:
    """Destroy the window's key and what was sealed to it."""
    conn.execute(delete(SEALED).where(SEALED.c.epoch == epoch))
    ended = update(EPOCH).where(EPOCH.c.epoch == epoch)
    conn.execute(ended.values(state="ended", seal_private=None, seal_key=None, doubtful=doubtful))


# --- ratings, from the window to the release ---


def shuffled(rows: Collection[Any]) -> list[Any]:
    """The rows in an order drawn from the system's randomness."""
    mixed = list(rows)
    secrets.SystemRandom().shuffle(mixed)
    return mixed


def sealed_for(conn: Connection, token: str) -> bytes | None:
    """What a token, given by its hash, was spent on."""
    found: bytes | None = conn.execute(select(SEALED.c.sealed).where(SEALED.c.token == token)).scalar()
    return found


def sealed_in(conn: Connection, epoch: str) -> list[bytes]:
    """What was given in an epoch's window."""
    return list(conn.execute(select(SEALED.c.sealed).where(SEALED.c.epoch == epoch)).scalars())


def add_sealed(conn: Connection, token: str, epoch: str, sealed: bytes) -> None:
    """Keep a sealed rating among the others."""
    rows = [dict(other._mapping) for other in conn.execute(select(SEALED))]
    conn.execute(delete(SEALED))
    conn.execute(SEALED.insert(), shuffled([*rows, {"token": token, "epoch": epoch, "sealed": sealed}]))


def opened_ratings(conn: Connection) -> list[tuple[str, str]]:
    """(epoch, rating as text) of all that waits for a release."""
    return [(row.epoch, row.rating) for row in conn.execute(select(OPENED))]


def replace_opened(conn: Connection, waiting: Collection[tuple[str, str]]) -> None:
    """Let these ratings, and none else, wait for a release."""
    conn.execute(delete(OPENED))
    _ADD_OPENED.run(conn, shuffled([(secrets.token_hex(16), epoch, text) for epoch, text in waiting]))


def add_release(conn: Connection, epochs: Collection[str], figures: dict[str, Any]) -> None:
    """Freeze a release of whole epochs under the next number."""
    days = select(func.min(EPOCH.c.opened_on), func.max(EPOCH.c.closed_on)).where(EPOCH.c.epoch.in_(epochs))
    first, last = conn.execute(days).one()
    number = (conn.execute(select(func.max(RELEASE.c.number))).scalar() or 0) + 1
    row = {"number": number, "first_day": first, "last_day": last, "figures": json.dumps(figures)}
    conn.execute(RELEASE.insert().values(**row))


def list_releases(conn: Connection) -> list[dict[str, Any]]:
    """The ledger, newest first."""
    rows = conn.execute(select(RELEASE).order_by(RELEASE.c.number.desc()))
    return [
        {"release": row.number, "from": row.first_day, "to": row.last_day, **json.loads(row.figures)} for row in rows
    ]

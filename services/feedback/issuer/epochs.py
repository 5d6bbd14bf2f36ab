"""Epochs: one key signs at a time, for at least so long and so many tokens; then it is destroyed, the next begins."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, update

from leeward.sealing import Sealer
from leeward.settings.keys import Keyring
from leeward.settings.policy import Feedback
from leeward.store import Timer, Unit
from services.feedback import blind
from services.feedback.issuer.models import CLAIM, EPOCH

CLOSE: Final = "close_epoch"
END: Final = "end_epoch"
ISSUING: Final = select(EPOCH).where(EPOCH.c.issuing == 1).with_for_update()


class Safe:
    """Keeps an epoch's private key sealed with the service's own, bound to the epoch's name."""

    def __init__(self, keys: Keyring) -> None:
        self._sealer = Sealer(keys.derive("epoch keys"))

    def lock(self, epoch: str, der: bytes) -> bytes:
        return self._sealer.seal(der, epoch)

    def unlock(self, epoch: str, locked: bytes) -> blind.SigningKey:
        return blind.load(self._sealer.open(locked, epoch))


def issuing(unit: Unit, safe: Safe, policy: Feedback) -> Row[Any]:
    """The epoch that signs now, locked; the very first one is made here."""
    found = unit.conn.execute(ISSUING).first()
    if found is None:
        open_epoch(unit, safe, policy)
        found = unit.conn.execute(ISSUING).one()
    return found


def open_epoch(unit: Unit, safe: Safe, policy: Feedback) -> None:
    """Make a key and sign with it from now on. Making it takes 0.2 s, once in three months."""
    key = blind.generate()
    epoch = blind.epoch_of(key.spki)
    row = {"epoch": epoch, "spki": key.spki, "private": safe.lock(epoch, key.der), "issuing": 1, "issued": 0}
    unit.conn.execute(EPOCH.insert().values(**row, opened_at=unit.now))
    unit.set_timer(CLOSE, epoch, unit.now + policy.epoch_min)


def may_close(epoch: Row[Any], now: datetime, policy: Feedback) -> bool:
    """Long enough *and* enough tokens (DESIGN §7): a rating hides among the tokens of its epoch."""
    return bool(epoch.issued >= policy.epoch_tokens and now >= epoch.opened_at + policy.epoch_min)


def close_epochs(safe: Safe, policy: Feedback) -> Callable[[Unit, Sequence[Timer]], None]:
    """Timer: close the epoch when both conditions hold, destroying its private key, and open the next."""

    def close(unit: Unit, _timers: Sequence[Timer]) -> None:
        epoch = unit.conn.execute(ISSUING).first()
        if epoch is None or not may_close(epoch, unit.now, policy):
            return  # too few tokens: the one that makes them enough sets the timer again
        closed = update(EPOCH).where(EPOCH.c.epoch == epoch.epoch)
        unit.conn.execute(closed.values(issuing=None, private=None, closed_at=unit.now))
        unit.set_timer(END, epoch.epoch, unit.now + policy.window)
        open_epoch(unit, safe, policy)

    return close


def end_epochs(unit: Unit, timers: Sequence[Timer]) -> None:
    """Timer: once the rating window is over, forget which cases fetched a token in that epoch."""
    unit.conn.execute(delete(CLAIM).where(CLAIM.c.epoch.in_([timer.key for timer in timers])))


def published(conn: Connection, now: datetime, window: timedelta) -> list[dict[str, Any]]:
    """Every epoch as anybody may know it, newest first; days, no times; the count only once it moves no more."""
    newest = select(EPOCH).order_by(EPOCH.c.opened_at.desc())
    return [_public(epoch, now, window) for epoch in conn.execute(newest)]


def _public(epoch: Row[Any], now: datetime, window: timedelta) -> dict[str, Any]:
    ends = epoch.closed_at + window if epoch.closed_at else None
    return {
        "epoch": epoch.epoch,
        "state": "issuing" if ends is None else "rating" if now < ends else "ended",
        "key": epoch.spki,
        "fingerprint": blind.fingerprint(epoch.spki),
        "issued": epoch.issued if ends else None,
        "opened_on": epoch.opened_at.date(),
        "closed_on": epoch.closed_at.date() if epoch.closed_at else None,
        "ends_on": ends.date() if ends else None,
    }

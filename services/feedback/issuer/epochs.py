"""Epochs: one key signs at a time, for at least so long and so many tokens; then it is destroyed, the next begins."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from leeward.sealing import Sealer
from leeward.settings.keys import Keyring
from leeward.settings.policy import Feedback
from leeward.store import Timer, Unit
from services.feedback import blind
from services.feedback.issuer import repository

CLOSE: Final = "close_epoch"
END: Final = "end_epoch"
FORGOTTEN_AT_ONCE: Final = 500


class Safe:
    """Keeps an epoch's private key sealed with the service's own, bound to the epoch's name."""

    def __init__(self, keys: Keyring) -> None:
        self._sealer = Sealer(keys.derive("epoch keys"))

    def lock(self, epoch: str, der: bytes) -> bytes:
        return self._sealer.seal(der, epoch)

    def unlock(self, epoch: str, locked: bytes) -> blind.SigningKey:
        return blind.load(self._sealer.open(locked, epoch))


def signing_epoch(unit: Unit, safe: Safe, policy: Feedback) -> Row[Any]:
    """The epoch that signs now, locked; the very first one is made here."""
    found = repository.lock_signing_epoch(unit.conn)
    if found is None:
        open_epoch(unit, safe, policy)
        found = repository.lock_signing_epoch(unit.conn)
        assert found
    return found


def open_epoch(unit: Unit, safe: Safe, policy: Feedback) -> None:
    """Make a key and sign with it from now on. Making it takes 0.2 s, once in three months."""
    key = blind.generate()
    epoch = blind.epoch_of(key.spki)
    repository.add_epoch(unit.conn, epoch, key.spki, safe.lock(epoch, key.der), unit.now)
    unit.set_timer(CLOSE, epoch, unit.now + policy.epoch_min)


def may_close(epoch: Row[Any], now: datetime, policy: Feedback) -> bool:
    """Long enough *and* enough tokens (DESIGN §7): a rating hides among the tokens of its epoch."""
    return bool(epoch.issued >= policy.epoch_tokens and now >= epoch.opened_at + policy.epoch_min)


def close_epochs(safe: Safe, policy: Feedback) -> Callable[[Unit, Sequence[Timer]], None]:
    """Timer: close the epoch when both conditions hold, destroying its private key, and open the next."""

    def close(unit: Unit, _timers: Sequence[Timer]) -> None:
        epoch = repository.lock_signing_epoch(unit.conn)
        if epoch is None or not may_close(epoch, unit.now, policy):
            return  # too few tokens: the one that makes them enough sets the timer again
        repository.close_epoch(unit.conn, epoch.epoch, unit.now)
        unit.set_timer(END, epoch.epoch, unit.now + policy.window)
        open_epoch(unit, safe, policy)

    return close


def end_epochs(unit: Unit, timers: Sequence[Timer]) -> None:
    """Timer: once the rating window is over, forget which cases fetched a token in that epoch, a slice at a time."""
    for timer in timers:
        if repository.delete_claims_of(unit.conn, timer.key, FORGOTTEN_AT_ONCE):
            unit.set_timer(END, timer.key, unit.now)


def describe_epochs(conn: Connection, now: datetime, window: timedelta) -> list[dict[str, Any]]:
    """Every epoch as anybody may know it, newest first; days, no times; the count only once it moves no more."""
    found = []
    for epoch in repository.list_epochs(conn):
        ends = epoch.closed_at + window if epoch.closed_at else None
        found.append(
            {
                "epoch": epoch.epoch,
                "state": "issuing" if ends is None else "rating" if now < ends else "ended",
                "key": epoch.spki,
                "fingerprint": blind.fingerprint(epoch.spki),
                "issued": epoch.issued if ends else None,
                "opened_on": epoch.opened_at.date(),
                "closed_on": epoch.closed_at.date() if epoch.closed_at else None,
                "ends_on": ends.date() if ends else None,
            }
        )
    return found

"""Accepting ratings while a window is open, opening them in one shuffled batch after it, and releasing figures."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from leeward.store import Unit
from services.feedback import blind, reports
from services.feedback.box import repository
from services.feedback.reports import Rating


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


def accept_rating(given: SpentToken) -> Callable[[Unit], None]:
    """Work: spend the token on the sealed rating; the same again changes nothing.

    Raises:
        NotOpen, NoToken, AlreadyGiven: and then nothing is stored.
    """
    token = hashlib.sha256(given.prepared).hexdigest()

    def work(unit: Unit) -> None:
        epoch = repository.lock_window(unit, given.epoch)
        if epoch is None or unit.now >= epoch.closes_at:
            raise NotOpen
        if not blind.verify(epoch.key, given.prepared, given.signature):
            raise NoToken
        spent = repository.sealed_for(unit.conn, token)
        if spent is None:
            repository.add_sealed(unit.conn, token, given.epoch, given.sealed)
        elif spent != given.sealed:
            raise AlreadyGiven

    return work


def open_window(
    name: str, sealed: Collection[bytes], ratings: Sequence[Rating], unreadable: int
) -> Callable[[Unit], bool]:
    """Work, once the window is over: keep the opened batch, destroy what was sealed and its key, release what may be.

    Everything that waits for a release is written again in one shuffled batch, so no row tells which came with which.
    A release is of whole epochs, and the ratings behind it are deleted, so that none is ever in two.

    Returns:
        False where more was sealed than has been opened (in the last moment, on another replica): nothing is done.
    """

    def work(unit: Unit) -> bool:
        conn = unit.conn
        epoch = repository.lock_window(unit, name)
        if epoch is None or unit.now < epoch.closes_at:
            return True  # another replica was first
        if set(repository.sealed_in(conn, name)) != set(sealed):
            return False
        repository.end_window(conn, name, doubtful=unreadable + max(0, len(ratings) - (epoch.issued or 0)))
        waiting = [*repository.opened_ratings(conn), *((name, reports.payload(one).decode()) for one in ratings)]
        figures = reports.figures([reports.parse(text.encode()) for _, text in waiting])
        repository.replace_opened(conn, () if figures else waiting)
        if figures:
            repository.add_release(conn, {epoch for epoch, _ in waiting}, figures)
        return True

    return work

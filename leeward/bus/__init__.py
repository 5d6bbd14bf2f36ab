"""The Bus protocol: what a consumer needs of a log of events, whichever carries it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from leeward.store import Unit


@dataclass(frozen=True, slots=True)
class Raw:
    """An event as the log holds it, its body not yet parsed; `position` is the log's own."""

    position: int
    id: str
    type: str
    key: str
    body: str
    accepted_at: datetime


class Subscription(Protocol):
    """One consumer of one topic; batches come in the log's order, at least once."""

    async def fetch(self, limit: int) -> Sequence[Raw]:
        """Wait until there is something after the position, and give at most `limit` of it.

        The position is the last batch that was settled: one that was not (its transaction failed) is given again.

        Raises:
            BusUnavailable: when the log cannot be read now.
        """
        ...

    def settle(self, unit: Unit, batch: Sequence[Raw]) -> None:
        """Move the position inside the transaction that holds the effects, where the log allows it."""
        ...

    async def settled(self, batch: Sequence[Raw]) -> None:
        """Move the position after that transaction, where the log keeps it elsewhere."""
        ...


class Bus(Protocol):
    """Opens subscriptions and, where producers must send, a relay for each producer's outbox."""

    def subscribe(self, group: str, topic: str) -> Subscription:
        """A consumer of `topic` (a type's first two words) for the consumer group `group` (a service)."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...


class BusUnavailable(Exception):
    """The log cannot be read or written now."""

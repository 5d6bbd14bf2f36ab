"""The Bus protocol: what a consumer needs of a log of events, whichever carries it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from leeward.settings import ServiceName
from leeward.store import Unit


@dataclass(frozen=True, slots=True)
class Raw:
    """An event as the log holds it, its body not yet parsed; `partition` and `position` are the log's own."""

    position: int
    id: str
    type: str
    key: str
    body: str
    accepted_at: datetime
    partition: int = 0


class Subscription(Protocol):
    """One consumer of one topic; batches come in the log's order, at least once."""

    async def open(self) -> None:
        """Be ready to fetch, or find that one is: a member of the group, where there is one.

        Raises:
            BusUnavailable: when that cannot be now.
        """
        ...

    async def fetch(self, limit: int) -> Sequence[Raw]:
        """Wait until there is something after the position, and give at most `limit` of it.

        The position is the last batch that was settled: one that was not (its transaction failed) is given again.

        Raises:
            BusUnavailable: when the log cannot be read now.
        """
        ...

    def settle(self, unit: Unit, batch: Sequence[Raw], fresh: Sequence[Raw]) -> None:
        """Move the position inside the transaction that holds the effects.

        Args:
            fresh: those of the batch that were not applied before.
        """
        ...

    async def settled(self, batch: Sequence[Raw]) -> None:
        """Move the position after that transaction, where the log keeps it elsewhere."""
        ...

    def lag(self) -> int:
        """How many events there were after the position when the log was last looked at."""
        ...

    def noted(self) -> str:
        """The code of why the log was begun again within the last day, empty where it was not.

        It was put back from a copy, or the consumer's database was, or events that this consumer needs are gone.
        """
        ...

    async def close(self) -> None:
        """Leave the group, so that others go on without waiting; a later `fetch` joins it again."""
        ...


class Relay(Protocol):
    """Sends what a producer has committed, where its outbox is not the log itself."""

    stuck: bool

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; what is under way is finished first."""
        ...


class Bus(Protocol):
    """Opens subscriptions and, where producers must send, a relay for each producer's outbox."""

    def subscribe(self, group: ServiceName, topic: str) -> Subscription:
        """A consumer of `topic` (a type's first two words) for the consumer group `group` (a service)."""
        ...

    def relay(self, producer: str) -> Relay | None:
        """What sends this service's events; None where its outbox is the log."""
        ...

    def forget(self, service: ServiceName, unit: Unit, most: int) -> bool:
        """Drop what a service's outbox and inbox need not hold any longer, at most so many rows of each.

        `unit` is that service's. Gives whether there may be more.
        """
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...


class BusUnavailable(Exception):
    """The log cannot be read or written now; `address` is where that was tried, empty where it has none."""

    def __init__(self, why: str = "", address: str = "") -> None:
        super().__init__(why)
        self.address = address


class TopicMissing(BusUnavailable):
    """The topic is not there: deleted, or never made. `leeward migrate` makes it, empty."""

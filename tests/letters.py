"""A service's real consumer, given its events by hand, and whatever it gives up."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import uuid4

from leeward.bus import Raw
from leeward.bus.consumer import Consumer
from leeward.bus.parking import FIRST_RETRY, Parking
from leeward.contracts import EventData
from leeward.service import Handler
from leeward.settings import ServiceName
from leeward.store import Store, Unit
from leeward.testing import ManualClock


class _ByHand:
    """A log that nobody reads: batches are given to the consumer as they are."""

    async def open(self) -> None: ...
    async def fetch(self, _limit: int) -> Sequence[Raw]:
        raise NotImplementedError

    def settle(self, _unit: Unit, _batch: Sequence[Raw], _fresh: Sequence[Raw]) -> None: ...
    async def settled(self, _batch: Sequence[Raw]) -> None: ...
    def lag(self) -> int:
        return 0

    def noted(self) -> str:
        return ""

    async def close(self) -> None: ...


class Consuming:
    """One service's consumer of one topic on a real store."""

    def __init__(
        self, service: ServiceName, topic: str, store: Store, clock: ManualClock, handlers: Mapping[str, Handler]
    ) -> None:
        self.store = store
        self.clock = clock
        self.parking = Parking(service, store, handlers)
        self._consumer = Consumer(topic, _ByHand(), store, self.parking)

    async def take(self, *events: EventData, key: str = "") -> None:
        """What the log would bring, in one batch."""
        await self.take_raw(*((event.type, key or event.key, event.model_dump_json()) for event in events))

    async def take_raw(self, *events: tuple[str, str, str]) -> None:
        """The same of anybody: type, key and body."""
        now: datetime = self.clock.now()
        await self._consumer.take([Raw(0, str(uuid4()), *event, accepted_at=now) for event in events])

    async def give_up(self) -> None:
        """Try what waits until nothing does."""
        table = self.store.writes.tables.parked
        waiting = table.select().where(table.c.dead == 0)
        while await self.store.read(lambda conn: conn.execute(waiting).first()):
            await self.clock.advance(seconds=FIRST_RETRY.total_seconds() * 256)
            await self.parking.retry()


def fails(_unit: Unit, _events: Sequence[object]) -> None:
    """A handler with a fault, in which a name stands."""
    raise LookupError("Anna Weber")

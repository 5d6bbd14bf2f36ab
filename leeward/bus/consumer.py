"""A consumer: takes batches from a subscription and applies them in one transaction each, parking what fails."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from itertools import groupby
from time import monotonic
from typing import Any, Final, TypeVar

from leeward import telemetry
from leeward.bus import BusUnavailable, Raw, Subscription, TopicMissing, dead_letters
from leeward.bus.parking import Parking, TooManyParked, event_of
from leeward.contracts import EVENTS, Event
from leeward.service import Handler
from leeward.store import Store, StoreUnavailable, Unit
from leeward.store.periodic import back_off

T = TypeVar("T")
BATCH: Final = 256
PASSED_OVER: Final = 4096
QUIET: Final = 2.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 5.0


class Consumer:
    """One service's consumer of one topic.

    A batch is one transaction: the inbox first (it fences a consumer that was replaced), then the parked keys, then
    the handlers in the log's order, then position and outbox. A batch that raises runs again one event at a time.
    """

    def __init__(self, topic: str, subscription: Subscription, store: Store, parking: Parking) -> None:
        self.topic = topic
        self._subscription = subscription
        self._store = store
        self._parking = parking
        self._passed_over = 0
        self._since: float | None = None
        self._faults = 0
        self._logged = ""
        self.stuck = True
        self.opened = asyncio.Event()  # it knows its position
        service = parking.service
        telemetry.BUS_LAG.labels(service, topic).set_function(subscription.lag)
        # seconds since the batch was taken that is not applied yet
        oldest = telemetry.BUS_OLDEST.labels(service, topic)
        oldest.set_function(lambda: 0.0 if self._since is None else monotonic() - self._since)

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop` is set; the batch under way is finished first."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                try:
                    await self._step(stopping)
                    self._faults, self._logged = 0, ""
                except (StoreUnavailable, BusUnavailable, TooManyParked) as fault:
                    self.stuck, self._faults = True, self._faults + 1
                    if self._logged != repr(fault):
                        self._logged = repr(fault)
                        log_wait("consumer_waits", self._parking.service, self.topic, fault)
                    await asyncio.wait([stopping], timeout=back_off(self._faults, _FIRST_PAUSE, _LONGEST_PAUSE))
                except Exception:
                    # the runtime starts us again; what cannot even be parked must not look like progress
                    self.stuck, self._faults = True, self._faults + 1
                    raise
        finally:
            stopping.cancel()
            await self._subscription.close()

    def noted(self) -> str:
        """Why the topic was begun again within the last day; see `Subscription.noted`."""
        return self._subscription.noted()

    async def _step(self, stopping: "asyncio.Task[bool]") -> None:
        await _first(stopping, self._subscription.open())
        self.opened.set()
        self.stuck = self._faults > 0
        batch = await _first(stopping, self._fetch()) or ()
        if batch:
            self._since = self._since or monotonic()
            await self.take(batch)
            self._since, self.stuck = None, False

    async def _fetch(self) -> Sequence[Raw]:
        """The next batch. After a fault, none for a while means that another replica has applied what failed here."""
        fetching = asyncio.ensure_future(self._subscription.fetch(BATCH))
        try:
            await asyncio.wait([fetching], timeout=QUIET)
            if not fetching.done():
                # a batch that could not be applied has become another replica's
                self._since, self.stuck = None, False
            return await fetching
        finally:
            fetching.cancel()

    async def take(self, batch: Sequence[Raw]) -> None:
        """Apply one batch and move the position past it.

        Raises:
            StoreUnavailable, TooManyParked: nothing was applied and the position stands; the batch may come again.
        """
        self._passed_over += len(batch)
        # a long run of others' events is still noted as passed
        if self._passed_over >= PASSED_OVER or any(self._ours(raw) for raw in batch):
            self._passed_over = 0
            await self._apply_in_one_or_singly(batch)
        await self._subscription.settled(batch)

    def _ours(self, raw: Raw) -> bool:
        return raw.type in self._parking.types or raw.type not in EVENTS

    async def _apply_in_one_or_singly(self, batch: Sequence[Raw]) -> None:
        try:
            await self._store.write(lambda unit: self._apply(unit, batch))
        except StoreUnavailable:
            raise
        except Exception as fault:
            if len(batch) > 1:
                for raw in batch:
                    await self._apply_in_one_or_singly([raw])
                return
            blamed = fault
            await self._store.write(lambda unit: self._set_aside(unit, batch[0], blamed))

    def _apply(self, unit: Unit, batch: Sequence[Raw]) -> None:
        fresh = self._admit(unit, batch)
        self._subscription.settle(unit, batch, fresh)
        events = decoded(self._parking.followers_aside(unit, self.topic, fresh))
        apply_events(unit, events, self._parking.handlers)
        dead_letters.end(unit, events)
        unit.after_commit(lambda: self._parking.count_handled(events))

    def _set_aside(self, unit: Unit, raw: Raw, fault: Exception) -> None:
        fresh = self._admit(unit, [raw])
        self._subscription.settle(unit, [raw], fresh)
        if fresh:
            self._parking.park(unit, self.topic, raw, fault)

    def _admit(self, unit: Unit, batch: Sequence[Raw]) -> list[Raw]:
        """Insert the inbox rows in log order and keep the events that were not there."""
        known = [raw for raw in batch if self._ours(raw)]
        day = unit.now.date()
        rows = unit.writes.inbox.run(unit.conn, [(raw.id, day) for raw in known])
        new = {row.event_id for row in rows}
        # by id, since a relay that sent twice may have put both into one batch
        fresh = {raw.id: raw for raw in known if raw.id in new}
        repeated = telemetry.EVENTS_REPEATED.labels(self._parking.service)
        unit.after_commit(lambda: repeated.inc(len(known) - len(fresh)))
        return list(fresh.values())


def log_wait(event: str, service: str, topic: str, fault: Exception) -> None:
    """Log what a consumer or a relay waits for; a topic that is missing has an event of its own."""
    why = {} if isinstance(fault, TopicMissing) else {"fault": str(fault) or type(fault).__name__}
    if isinstance(fault, BusUnavailable) and fault.address:
        why["address"] = fault.address
    telemetry.log("topic_missing" if isinstance(fault, TopicMissing) else event, service=service, topic=topic, **why)


async def _first(stopping: "asyncio.Task[bool]", work: Coroutine[Any, Any, T]) -> T | None:
    """What the work gives; None where a stop comes first."""
    doing = asyncio.ensure_future(work)
    try:
        await asyncio.wait([doing, stopping], return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()


def decoded(raws: Sequence[Raw]) -> list[Event]:
    """Events with parsed bodies, in the same order.

    Raises:
        Undecodable: for the first that no release of ours understands.
    """
    return [event_of(raw.id, raw.type, raw.key, raw.body, raw.accepted_at) for raw in raws]


def apply_events(unit: Unit, events: Sequence[Event], handlers: Mapping[str, Handler]) -> None:
    """Call the handlers for runs of the same type, so that the order between types is kept as well."""
    for event_type, run in groupby(events, key=lambda event: event.type):
        handlers[event_type](unit, list(run))

"""Sends a service's outbox to Kafka: in the order of its numbers, acknowledged by all replicas, then deleted.

One replica at a time does so, by a lease that runs out when it hangs. Should two overlap for a moment, each still sends
the events of a key in their order, and consumers drop what came before: what wakes late has nothing that was not sent.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy import Connection, bindparam, delete, func, select

from leeward import telemetry
from leeward.brokers import Brokers
from leeward.bus import BusUnavailable, TopicMissing
from leeward.bus.consumer import log_wait
from leeward.bus.topics import LARGEST
from leeward.clock import first_of
from leeward.contracts.envelope import attributes
from leeward.store import Store, StoreUnavailable, Unit
from leeward.store.lookup import in_list
from leeward.store.periodic import back_off

BATCH: Final = 500
LOOK_AGAIN: Final = 1.0
MEASURE_EVERY: Final = 1.0
MOST_COUNTED: Final = 100_000
PATIENCE: Final = 15.0
CLOSE: Final = 5.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_LOCK: Final = "relay"


class KafkaRelay:
    """The relay of one service; `stuck` until it has found that it can send, and while it cannot."""

    def __init__(self, brokers: Brokers, producer: str, store: Store) -> None:
        self.stuck = True
        self._brokers = brokers
        self._service = producer
        self._topic = f"leeward.{producer}"
        self._store = store
        self._mine = False
        self._logged = ""
        self._woken = asyncio.Event()
        self._kafka: AIOKafkaProducer | None = None
        self._sent: set[int] = set()
        self._deleting: asyncio.Task[None] | None = None
        self._first: tuple[int | None, float] = (None, 0.0)
        self._measured = -MEASURE_EVERY
        outbox = store.writes.tables.outbox
        self._next = select(outbox).order_by(outbox.c.seq).limit(bindparam("limit"))
        some = select(outbox.c.seq).order_by(outbox.c.seq).limit(MOST_COUNTED).subquery()
        self._count = select(func.count(), func.min(some.c.seq)).select_from(some)
        self._drop = delete(outbox).where(in_list(outbox.c.seq, "sent"))
        store.listeners.append(self._notice)
        store.wakers.append(self._woken.set)

    def _notice(self, unit: Unit) -> None:
        if unit.emitted and self._mine:
            self._woken.set()
        elif unit.emitted:
            self._store.wake_others()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; then once more, and let another replica take over."""
        faults = 0
        try:
            while not stop.is_set():
                self._woken.clear()
                try:
                    await self._measure()
                    self._mine = await self._store.hold(_LOCK)
                    busy = self._mine and await self.send()
                    faults, self.stuck, self._logged = 0, False, ""
                except (StoreUnavailable, BusUnavailable) as fault:
                    await self._set_back(fault)
                    faults, busy = faults + 1, True
                    await first_of(stop.wait(), asyncio.sleep(back_off(faults, _FIRST_PAUSE, _LONGEST_PAUSE)))
                if not busy:
                    await first_of(stop.wait(), self._woken.wait(), asyncio.sleep(LOOK_AGAIN))
        finally:
            self.stuck = True
            with suppress(StoreUnavailable, BusUnavailable):
                if self._mine and self._kafka is not None:
                    await self.send()
                if self._deleting is not None:
                    await self._deleting
                await self._store.release(_LOCK)
            await self.close()

    async def send(self) -> bool:
        """Send what waits, at most one batch; True where there may be more.

        Raises:
            StoreUnavailable, BusUnavailable: nothing is lost; some of it may come twice.
        """
        rows = await self._store.glance(self._waiting)
        kafka = await self._producer()
        if self._mine and not self._store.holds(_LOCK):
            # this process hung meanwhile: another one may have sent these
            return True
        if rows:
            await self._acknowledged(kafka, rows)
            self._sent.update(row.seq for row in rows)
        if self._sent and (self._deleting is None or self._deleting.done()):
            self._deleting = asyncio.create_task(self._delete())
        return len(rows) >= BATCH

    def _waiting(self, conn: Connection) -> Sequence[Any]:
        # of before the look: what is deleted meanwhile may still be found
        sent = self._sent.copy()
        found = conn.execute(self._next, {"limit": BATCH + len(sent)}).all()
        return [row for row in found if row.seq not in sent]

    async def _measure(self) -> None:
        """Say what waits and for how long, by every replica: the one that sends may hang, and would not say it."""
        now = asyncio.get_running_loop().time()
        if now - self._measured < MEASURE_EVERY:
            return
        self._measured = now
        count, first = await self._store.glance(lambda conn: conn.execute(self._count).one())
        if self._first[0] != first:
            self._first = (first, now)
        telemetry.OUTBOX_WAITING.labels(self._service).set(max(0, count - len(self._sent)))
        telemetry.OUTBOX_OLDEST.labels(self._service).set(now - self._first[1] if count > len(self._sent) else 0)

    async def _acknowledged(self, kafka: AIOKafkaProducer, rows: Sequence[Any]) -> None:
        """All of them are handed to the producer in order, then all acknowledgements awaited."""
        now = self._store.clock.now()
        sent = []
        try:
            async with asyncio.timeout(PATIENCE):
                for row in rows:
                    headers = attributes(row.id, row.type, row.key, now - row.accepted_at, now)
                    pairs = [(name, value.encode()) for name, value in headers.items()]
                    key, value = row.key.encode(), row.body.encode()
                    sent.append(await kafka.send(self._topic, key=key, value=value, headers=pairs))
                await asyncio.gather(*sent)
        except (KafkaError, OSError, TimeoutError) as fault:
            raise BusUnavailable(type(fault).__name__, self._brokers.servers) from fault

    async def _delete(self) -> None:
        """Forget what is acknowledged, beside the sending; what a crash brings back is sent again and dropped."""
        while self._sent:
            gone = list(self._sent)
            forget = partial(Connection.execute, statement=self._drop, parameters={"sent": gone})
            try:
                await self._store.sweep(forget)
            except StoreUnavailable:
                return
            self._sent.difference_update(gone)

    async def _producer(self) -> AIOKafkaProducer:
        """The producer, made again after any fault: a fatal one leaves it dead (aio-libs/aiokafka#1017)."""
        if self._kafka is None:
            kafka = AIOKafkaProducer(
                **self._brokers.client(),
                enable_idempotence=True,
                acks="all",
                request_timeout_ms=10_000,
                max_request_size=LARGEST,
            )
            try:
                async with asyncio.timeout(PATIENCE):
                    await kafka.start()
                    await kafka.client.force_metadata_update()
            except BaseException as fault:
                await discard(kafka)
                if isinstance(fault, (KafkaError, OSError, TimeoutError)):
                    raise BusUnavailable(type(fault).__name__, self._brokers.servers) from fault
                raise
            self._kafka = kafka
        if self._topic not in self._kafka.client.cluster.topics():
            raise TopicMissing
        return self._kafka

    async def _set_back(self, fault: Exception) -> None:
        if self._logged != repr(fault):
            self._logged = repr(fault)
            log_wait("relay_waits", self._service, self._topic, fault)
        self.stuck = True
        if isinstance(fault, BusUnavailable):
            telemetry.BUS_REBUILT.labels(self._service, "producer").inc()
            await self._discard()

    async def close(self) -> None:
        """End the producer; what is under way may be sent again."""
        if self._deleting is not None:
            await self._deleting
        await self._discard()

    async def _discard(self) -> None:
        kafka, self._kafka = self._kafka, None
        if kafka is not None:
            await discard(kafka)


async def discard(kafka: AIOKafkaProducer) -> None:
    """End a producer, whatever state it is in; it must not wait for a broker that is away."""
    stopping = asyncio.ensure_future(kafka.stop())
    await asyncio.wait([stopping], timeout=CLOSE)
    if not stopping.done() or stopping.cancelled() or stopping.exception():
        stopping.cancel()
        # its own stop waits for acknowledgements that may never come
        with suppress(KafkaError, OSError):
            await kafka._sender.close()
            await kafka.client.close()

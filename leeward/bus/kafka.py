"""The distributed bus: Apache Kafka through aiokafka. Topics are made by `leeward migrate`, never by a service.

CloudEvents travel in binary mode. Nothing here names a topic in a request for metadata: a broker that makes the topics
it is asked for would make one again that was deleted, empty and in silence.
"""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from leeward import telemetry
from leeward.brokers import Brokers
from leeward.bus import BusUnavailable, Raw, TopicMissing
from leeward.bus.relay import KafkaRelay
from leeward.bus.topics import TOPICS
from leeward.clock import Clock
from leeward.store import Store, Unit

POLL: Final = 1.0
CHECK: Final = 10.0
SESSION: Final = 10.0
CLOSE: Final = 5.0
_NO_DATE: Final = timedelta()
_LONGEST: Final = {"id": 36, "type": 80, "key": 36}


class KafkaBus:
    """Consumers and relays on one cluster; `stores` are this process's own, by service."""

    def __init__(self, brokers: Brokers, stores: dict[str, Store], clock: Clock) -> None:
        self._brokers = brokers
        self._stores = stores
        self._clock = clock
        self._subscriptions: list[KafkaSubscription] = []

    def subscribe(self, group: str, topic: str) -> "KafkaSubscription":
        made = KafkaSubscription(self._brokers, group, topic, self._clock)
        self._subscriptions.append(made)
        return made

    def relay(self, producer: str) -> KafkaRelay | None:
        """Sends what a service publishes; None for one that publishes nothing and so has no topic."""
        if f"leeward.{producer}" not in TOPICS:
            return None
        return KafkaRelay(self._brokers, producer, self._stores[producer])

    def forget(self, producer: str, unit: Unit, most: int) -> bool:
        """The relay deletes what Kafka has; what it has not is kept, however old."""
        return False

    async def close(self) -> None:
        for one in self._subscriptions:
            await one.close()


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a consumer group, rebuilt when it fails or is alive and stuck (aio-libs/aiokafka#1154, #847, #625).

    A group is one service on one topic, so that a replica's other consumers are not stopped by its rebalances.
    """

    def __init__(self, brokers: Brokers, group: str, topic: str, clock: Clock) -> None:
        self._brokers = brokers
        self._service = group
        self._topic = topic
        self._clock = clock
        self._consumer: AIOKafkaConsumer | None = None
        self._held: list[Raw] = []
        self._next: dict[TopicPartition, int] = {}
        self._assigned = asyncio.Event()
        self._checked = 0.0
        self._moved = 0.0

    async def open(self) -> None:
        try:
            async with asyncio.timeout(2 * SESSION):
                await self._joined()
                await self._assigned.wait()
        except BusUnavailable:
            await self._leave()
            raise
        except (KafkaError, OSError, TimeoutError, AssertionError, RuntimeError) as fault:
            await self._rebuild(type(fault).__name__)

    async def fetch(self, limit: int) -> Sequence[Raw]:
        while not self._held:
            try:
                consumer = await self._joined()
                found = await consumer.getmany(timeout_ms=int(POLL * 1000), max_records=limit)
                self._held = [raw_of(one, self._clock.now()) for records in found.values() for one in records]
                for partition, records in found.items():
                    self._next.setdefault(partition, records[0].offset)
                await self._check(consumer)
            except BusUnavailable:
                await self._leave()
                raise
            except (KafkaError, OSError, TimeoutError, AssertionError, RuntimeError) as fault:
                await self._rebuild(type(fault).__name__)
        return self._held

    async def _joined(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = consumer = AIOKafkaConsumer(
                **self._brokers.client(),
                group_id=f"leeward.{self._service}.{self._topic}",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                session_timeout_ms=int(SESSION * 1000),
                heartbeat_interval_ms=2000,
                fetch_max_wait_ms=100,
                request_timeout_ms=20_000,
                metadata_max_age_ms=30_000,
            )
            await consumer.start()
            self._checked = self._moved = _now()
            await self._require_topic(consumer)
            # only now: with metadata that lack the topic it would join and be given nothing until they are refreshed
            consumer.subscribe(pattern=f"^{re.escape(self._topic)}$", listener=self)
        return self._consumer

    async def _check(self, consumer: AIOKafkaConsumer) -> None:
        """A consumer that gets nothing may have nothing to get, no topic any more, or a connection that hangs."""
        if self._held:
            self._moved = _now()
        if self._held or _now() - self._checked < CHECK:
            return
        self._checked = _now()
        await self._require_topic(consumer)
        assigned = consumer.assignment()
        quiet = _now() - self._moved
        if not self._assigned.is_set() and quiet > 2 * SESSION:
            await self._rebuild("no_assignment")
        elif assigned and quiet > CHECK and await self._behind(consumer):
            await self._rebuild("stuck")

    async def _behind(self, consumer: AIOKafkaConsumer) -> bool:
        async with asyncio.timeout(CHECK):
            ends = await consumer.end_offsets(list(consumer.assignment()))
            positions = {partition: await consumer.position(partition) for partition in ends}
        return any(end > positions[partition] for partition, end in ends.items())

    async def _require_topic(self, consumer: AIOKafkaConsumer) -> None:
        if self._topic not in await consumer.topics():
            raise TopicMissing

    async def _rebuild(self, cause: str) -> None:
        telemetry.BUS_REBUILT.labels(self._service, cause).inc()
        await self._leave()
        raise BusUnavailable(cause, self._brokers.servers)

    def settle(self, unit: Unit, batch: Sequence[Raw]) -> None:
        """Nothing: the offset is Kafka's, and is committed after the effects."""

    async def settled(self, batch: Sequence[Raw]) -> None:
        """Commit the offsets; where the partition was taken away meanwhile, its new owner's inbox drops the repeats."""
        self._held = []
        offsets = {TopicPartition(self._topic, raw.partition): raw.position + 1 for raw in batch}
        assigned = self._consumer.assignment() if self._consumer else set()
        mine = {partition: offset for partition, offset in offsets.items() if partition in assigned}
        self._next |= mine
        try:
            if self._consumer and mine:
                async with asyncio.timeout(CHECK):  # of a topic that was deleted the client tries without end
                    await self._consumer.commit(mine)
        except (KafkaError, OSError, TimeoutError, AssertionError) as fault:
            telemetry.log("offsets_not_committed", topic=self._topic, fault=type(fault).__name__)

    def lag(self) -> int:
        ends = {} if self._consumer is None else {one: self._consumer.highwater(one) for one in self._next}
        return sum(max(0, (end or 0) - self._next[partition]) for partition, end in ends.items())

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """What is held and not yet applied comes again to whoever owns the partition next."""
        self._held = []
        self._next = {}
        self._assigned.clear()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """New partitions begin at the group's offset; a member may get none and stand by."""
        self._moved = _now()
        self._assigned.set()

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._held, self._next = [], {}
        self._assigned.clear()
        if consumer is not None:
            await discard(consumer)

    async def close(self) -> None:
        await self._leave()


async def discard(consumer: AIOKafkaConsumer) -> None:
    """End a consumer, whatever state it is in; it must not wait for a broker that is away.

    In a task of its own: while it waits between two attempts, `stop` ends with the cancellation of its own fetching.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait([stopping], timeout=CLOSE)
    if not stopping.done() or stopping.cancelled() or stopping.exception():
        stopping.cancel()
        # it takes leave of the group first, and that may never be answered
        with suppress(KafkaError, OSError):
            await consumer._client.close()


def raw_of(record: ConsumerRecord[Any, Any], now: datetime) -> Raw:
    """An event from a record. What is no event of ours gets a type nobody knows, and so ends as a dead letter."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers if value is not None}
    place = f"{record.topic}/{record.partition}/{record.offset}"
    named = {"id": headers.get("ce_id", ""), "type": headers.get("ce_type", ""), "key": headers.get("ce_subject", "")}
    if not all(0 < len(value) <= _LONGEST[name] and "\0" not in value for name, value in named.items()):
        named = {"id": str(uuid5(NAMESPACE_OID, place)), "type": "unknown", "key": str(uuid5(NAMESPACE_OID, place))}
    age = headers.get("ce_agems", "")
    since = timedelta(milliseconds=int(age)) if age.isascii() and age.isdecimal() and len(age) < 13 else _NO_DATE
    body = (record.value or b"").decode("utf-8", "replace").replace("\0", "")
    return Raw(record.offset, **named, body=body, accepted_at=now - since, partition=record.partition)


def _now() -> float:
    return asyncio.get_running_loop().time()

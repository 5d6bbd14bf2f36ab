"""The distributed bus: Apache Kafka through aiokafka. Topics are made by `leeward migrate`, never by a service.

CloudEvents travel in binary mode. Nothing here names a topic in a request for metadata: a broker that makes the topics
it is asked for would make one again that was deleted, empty and in silence.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from leeward import telemetry
from leeward.brokers import Brokers
from leeward.bus import BusUnavailable, Raw, TopicMissing
from leeward.bus.logs import Bookmark, Offsets, forget_inbox
from leeward.bus.relay import KafkaRelay
from leeward.bus.topics import TOPICS
from leeward.settings import ServiceName
from leeward.store import Store, Unit
from leeward.timekeeping.guard import bear_out, is_uncertain

POLL: Final = 1.0
CHECK: Final = 10.0
SESSION: Final = 10.0
CLOSE: Final = 5.0
_NO_DATE: Final = timedelta()
_LONGEST: Final = {"id": 36, "type": 80, "key": 36}


class KafkaBus:
    """Consumers and relays on one cluster; `stores` are this process's own, by service."""

    def __init__(self, brokers: Brokers, stores: dict[str, Store]) -> None:
        self._brokers = brokers
        self._stores = stores
        self._subscriptions: list[KafkaSubscription] = []

    def subscribe(self, group: ServiceName, topic: str) -> "KafkaSubscription":
        made = KafkaSubscription(self._brokers, group, topic, self._stores[group])
        self._subscriptions.append(made)
        return made

    def relay(self, producer: str) -> KafkaRelay | None:
        """Sends what a service publishes; None for one that publishes nothing and so has no topic."""
        if f"leeward.{producer}" not in TOPICS:
            return None
        return KafkaRelay(self._brokers, producer, self._stores[producer])

    def forget(self, service: ServiceName, unit: Unit, most: int) -> bool:
        """Of the outbox the relay deletes what Kafka has; what it has not is kept, however old."""
        for one in self._subscriptions:
            if one.service == service:
                one.keep(unit)
        return forget_inbox(unit, most)

    async def close(self) -> None:
        for one in self._subscriptions:
            await one.close()


class KafkaSubscription(ConsumerRebalanceListener):  # type: ignore[misc]
    """A member of a consumer group, rebuilt when it fails or is alive and stuck (aio-libs/aiokafka#1154, #847, #625).

    A group is one service on one topic, so that a replica's other consumers are not stopped by its rebalances.
    """

    def __init__(self, brokers: Brokers, group: ServiceName, topic: str, store: Store) -> None:
        self._brokers = brokers
        self.service = group
        self._topic = topic
        self._store = store
        self._offsets = Offsets(store, topic)
        self._bookmark = Bookmark(store, group, topic)
        # whether the partitions of this assignment are read from where the database is
        self._placed = False
        self._committed: dict[int, int] = {}
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
                if not self._placed:
                    await self._seek(consumer)
                found = await consumer.getmany(timeout_ms=int(POLL * 1000), max_records=limit)
                if not self._placed:
                    # of an assignment that has come meanwhile
                    continue
                if is_uncertain(self._store.clock):
                    for records in found.values():
                        await bear_out(self._store.clock, sent_at(records[-1]))
                now = self._store.clock.now()
                self._held = [raw_of(one, now) for records in found.values() for one in records]
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
                group_id=f"leeward.{self.service}.{self._topic}",
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

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """Read on from what this database has applied, where Kafka's offsets say that it has applied more.

        It was put back from a copy then; between a commit here and one there it is the other way round. What is of
        before these rows, or of a topic that was made again, is read from the start.

        Raises:
            StoreUnavailable: when nobody can tell how far it is.
        """
        assigned, self._placed = sorted(consumer.assignment()), True
        if not assigned:
            return
        try:
            applied = await self._offsets.load()
            async with asyncio.timeout(CHECK):
                firsts = await consumer.beginning_offsets(assigned)
                offsets = await asyncio.gather(*(consumer.committed(one) for one in assigned))
            for partition, committed in zip(assigned, offsets, strict=True):
                self._committed[partition.partition] = committed or 0
                known = applied.get(partition.partition, -1) + 1
                consumer.seek(partition, max(firsts[partition], min(known, committed or 0)))
            first = {one.partition: offset for one, offset in firsts.items()}
            gone = {one: (first[one] - 1, "") for one, last in applied.items() if last + 1 < first.get(one, 0)}
            if gone:
                await self._store.write(lambda unit: self._note_gone(unit, gone))
        except BaseException:
            self._placed = False
            raise

    def _note_gone(self, unit: Unit, gone: Mapping[int, tuple[int, str]]) -> None:
        self._offsets.store(unit, gone)
        self._bookmark.alarm(unit, "gone")

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
        telemetry.BUS_REBUILT.labels(self.service, cause).inc()
        await self._leave()
        raise BusUnavailable(cause, self._brokers.servers)

    def settle(self, unit: Unit, batch: Sequence[Raw], fresh: Sequence[Raw]) -> None:
        """Kafka's offset is committed after the effects; the database keeps its own with them.

        A batch of which nothing is fresh moves nothing: it may be that of a consumer that was replaced.
        """
        if fresh:
            self._offsets.store(unit, {raw.partition: (raw.position, raw.id) for raw in batch})
        if any(raw.position < self._committed.get(raw.partition, 0) for raw in fresh):
            self._bookmark.alarm(unit, "restored")

    def keep(self, unit: Unit) -> None:
        """Store how far it has come past others' events."""
        self._offsets.store(unit, {one.partition: (offset - 1, "") for one, offset in self._next.items() if offset})

    def noted(self) -> str:
        return self._bookmark.noted()

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
        self._placed = False
        self._assigned.clear()

    async def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        """New partitions begin at the group's offset; a member may get none and stand by."""
        self._moved = _now()
        self._placed = False
        self._committed = {}
        self._assigned.set()

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._held, self._next = [], {}
        self._placed = False
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


def sent_at(record: ConsumerRecord[Any, Any]) -> datetime | None:
    """When an event was sent, by the bucket of its sender's clock, which is not in doubt."""
    with suppress(ValueError):
        time = next((value for name, value in record.headers if name == "ce_time" and value is not None), b"")
        return datetime.strptime(time.decode("utf-8", "replace"), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return None


def _now() -> float:
    return asyncio.get_running_loop().time()

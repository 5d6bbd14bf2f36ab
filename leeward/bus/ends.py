"""Where Kafka's topics end and how far their readers are: what copies of the databases are measured by."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from sqlalchemy import Connection, MetaData, select
from sqlalchemy.util.concurrency import await_only

from leeward.brokers import Brokers
from leeward.bus import BusUnavailable
from leeward.bus.coverage import waiting_ids
from leeward.settings import ServiceName
from leeward.store import ground_tables
from leeward.store.lookup import in_list, rows_of

_WAIT_MS: Final = 1000


class KafkaCoverage:
    """Of services whose outboxes a relay sends: what waited in them at the moment, and what Kafka had after it."""

    def __init__(
        self, brokers: Brokers, reader: ServiceName, producers: Mapping[ServiceName, tuple[Connection, MetaData]]
    ) -> None:
        self._brokers = brokers
        self._reader = reader
        self._waiting = {one for conn, metadata in producers.values() for one in waiting_ids(conn, metadata)}
        self._ends = {f"leeward.{name}": await_only(_ends(brokers, f"leeward.{name}")) for name in producers}

    def applied(self, reader: Connection, metadata: MetaData) -> bool:
        for topic, ends in self._ends.items():
            passed = await_only(_committed(self._brokers, group_of(self._reader, topic), ends))
            if any(passed.get(partition, 0) < end for partition, end in ends.items()):
                return False
        inbox = ground_tables(metadata).inbox
        known = select(inbox.c.event_id).where(in_list(inbox.c.event_id))
        return self._waiting <= {row.event_id for row in rows_of(reader, known, self._waiting)}


@contextmanager
def held_ends(brokers: Brokers, conn: Connection, topic: str) -> Iterator[dict[int, int]]:
    """Where a topic ends in each partition, while its producer, whose database this is, publishes nothing.

    What lies behind it and is not in the producer's outbox either was published later.
    """
    with conn.begin():
        conn.exec_driver_sql("LOCK TABLE outbox IN SHARE MODE")
        ends = await_only(_ends(brokers, topic))
        yield {partition.partition: end for partition, end in ends.items()}


def published_since(brokers: Brokers, topic: str, ends: Mapping[int, int]) -> set[str]:
    """The ids of the events behind these places."""
    return await_only(_ids_since(brokers, topic, ends))


def group_of(service: str, topic: str) -> str:
    """The consumer group of one service on one topic."""
    return f"leeward.{service}.{topic}"


@asynccontextmanager
async def _client(brokers: Brokers, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(**brokers.client(), group_id=group, enable_auto_commit=False, auto_offset_reset="none")
    try:
        await client.start()
        yield client
    except (KafkaError, OSError) as fault:
        raise BusUnavailable(type(fault).__name__, brokers.servers) from fault
    finally:
        await client.stop()


async def _partitions(client: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    # of all topics at once: a broker might make one again that is asked for by its name
    cluster = await client._client.fetch_all_metadata()
    return [TopicPartition(topic, number) for number in sorted(cluster.partitions_for_topic(topic) or ())]


async def _ends(brokers: Brokers, topic: str) -> dict[TopicPartition, int]:
    async with _client(brokers) as client:
        found: dict[TopicPartition, int] = await client.end_offsets(await _partitions(client, topic))
        return found


async def _committed(brokers: Brokers, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    async with _client(brokers, group) as client:
        client.assign(list(partitions))
        return {one: await client.committed(one) or 0 for one in partitions}


async def _ids_since(brokers: Brokers, topic: str, ends: Mapping[int, int]) -> set[str]:
    found: set[str] = set()
    async with _client(brokers) as client:
        partitions = await _partitions(client, topic)
        now = await client.end_offsets(partitions)
        first = await client.beginning_offsets(partitions)
        begin = {one: max(ends.get(one.partition, 0), first[one]) for one in partitions}
        left = {one for one in partitions if begin[one] < now[one]}
        client.assign(list(left))
        for one in left:
            client.seek(one, begin[one])
        while left:
            for records in (await client.getmany(timeout_ms=_WAIT_MS)).values():
                headers = [dict(record.headers) for record in records]
                found.update(one["ce_id"].decode() for one in headers if "ce_id" in one)
            left = {one for one in left if await client.position(one) < now[one]}
    return found

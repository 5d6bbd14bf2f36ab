"""How far Kafka and those who read from it have come, seen from outside."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from leeward.brokers import Brokers
from leeward.settings import ServiceName
from leeward.store import Store
from services.demo.world import queries
from services.demo.world.system import Ends


@asynccontextmanager
async def kafka_ends(brokers: Brokers, stores: Mapping[ServiceName, Store]) -> AsyncIterator[Ends]:
    """Watch the topics, and the groups that read them by now."""
    admin, log = AIOKafkaAdminClient(**brokers.client()), AIOKafkaConsumer(**brokers.client())
    try:
        await admin.start()
        await log.start()
        groups = [name for name, _ in await admin.list_consumer_groups() if name.startswith("leeward.")]
        topics = [topic for topic in await log.topics() if topic.startswith("leeward.")]
        parts = [TopicPartition(topic, part) for topic in topics for part in log.partitions_for_topic(topic) or ()]

        async def ends() -> object:
            # what leaves an outbox meanwhile is then seen in Kafka
            for store in stores.values():
                if await store.read(queries.has_events(store)):
                    return None
            try:
                return await _read_to_the_end(admin, log, groups, parts)
            except (KafkaError, OSError, TimeoutError):
                return None

        yield ends
    finally:
        await log.stop()
        await admin.close()


async def _read_to_the_end(
    admin: AIOKafkaAdminClient, log: AIOKafkaConsumer, groups: Sequence[str], parts: Sequence[TopicPartition]
) -> dict[TopicPartition, int] | None:
    """Where each partition ends; None while a group has not committed all of its topic."""
    committed = await asyncio.gather(*(admin.list_consumer_group_offsets(group) for group in groups))
    ends: dict[TopicPartition, int] = await log.end_offsets(parts)
    for group, offsets in zip(groups, committed, strict=True):
        topic = group.split(".", 2)[2]
        mine = [part for part in parts if part.topic == topic]
        if any(ends[part] > (offsets[part].offset if part in offsets else 0) for part in mine):
            return None
    return ends

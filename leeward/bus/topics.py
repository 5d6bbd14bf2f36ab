"""The topics of Kafka: made once by `leeward migrate`, looked at by `leeward doctor`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from leeward.brokers import Brokers
from leeward.bus import BusUnavailable
from leeward.contracts import EVENTS
from leeward.contracts.envelope import topic_of

TOPICS: Final = tuple(sorted({topic_of(event_type) for event_type in EVENTS}))
_DAY: Final = 24 * 3600 * 1000  # ms
# DESIGN §5.12: retention 7 days, in segments of one hour, since only whole segments are deleted
_KEPT: Final = {"retention.ms": str(7 * _DAY), "segment.ms": str(_DAY // 24), "cleanup.policy": "delete"}
# bytes: the people of a report of 1 MiB take three times as much in its event, and one refused holds up the rest
LARGEST: Final = 4 * 1024 * 1024


async def make_topics(brokers: Brokers) -> list[str]:
    """Make the topics that are missing; gives their names. Those there are stay as they are.

    Raises:
        BusUnavailable: when Kafka cannot be reached, or refuses.
    """
    copies = max(1, brokers.replication - 1)
    wanted = {**_KEPT, "min.insync.replicas": str(copies), "max.message.bytes": str(LARGEST)}
    async with _admin(brokers) as admin:
        missing = [topic for topic in TOPICS if topic not in await admin.list_topics()]
        made = [NewTopic(topic, brokers.partitions, brokers.replication, topic_configs=wanted) for topic in missing]
        for topic, code, *_ in (await admin.create_topics(made)).topic_errors if made else ():
            # 36: another process has just made it
            if code not in (0, 36):
                raise BusUnavailable(f"Kafka refuses to make {topic} (error {code})")
        return missing


async def gaps(brokers: Brokers) -> list[str]:
    """Topics that are missing, and brokers that would make a deleted one again, empty and in silence.

    Raises:
        BusUnavailable: when Kafka cannot be reached, or refuses.
    """
    async with _admin(brokers) as admin:
        there = await admin.list_topics()
        found = [f"topic {topic} is missing" for topic in TOPICS if topic not in there]
        for node in (await admin.describe_cluster())["brokers"]:
            asked = ConfigResource(ConfigResourceType.BROKER, str(node["node_id"]), {"auto.create.topics.enable": None})
            [answer] = await admin.describe_configs([asked])
            if any(setting[1] == "true" for resource in answer.resources for setting in resource[4]):
                found.append(f"broker {node['node_id']} has auto.create.topics.enable=true")
    return found


@asynccontextmanager
async def _admin(brokers: Brokers) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**brokers.client())
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError) as fault:
        raise BusUnavailable(type(fault).__name__) from fault
    finally:
        await admin.close()

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
# the broker's clock alone: by a sender's wrong one Kafka would delete at once, or never
_STAMP: Final = ("message.timestamp.type", "LogAppendTime")
# of an answer to DescribeConfigs (version 1 and later): set for this topic, not a default
_OWN: Final = 1
# bytes: the people of a report of 1 MiB take three times as much in its event, and one refused holds up the rest
LARGEST: Final = 4 * 1024 * 1024


async def make_topics(brokers: Brokers) -> list[str]:
    """Make the topics that are missing; gives their names. Those there are keep their settings, the time stamp's apart.

    Raises:
        BusUnavailable: when Kafka cannot be reached, or refuses.
    """
    copies = max(1, brokers.replication - 1)
    wanted = {**_KEPT, "min.insync.replicas": str(copies), "max.message.bytes": str(LARGEST)}
    wanted |= dict([_STAMP])
    async with _admin(brokers) as admin:
        there = await admin.list_topics()
        missing = [topic for topic in TOPICS if topic not in there]
        made = [NewTopic(topic, brokers.partitions, brokers.replication, topic_configs=wanted) for topic in missing]
        for topic, code, *_ in (await admin.create_topics(made)).topic_errors if made else ():
            # 36: another process has just made it
            if code not in (0, 36):
                raise BusUnavailable(f"Kafka refuses to make {topic} (error {code})")
        for topic, own in (await _stamped_by_senders(admin, [topic for topic in TOPICS if topic in there])).items():
            await _alter_topic(admin, topic, own | dict([_STAMP]))
        return missing


async def gaps(brokers: Brokers) -> list[str]:
    """Topics that are missing or stamped by their senders, and brokers that would make a deleted one again, empty.

    Raises:
        BusUnavailable: when Kafka cannot be reached, or refuses.
    """
    async with _admin(brokers) as admin:
        there = await admin.list_topics()
        found = [f"topic {topic} is missing" for topic in TOPICS if topic not in there]
        stamped = await _stamped_by_senders(admin, [topic for topic in TOPICS if topic in there])
        found += [f"topic {topic} has not {'='.join(_STAMP)}" for topic in stamped]
        for node in (await admin.describe_cluster())["brokers"]:
            asked = ConfigResource(ConfigResourceType.BROKER, str(node["node_id"]), {"auto.create.topics.enable": None})
            [answer] = await admin.describe_configs([asked])
            if any(setting[1] == "true" for resource in answer.resources for setting in resource[4]):
                found.append(f"broker {node['node_id']} has auto.create.topics.enable=true")
    return found


async def _stamped_by_senders(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """The topics whose events bear their senders' clocks, each with the settings of its own."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(asked) if asked else ():
        for code, _said, _kind, name, settings in answer.resources:
            if code:
                raise BusUnavailable(f"Kafka does not tell the settings of {name} (error {code})")
            if _STAMP not in {(setting[0], setting[1]) for setting in settings}:
                found[name] = {setting[0]: setting[1] for setting in settings if setting[3] == _OWN}
    return found


async def _alter_topic(admin: AIOKafkaAdminClient, topic: str, settings: dict[str, str]) -> None:
    """Give a topic these settings and no others: what is not named falls back to the broker's default."""
    [answer] = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
    for code, *_ in answer.resources:
        if code:
            raise BusUnavailable(f"Kafka refuses to alter {topic} (error {code})")


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

"""Servers that are away, empty or hold something strange: a service waits, says so in one line, and goes on."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from leeward.settings import ServiceName
from leeward.testing import wait_until
from services.demo.servers import Kafka
from services.demo.servers import kafka as broker
from tests.e2e.conftest import STAFF, MakeDistributed
from tests.e2e.distributed import Distributed, Replica
from tests.e2e.harness import LIVE, Mailbox, death, link_in

NINE = "2026-11-21T09:00:00Z"
A_FEW: Mapping[ServiceName, int] = {"issuer": 0, "box": 0}
TWO: Mapping[ServiceName, int] = {**A_FEW, "notify": 0}
AGAIN = 2.0  # seconds in which it tries several times more


def status(system: Distributed, replica: Replica, path: str) -> int:
    """What it answers; 0 while it does not."""
    try:
        return system.http.get(replica.url + path).status_code
    except httpx.TransportError:
        return 0


def wait_red(system: Distributed, replicas: Sequence[Replica], *events: str) -> list[list[dict[str, Any]]]:
    """They say what is amiss, live, and are not ready; gives the lines of each after several more of its tries."""

    def told() -> list[list[dict[str, Any]]]:
        return [[line for event in events for line in replica.logged(event)] for replica in replicas]

    wait_until(told, 60, all)
    for replica in replicas:
        wait_until(partial(status, system, replica, "/livez"), 60, lambda code: code == 200)
    time.sleep(AGAIN)
    assert [status(system, replica, "/readyz") for replica in replicas] == [503] * len(replicas)
    return told()


@pytest.mark.own_servers
def test_databases_that_are_away_and_then_not_migrated(make_distributed: MakeDistributed) -> None:
    system = make_distributed(LIVE, TWO, LEEWARD_CLOCK=NINE)
    system.create_databases()
    system.postgresql.kill()
    system.launch()
    address = f"127.0.0.1:{system.postgresql.port}"
    for replica, lines in zip(system.every, wait_red(system, system.every, "database_away"), strict=True):
        assert [(line["service"], line["address"]) for line in lines] == [(replica.service, address)]
    system.postgresql.start()
    for lines in wait_red(system, system.every, "waiting_for_migration"):
        assert [line["reason"] for line in lines] == ["run leeward migrate"]
    system.migrate()
    system.await_ready()
    assert system.stop() == 0


def test_a_kafka_that_is_away(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, A_FEW, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF)
    system.kafka.kill()
    system.launch()
    for lines in wait_red(system, system.every, "relay_waits", "consumer_waits"):
        assert f"127.0.0.1:{system.kafka.port}" in {line.get("address") for line in lines}
        assert len(lines) == len({(line["event"], line["topic"]) for line in lines})
    # what is acknowledged is safe without Kafka
    assert "MSA|AA|M1" in system.send(death("M1", "AMY", "BEN"))
    system.kafka.start()
    system.await_ready()
    wait_until(lambda: len(mailbox.message_ids()), 60, lambda found: found == 2)


async def publish(kafka: Kafka, topic: str, *events: tuple[str, bytes]) -> None:
    """Put events of these types, with these bodies, on a topic, in the place of somebody's newer release."""
    async with AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{kafka.port}") as producer:
        for event_type, body in events:
            key = str(uuid4())
            headers = {"ce_specversion": "1.0", "ce_id": str(uuid4()), "ce_source": "/other", "ce_type": event_type}
            headers |= {"ce_subject": key, "content-type": "application/json"}
            pairs = [(name, value.encode()) for name, value in headers.items()]
            await producer.send_and_wait(topic, body, key=key.encode(), headers=pairs)


async def topics(kafka: Kafka, delete: str = "") -> list[str]:
    """Delete one, and give the names of those there are."""
    admin = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{kafka.port}")
    await admin.start()
    try:
        if delete:
            await admin.delete_topics([delete])
        return list(await admin.list_topics())
    finally:
        await admin.close()


def test_strange_events_are_dead_letters_and_the_rest_goes_on(
    make_distributed: MakeDistributed, mailbox: Mailbox
) -> None:
    system = make_distributed(LIVE, A_FEW, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF)
    system.start()
    strange = ("leeward.incident.exploded.v1", b"{}"), ("leeward.incident.recorded.v9", b"{}"), ("", b"\xff")
    unfit = ("leeward.incident.recorded.v1", b'{"incident_ref": 7}')
    asyncio.run(publish(system.kafka, "leeward.incident", *strange, unfit))
    system.send(death("M1", "AMY", "BEN"))
    wait_until(lambda: len(mailbox.message_ids()), 60, lambda found: found == 2)
    [matching] = system.replicas["matching"]
    parked = wait_until(lambda: matching.logged("event_given_up"), 60, lambda found: len(found) == 4)
    assert {line["fault"] for line in parked} == {"Undecodable"}
    assert sorted(line["place"] for line in parked) == ["body-does-not-fit", *["unknown-type"] * 3]
    assert system.metric(matching, "leeward_events_dead_total") == 4
    assert system.stop() == 0


@pytest.fixture
def obliging_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a broker is by default: it makes every topic that somebody asks for."""
    never = "auto.create.topics.enable=false"
    assert never in broker.PROPERTIES
    monkeypatch.setattr(broker, "PROPERTIES", broker.PROPERTIES.replace(never, "auto.create.topics.enable=true"))


@pytest.mark.usefixtures("obliging_broker")
def test_a_deleted_topic_is_reported_and_not_made_anew(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, A_FEW, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF)
    system.start()
    system.send(death("M1", "AMY"))
    [mail] = wait_until(lambda: mailbox.to("amy@hospital.example"), 60)
    asyncio.run(topics(system.kafka, delete="leeward.notify"))
    # an answer is safe meanwhile, and waits
    page = system.http.get(link_in(mail)).text
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    system.http.post(link_in(mail), data={**hidden, "answer": "no_thanks"}, follow_redirects=True)
    [matching], [notify], [incident] = (system.replicas[name] for name in ("matching", "notify", "incident"))
    for lines in wait_red(system, (matching, notify), "topic_missing"):
        assert {line["topic"] for line in lines} == {"leeward.notify"}
    assert "leeward.notify" not in asyncio.run(topics(system.kafka))
    assert status(system, incident, "/readyz") == 200
    system.migrate()
    system.await_ready()
    token = system.token()
    wait_until(lambda: [case["state"] for case in system.cases(token)], 60, lambda states: states == ["ended"])

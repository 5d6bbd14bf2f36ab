"""What docker-compose.yml would start, started without containers: it comes up, does its work and goes."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from leeward.settings import SERVICES as FIVE
from leeward.testing import wait_until
from tests.deploy.compose import EXAMPLE, LINES
from tests.deploy.conftest import make_secrets
from tests.deploy.machine import Broker, Machine
from tests.e2e.harness import Mailbox, Member, death, link_in, write_roster

STAFF = (Member("AMY"), Member("SUE", unit="ED", supporter=True))
AT_ONCE = {'"rehearsal"': '"live"', '"21:00-08:00"': '""', 'jitter = "15m"': 'jitter = "0s"'}


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.stop_thread()


@pytest.fixture
def machine(tmp_path: Path, mailbox: Mailbox) -> Iterator[Machine]:
    """Everything that is there before the first `docker compose up`, in live mode."""
    policy = EXAMPLE + LINES
    for given, wanted in AT_ONCE.items():
        assert given in policy
        policy = policy.replace(given, wanted)
    (tmp_path / "leeward.toml").write_text(policy, encoding="utf-8")
    make_secrets(tmp_path / "secrets")
    (tmp_path / "secrets" / "smtp_url").write_text(f"smtp://127.0.0.1:{mailbox.port}", encoding="utf-8")
    with Machine(tmp_path, tmp_path / "secrets", tmp_path / "leeward.toml") as made:
        yield made


def test_up_and_at_work_and_down(machine: Machine, mailbox: Mailbox) -> None:
    assert "incident" in machine.command("migrate")
    for name in FIVE:
        machine.start(name)
    for name in FIVE:
        wait_until(partial(machine.healthy, name), 180, pause=0.3)

    # people come in by the one container that has their key
    write_roster(machine.folder / "roster.csv", STAFF)
    assert "2 added" in machine.command("people", "staff", "import", str(machine.folder / "roster.csv"))

    # the integration engine posts, since MLLP in the clear is for loopback
    with socket.socket() as line:
        assert line.connect_ex(("127.0.0.1", machine.mllp)) != 0
    source = (machine.folder / "secrets" / "source_ehr_secret").read_text(encoding="utf-8")
    just_now = datetime.now(UTC) - timedelta(minutes=10)
    answer = httpx.post(
        machine.url("incident", "/v1/hl7v2"),
        content=death("1", "AMY", at=f"{just_now:%Y%m%d%H%M%S}").encode(),
        headers={"Authorization": f"Bearer {source}", "Content-Type": "application/hl7-v2"},
    )
    assert (answer.status_code, "MSA|AA" in answer.text) == (200, True)
    [mail] = wait_until(lambda: mailbox.to(STAFF[0].address), 60)
    assert link_in(mail).startswith(machine.url("notify", "/m/"))
    assert httpx.get(link_in(mail)).status_code == 200

    # what an operator asks
    token = machine.command("leeward", "token", "create", "coordinator").split()[-1]
    assert len(machine.get("matching", "/v1/cases", token).json()["items"]) == 1
    assert machine.get("matching", "/v1/cases").status_code == 401
    assert machine.command("leeward", "status")
    metrics = (machine.folder / "secrets" / "metrics_token").read_text(encoding="utf-8")
    assert [machine.get(name, "/metrics").status_code for name in FIVE] == [401] * 5
    assert [machine.get(name, "/metrics", metrics).status_code for name in FIVE] == [200] * 5

    assert machine.stop() == dict.fromkeys(FIVE, 0)
    # their root file systems are read-only
    assert list(machine.work.iterdir()) == []


async def test_the_broker_knows_every_setting_it_is_given(tmp_path: Path) -> None:
    with Broker(tmp_path / "kafka") as broker:
        client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{broker.port}")
        await client.start()
        [answer] = await client.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
        await client.close()
        known = {name: value for name, value, *_ in answer.resources[0][4]}
        given = {key: value for key, value in broker.variables().items() if key.startswith("KAFKA_")}
    # a name that Kafka does not know has no value
    assert {key: known[key.removeprefix("KAFKA_").lower().replace("_", ".")] for key in given} == given

"""A mixture of the two ways to run, or half of one, stops the start with one line that names the setting."""

from pathlib import Path

import pytest

from leeward.settings import SERVICES
from services.demo.servers import Kafka, PostgreSQL
from tests import nursery
from tests.e2e.distributed import Distributed, Servers
from tests.e2e.harness import Mailbox

NOWHERE = "postgresql+asyncpg://postgres@127.0.0.1:1"
# what runs, the setting that is changed, its value ("" for none), and the one that is named
WRONG = {
    "Kafka with SQLite": ("incident", "INCIDENT_DATABASE_URL", "", "INCIDENT_DATABASE_URL"),
    "Kafka with SQLite somewhere": ("incident", "INCIDENT_DATABASE_URL", "sqlite:///x.db", "INCIDENT_DATABASE_URL"),
    "PostgreSQL without Kafka": ("incident", "BUS_URL", "", "INCIDENT_DATABASE_URL"),
    "another bus": ("incident", "BUS_URL", "redis://127.0.0.1:1", "BUS_URL"),
    "ratings beside the rest": ("box", "BOX_DATABASE_URL", f"{NOWHERE}/box", "BOX_DATABASE_URL"),
    "no key of its own": ("incident", "INCIDENT_KEY", "", "INCIDENT_KEY"),
    "no secret between the services": ("notify", "SERVICES_SECRET", "", "SERVICES_SECRET"),
    "no key of notify's assertions": ("issuer", "ASSERTION_PUBLIC_KEY", "", "ASSERTION_PUBLIC_KEY"),
}


@pytest.fixture
def settings_of_a_site(tmp_path: Path, mailbox: Mailbox) -> dict[str, str]:
    """Right ones, of servers that need not run."""
    servers = Servers(Kafka(tmp_path / "k"), PostgreSQL(tmp_path / "p"), PostgreSQL(tmp_path / "b"))
    system = Distributed(tmp_path, mailbox, servers)
    right = system.command_environment()
    system.close()
    anywhere = {f"LEEWARD_{name.upper()}_PORT": "0" for name in (*SERVICES, "mllp")}
    return {**right, **anywhere, "LEEWARD_NOTIFY_DATABASE_URL": f"{NOWHERE}/notify"}


@pytest.mark.parametrize("mixture", WRONG)
def test_a_wrong_mixture_is_one_line(settings_of_a_site: dict[str, str], mixture: str) -> None:
    service, changed, value, named = WRONG[mixture]
    environment = {**settings_of_a_site, f"LEEWARD_{changed}": value}
    done = nursery.run(["run", service], environment)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith(f"LEEWARD_{named}: ")
    assert "allowed is" in line or "needs" in line
    assert "postgres@" not in line
    assert done.stdout == ""

"""Tokens and who migrates: a command needs no more than it uses, and on PostgreSQL changes no schema."""

from pathlib import Path

import services
from services.commands import catalogue
from services.commands.operate.access import ASKING
from services.demo.servers import PostgreSQL
from services.demo.servers.server import Port
from tests.services.commands.conftest import Leeward


def test_a_token_is_given_to_whoever_asks_for_one() -> None:
    root = Path(str(services.__file__)).parent.parent
    folders = {name: root / package.replace(".", "/") for name, package in catalogue.PACKAGES.items()}
    asking = {
        name
        for name, folder in folders.items()
        if any("= role(" in file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
    }
    assert asking == set(ASKING)


def test_on_postgresql_a_command_needs_only_what_it_uses_and_migrates_nothing(
    environment: dict[str, str], leeward: Leeward, postgresql: PostgreSQL
) -> None:
    environment["LEEWARD_BUS_URL"] = f"kafka://127.0.0.1:{Port().number}"
    for name in ASKING:
        postgresql.create(f"access-{name}")
        environment[f"LEEWARD_{name.upper()}_DATABASE_URL"] = postgresql.url(f"access-{name}")
    for words in (("create", "coordinator"), ("list",), ("revoke", "abc")):
        refused = leeward("token", *words)
        assert refused.returncode == 1
        assert refused.stderr == "incident: the database is not at the newest revision; run `leeward migrate`\n"
    # databases come before the bus, which is away
    assert "Kafka cannot be reached" in leeward("migrate", *ASKING).stderr
    made = leeward("token", "create", "coordinator")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("coordinator token ")
    assert leeward("token", "list").stdout.count("coordinator") == 1
    for name in ASKING:
        postgresql.drop(f"access-{name}")

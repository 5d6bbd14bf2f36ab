"""Keys: made once, readable by their owner alone, never replaced by accident, never shown."""

import asyncio
import base64
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from leeward.settings import Settings, SettingsError, load_settings
from leeward.settings.key_checks import hold_key
from leeward.settings.keys import assertion_key, check_value, derive, keyring, people_key, service_key
from leeward.store import ground_tables
from leeward.store.sqlite import sqlite_connection, sqlite_engine
from services.feedback.issuer.models import METADATA
from tests.conftest import MakeContext

MAKE = (
    "import sys; from leeward.settings.keys import _kept; from pathlib import Path; "
    "print(_kept(Path(sys.argv[1])).hex())"
)


def test_a_key_is_made_for_its_owner_alone_and_kept(settings: Settings) -> None:
    made = service_key(settings, "incident")
    file = settings.data / "keys" / "incident.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert len(made) == 32
    assert service_key(settings, "incident") == made
    assert [path.name for path in file.parent.iterdir()] == ["incident.key"]


def test_each_service_has_its_own(settings: Settings) -> None:
    keys = {keyring(settings, name).service for name in ("incident", "matching", "notify", "issuer", "box")}
    assert len(keys | {people_key(settings, new=True)}) == 6


async def test_two_processes_make_one_key(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "shared.key"

    def make() -> str:
        done = subprocess.run([sys.executable, "-c", MAKE, str(path)], capture_output=True, text=True, check=True)
        return done.stdout

    made = await asyncio.gather(*(asyncio.to_thread(make) for _ in range(4)))
    assert len(set(made)) == 1
    assert len(made[0].strip()) == 64


@pytest.mark.parametrize("damage", [b"", b"not base64!", base64.b64encode(bytes(16)), b"\xff\xfe"])
def test_a_damaged_key_stops_the_start_and_is_not_replaced(settings: Settings, damage: bytes) -> None:
    service_key(settings, "notify")
    file = settings.data / "keys" / "notify.key"
    file.write_bytes(damage)
    with pytest.raises(SettingsError, match="is damaged"):
        service_key(settings, "notify")
    assert file.read_bytes() == damage


def test_a_key_that_is_given_is_used_and_none_is_made(tmp_path: Path) -> None:
    given = base64.b64encode(b"k" * 32).decode()
    settings = load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path), "LEEWARD_BOX_KEY": given})
    assert service_key(settings, "box") == b"k" * 32
    assert not (tmp_path / "keys").exists()


@pytest.mark.database("sqlite", "postgresql")
async def test_a_database_knows_the_key_that_it_was_made_with(make_context: MakeContext, settings: Settings) -> None:
    store = make_context("issuer", METADATA).store
    first, other = b"f" * 32, b"o" * 32
    for _ in range(2):
        await store.write(lambda unit: hold_key(unit, settings, "issuer", first))
    with pytest.raises(SettingsError, match="is another key than the database of issuer was made with; put that one"):
        await store.write(lambda unit: hold_key(unit, settings, "issuer", other))
    rows = await store.read(lambda conn: conn.execute(select(store.writes.tables.key_check)).all())
    assert rows == [("issuer", check_value(first, "issuer"))]


def test_check_values_tell_nothing_of_a_key_and_differ_by_name() -> None:
    key = bytes(range(32))
    assert check_value(key, "people") == check_value(key, "people")
    assert len({check_value(key, "people"), check_value(key, "incident"), derive(key, "check value").hex()}) == 3


@pytest.mark.parametrize("held", ["a row", "a check value", "no database at all"])
def test_only_an_empty_database_may_make_a_key(settings: Settings, held: str) -> None:
    file = settings.database_file("issuer")
    file.parent.mkdir(parents=True)
    ground_tables(METADATA)
    engine = sqlite_engine(file)
    METADATA.create_all(engine)
    engine.dispose()
    made = service_key(settings, "issuer")
    key = settings.data / "keys" / "issuer.key"
    key.unlink()
    assert service_key(settings, "issuer") != made, "an empty one may"
    key.unlink()
    statements = {
        "a row": "INSERT INTO claim (case_ref, closed_on) VALUES ('c', '2026-11-21')",
        "a check value": "INSERT INTO key_check VALUES ('issuer', '')",
    }
    if held in statements:
        with closing(sqlite_connection(file)) as conn:
            conn.execute(statements[held])
    else:
        file.write_bytes(b"not a database" * 100)
    with pytest.raises(SettingsError, match=r"issuer\.key: is missing, and the database of issuer was made with it"):
        service_key(settings, "issuer")
    assert not key.exists()


def test_purposes_give_different_keys(settings: Settings) -> None:
    keys = keyring(settings, "notify")
    assert keys.derive("a") != keys.derive("b")
    assert keys.derive("a") == derive(keys.service, "a")
    assert keys.service not in (keys.derive("a"), keys.derive(""))


def test_every_service_can_check_what_notify_asserts(settings: Settings) -> None:
    signature = assertion_key(service_key(settings, "notify")).sign(b"claim")
    keyring(settings, "issuer").assertion_public_key.verify(signature, b"claim")


def test_a_keyring_does_not_show_itself(settings: Settings) -> None:
    keys = keyring(settings, "notify")
    assert keys.services_secret not in repr(keys)
    assert repr(keys) == "Keyring(…)"

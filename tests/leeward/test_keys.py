"""Keys: made once, readable by their owner alone, never replaced by accident, never shown."""

import asyncio
import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from leeward.settings import Settings, SettingsError, load_settings
from leeward.settings.keys import assertion_key, derive, keyring, people_key, service_key

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
    assert len(keys | {people_key(settings)}) == 6


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

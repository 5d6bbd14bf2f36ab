"""notify's own fixtures: `make_world` with a policy of the test's choice, `world` with the usual one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from leeward.service import Context
from leeward.settings import load_settings
from leeward.settings.keys import keyring
from leeward.testing import MailServer, ManualClock
from services.notify.delivery import recovery
from services.notify.models import METADATA
from tests.databases import OpenStore
from tests.services.notify.world import ANNA, SAM, WEBHOOK_SECRET, HttpServer, World

MakeWorld = Callable[..., Awaitable[World]]
POLICY = """
[outreach]
mode = "live"
quiet_hours = ""
jitter = "0s"
"""
PEOPLE_TO_CALL = """
[[on_call]]
label = "Dr. Duty"
phone = "+44 20 7946 0100"
email = "duty@hospital.example"

[[on_call]]
label = "Dr. Second"
phone = "+44 20 7946 0101"
email = "second@hospital.example"
"""
LINES = """
[emergency.en]
phone = "112"

[[crisis_lines.en]]
label = "Night Line"
phone = "+44 800 0000 000"
text = "85258"
url = "https://line.example"
hours = "24/7"
checked_on = 2026-11-01

[[referrals.en]]
label = "Staff counselling"
phone = "+44 20 7946 0102"
what = "Up to six talks, free"

[[concerns]]
label = "Works council"
url = "https://council.example"
"""


@pytest_asyncio.fixture
async def make_world(
    tmp_path: Path, clock: ManualClock, http: httpx.AsyncClient, open_store: OpenStore
) -> AsyncIterator[MakeWorld]:
    """`await make_world(policy=…, smtp=False, webhook=True)`: notify running, Anna and Sam on its roster."""
    worlds: list[World] = []

    async def make(
        policy: str = POLICY, *, smtp: bool = True, webhook: bool = False, started: bool = True, **variables: str
    ) -> World:
        mail, server = MailServer(), HttpServer()
        await mail.start()
        await server.start()
        gateway = f'[channels.webhook]\nurl = "http://127.0.0.1:{server.port}/gateway"\n' if webhook else ""
        config = tmp_path / "leeward.toml"
        config.write_text(policy + LINES + gateway)
        environ = {
            "LEEWARD_ENV": "test",
            "LEEWARD_DATA": str(tmp_path / "data"),
            "LEEWARD_CONFIG": str(config),
            "LEEWARD_PUBLIC_URL": "http://notify.test",
            "LEEWARD_MAIL_FROM": "note@mail.example",
            "LEEWARD_MATCHING_URL": f"http://127.0.0.1:{server.port}",
            **({"LEEWARD_SMTP_URL": f"smtp://127.0.0.1:{mail.port}"} if smtp else {}),
            **({"LEEWARD_WEBHOOK_SECRET": WEBHOOK_SECRET} if webhook else {}),
            **variables,
        }
        settings = load_settings(environ)
        context = Context("notify", settings, clock, open_store("notify", METADATA), keyring(settings, "notify"), http)
        world = World(context, clock, mail, server, http)
        worlds.append(world)
        await world.people(ANNA, SAM)
        if started:
            await world.start()
        return world

    yield make
    for world in worlds:
        await world.close()
        await world.mail.stop()
        await world.http.stop()


@pytest.fixture(autouse=True)
def _look_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LOOK", 0.05)


@pytest.fixture
def policy() -> str:
    return POLICY


@pytest_asyncio.fixture
async def world(make_world: MakeWorld) -> World:
    """notify with e-mail, no quiet hours, no jitter."""
    return await make_world()

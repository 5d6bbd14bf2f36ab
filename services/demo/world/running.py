"""The demonstration's world: the real services in a temporary folder, every mailbox, and a clock to let time pass."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx

from leeward import telemetry
from leeward.adapters import store_of
from leeward.people import read_roster
from leeward.runtime import Server, http_client
from leeward.service import Service
from leeward.settings import PORTS, SERVICES, ServiceName, Settings, load_settings
from leeward.store import Store
from leeward.web.access import Role, issue, new_token
from services.commands import catalogue
from services.commands.operate.running import migrated
from services.commands.people.rota import import_shifts
from services.commands.people.staff import Changes, import_records
from services.commands.sources.hl7 import Acknowledgement, MllpConnection
from services.demo.servers.server import Port
from services.demo.world import hospital
from services.demo.world.clock import DemoClock
from services.demo.world.mailbox import Mailbox, web
from services.demo.world.settled import settled
from services.demo.world.system import System

RATE: Final = 12.0  # five seconds of the wall are a minute
OWN_PORTS: Final[Mapping[str, int | None]] = {"mllp": 2575, "web": 8100, "smtp": None}
TOKENS: Final = 10
EPOCH: Final = timedelta(days=3)
WINDOW: Final = timedelta(days=1)
POLICY: Final = f"""
[outreach]
mode = "live"

[feedback]
epoch_min = "{EPOCH.days}d"
epoch_tokens = {TOKENS}
window = "{WINDOW.days}d"

[emergency.en]
phone = "000 (an example)"

[[crisis_lines.en]]
label = "Example helpline, not a real one"
phone = "+44 20 7946 0001"
hours = "24/7"
checked_on = 2026-11-02

[[on_call]]
label = "The professional on duty"
phone = "+44 20 7946 0002"
email = "duty@{hospital.DOMAIN}"

[[referrals.en]]
label = "Staff health, an example"
phone = "+44 20 7946 0003"
what = "Counselling, without a referral"

[[concerns]]
label = "Staff council, an example"
url = "https://council.{hospital.DOMAIN}/"
"""


@dataclass
class World:
    """What the story acts on."""

    folder: Path
    settings: Settings
    clock: DemoClock
    mailbox: Mailbox
    mail_url: str
    told: Sequence[str]
    stores: Mapping[ServiceName, Store]
    http: httpx.AsyncClient

    async def import_roster(self) -> Changes:
        """What `leeward staff import` does."""
        file = self.folder / "roster.csv"
        file.write_text(hospital.roster())
        return await asyncio.to_thread(import_records, self.settings, read_roster(file), self.clock.now())

    async def import_rota(self) -> int:
        """What `leeward rota import` does."""
        file = self.folder / "rota.ics"
        file.write_text(hospital.rota())
        return await asyncio.to_thread(import_shifts, self.settings, file.read_bytes(), file.name, self.clock.now())

    async def send(self, death: hospital.Death) -> Acknowledgement:
        """What `leeward hl7 send` does."""

        def exchange() -> Acknowledgement:
            with MllpConnection(self.settings.host, self.settings.mllp_port) as line:
                return line.exchange(death.message())

        return await asyncio.to_thread(exchange)

    async def token(self, role: Role) -> str:
        """An API token for matching."""
        return await self._issue(role, "token")

    async def door(self) -> str:
        """A one-time link to the coordinator's board, as `leeward login coordinator` prints it."""
        return f"{self.settings.url('matching')}/login/{await self._issue('coordinator', 'login')}"

    async def _issue(self, role: Role, kind: str) -> str:
        code = new_token()
        store = self.stores["matching"]
        await store.write(lambda unit: issue(unit, role, "login" if kind == "login" else "token", code))
        return code


@asynccontextmanager
async def running_world(folder: Path, system: System) -> AsyncIterator[World]:
    """Start everything in a folder; stop it in order at the end."""
    clock = DemoClock(hospital.START, RATE)
    mailbox = Mailbox(clock)
    # kept to the end: a second demonstration on this machine takes others
    ports = {name: Port(wanted) for name, wanted in {**PORTS, **OWN_PORTS}.items()}
    settings = prepared(folder, ports, system.variables())
    async with AsyncExitStack() as stack:
        telemetry.configure_logs(stack.enter_context((folder / "demo.log").open("w")))
        services = catalogue.load()
        await asyncio.to_thread(migrated, settings, services)
        await mailbox.start(ports["smtp"].number)
        stack.push_async_callback(mailbox.stop)
        stores = await stack.enter_async_context(opened(settings, services, clock))
        ends = await stack.enter_async_context(system.running(settings, clock, stores))
        clock.settled = lambda: settled(stores, ends, clock.now())
        client = await stack.enter_async_context(http_client())
        url = f"http://127.0.0.1:{ports['web'].number}"
        world = World(folder, settings, clock, mailbox, url, system.told, stores, client)
        await stack.enter_async_context(_serve_mailbox(world, ports["web"].number))
        yield world


@asynccontextmanager
async def opened(
    settings: Settings, services: Sequence[Service], clock: DemoClock
) -> AsyncIterator[Mapping[ServiceName, Store]]:
    """The databases, beside those who work on them."""
    stores = {one.name: store_of(settings, one.name, one.metadata, clock) for one in services}
    try:
        yield stores
    finally:
        for store in stores.values():
            await store.close()


def prepared(folder: Path, ports: Mapping[str, Port], more: Mapping[str, str]) -> Settings:
    """Settings for a run in this folder."""
    config = folder / "leeward.toml"
    config.write_text(POLICY)
    environ = {
        "LEEWARD_CONFIG": str(config),
        "LEEWARD_ENV": "demo",
        "LEEWARD_CLOCK": f"{hospital.START:%Y-%m-%dT%H:%M:%SZ}*{RATE:g}",
        "LEEWARD_DATA": str(folder / "data"),
        "LEEWARD_SMTP_URL": f"smtp://127.0.0.1:{ports['smtp'].number}?starttls=never",
        "LEEWARD_MAIL_FROM": f"messages@{hospital.DOMAIN}",
        **{f"LEEWARD_{name.upper()}_PORT": str(ports[name].number) for name in (*SERVICES, "mllp")},
        **more,
    }
    return load_settings(environ)


@asynccontextmanager
async def _serve_mailbox(world: World, web_port: int) -> AsyncIterator[None]:
    """Serve the page of all mailboxes."""
    import uvicorn

    app = web(world.mailbox, world.settings, world.clock, world.door)
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    # bound here: uvicorn ends the process, and leaves everything as it is, where it cannot
    task = asyncio.create_task(server.serve([socket.create_server(("127.0.0.1", web_port))]))
    try:
        while not server.started and not task.done():  # noqa: ASYNC110 uvicorn gives no event for it
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        await task

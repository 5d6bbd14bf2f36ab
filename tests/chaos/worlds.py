"""The two ways to run, as a chaos run needs them: fresh for each run, started process by process, read at rest."""

import asyncio
import contextlib
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx

from leeward.settings import SERVICES, ServiceName, load_settings
from tests.chaos import bodies, hospital
from tests.chaos.bodies import Body
from tests.chaos.evidence import AtRest, in_outboxes, tables
from tests.chaos.hours import HospitalTime
from tests.chaos.outside import Arrivals, Gateway, Post, nobody
from tests.chaos.plan import Blow, Mode
from tests.e2e.harness import Mailbox, System, write_roster

NIGHT: Final = hospital.MORNING.replace(hour=7, minute=0)
STARTUP: Final = 1.0  # seconds until a process is ready, as long as none has been measured


class Surroundings:
    """What outlives the runs: where messages arrive, and a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arrivals = Arrivals([], nobody)
        self.post = Post(self.arrivals)
        self.gateway = Gateway(self.arrivals)
        self.bug = ""

    async def start(self) -> None:
        await self.gateway.start()

    def behave(self, manner: str) -> None:
        """How mail server and gateway treat what comes from now on; what is not theirs changes nothing."""
        self.post.manner = self.gateway.manner = manner

    async def stop(self) -> None:
        await self.gateway.stop()
        self.post.stop_thread()


@contextlib.asynccontextmanager
async def surroundings(folder: Path) -> AsyncIterator[Surroundings]:
    made = Surroundings(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


class World(ABC):
    """One installation. Its processes and servers have the names of a plan's chains."""

    mode: Mode

    def __init__(self, around: Surroundings) -> None:
        self.around = around
        self.time = HospitalTime(NIGHT)
        self.startup = STARTUP
        self.folder = around.folder
        self.token = ""
        self.http = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0))

    @property
    def policy(self) -> str:
        return hospital.POLICY.format(webhook=self.around.gateway.url)

    @property
    def mailbox(self) -> Mailbox:
        return self.around.post

    def hits(self, name: str) -> Counter[str]:
        """The fail-points at which a process has died."""
        written = self._hits(name)
        return Counter(written.read_text().split() if written.exists() else ())

    def _hits(self, name: str) -> Path:
        return self.folder / f"{name}.hits"

    @abstractmethod
    async def prepare(self) -> None:
        """What is made once: databases with everybody in them."""

    @abstractmethod
    async def fresh(self, folder: Path) -> None:
        """Everything as it was after `prepare`, for a run whose logs go to a folder."""

    @abstractmethod
    def words(self, name: str) -> Sequence[str]:
        """How a process is called."""

    @abstractmethod
    def environment(self, name: str) -> dict[str, str]:
        """What it is given."""

    @abstractmethod
    def command_environment(self) -> dict[str, str]: ...

    @abstractmethod
    def url(self, service: ServiceName, path: str = "") -> str: ...

    @property
    @abstractmethod
    def mllp_port(self) -> int: ...

    @abstractmethod
    def urls(self, name: str) -> list[str]:
        """Where a process answers for the services that it runs."""

    @abstractmethod
    async def at_rest(self, *, glance: bool = False) -> AtRest:
        """The databases as they are, and, but for a glance, what was published."""

    async def close(self) -> None:
        """Let go of everything."""
        await self.http.aclose()

    async def strike(self, name: str) -> None:
        """Kill a server and start it again."""
        raise NotImplementedError(name)

    async def start(self, name: str, blow: Blow | None) -> Body:
        """Start a process that will die at the blow's point."""
        clock = self.time.variables(blow.wrong if blow else timedelta())
        planted = {"CHAOS_HITS": str(self._hits(name)), "CHAOS_BUG": self.around.bug, **clock}
        if blow and blow.point:
            planted["CHAOS_POINT"] = f"{blow.point}:{blow.passage}"
        environment = {**self.environment(name), **planted}
        return await bodies.start(self.words(name), environment, self.folder / f"{name}.log")

    async def answers(self, name: str, path: str) -> None:
        """Wait until all services of a process answer with 200."""
        waiting = [url + path for url in self.urls(name)]
        while waiting:
            with contextlib.suppress(httpx.TransportError):
                waiting = [url for url in waiting if (await self.http.get(url)).status_code != 200]
            await asyncio.sleep(0.05)

    async def import_everybody(self, environment: Mapping[str, str]) -> None:
        """Roster and rota."""
        roster, rota, log = self.folder / "roster.csv", self.folder / "rota.ics", self.folder / "commands.log"
        write_roster(roster, hospital.everybody())
        rota.write_text(hospital.rota(), newline="")
        given, token = {**environment, **self.time.variables()}, self.folder / "token"
        await bodies.run(("staff", "import", str(roster)), given, log)
        await bodies.run(("rota", "import", str(rota)), given, log)
        await bodies.run(("token", "create", "coordinator"), given, token)
        self.token = token.read_text().split()[-1]

    async def command(self, *words: str) -> bool:
        """Run a command of the present installation; whether it ended well."""
        try:
            given = {**self.command_environment(), **self.time.variables()}
            await bodies.run(words, given, self.folder / "commands.log")
        except AssertionError:
            return False
        return True

    async def import_without(self, gone: Sequence[str]) -> bool:
        """Import the roster with these people marked as having left; whether that ended well."""
        roster = self.folder / "roster.csv"
        members = hospital.everybody()
        for member in members:
            if member.staff_id in gone:
                member.columns["status"] = "left"
        write_roster(roster, members)
        return await self.command("staff", "import", str(roster))


class Embedded(World):
    """`leeward up`, its databases copied from those with everybody in them."""

    mode = "embedded"

    def __init__(self, around: Surroundings) -> None:
        super().__init__(around)
        self._system = System(self.folder, self.mailbox, self.policy, **hospital.SECRETS)
        self._template = self.folder / "template"

    async def prepare(self) -> None:
        environment = {**self._system.environment, "LEEWARD_DATA": str(self._template)}
        log = self.folder / "commands.log"
        await bodies.run(("migrate",), {**environment, **self.time.variables()}, log)
        await self.import_everybody(environment)

    async def fresh(self, folder: Path) -> None:
        self.folder = folder
        self._system.environment["LEEWARD_DATA"] = str(folder / "data")
        shutil.copytree(self._template, folder / "data")

    def words(self, name: str) -> Sequence[str]:
        return (name,)

    def environment(self, name: str) -> dict[str, str]:
        return self._system.environment

    def command_environment(self) -> dict[str, str]:
        return self._system.environment

    def url(self, service: ServiceName, path: str = "") -> str:
        return self._system.url(service, path)

    @property
    def mllp_port(self) -> int:
        return self._system.mllp_port

    def urls(self, name: str) -> list[str]:
        return [self.url(service) for service in SERVICES]

    async def at_rest(self, *, glance: bool = False) -> AtRest:
        settings = load_settings({**self.command_environment(), **clock_of(self.time)}, starting=False)
        found = await asyncio.to_thread(tables, settings)
        return AtRest(found, frozenset(in_outboxes(found)))

    async def close(self) -> None:
        await super().close()
        self._system.close()


def clock_of(time: HospitalTime) -> dict[str, str]:
    """The clock as the product's own settings have it."""
    return {"LEEWARD_CLOCK": time.variables()["LEEWARD_CLOCK"]}

"""The processes of the distributed demonstration: started, shown the time, and stopped together."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from leeward.runtime import http_client
from leeward.settings import ServiceName
from services.demo.world.clock import DemoClock

PATIENCE: Final = 60.0  # seconds for all to be ready, on a busy machine
GRACE: Final = 30.0  # seconds to stop; a service gives itself less
SHOWN: Final = 5  # lines of the log


class NotRunning(Exception):
    """A process of a service does not start, fails, or does not stop; the text is one line."""


@dataclass(frozen=True)
class ServiceProcess:
    """One process of one service: its port and all its LEEWARD_ variables."""

    service: ServiceName
    port: int
    variables: Mapping[str, str]

    async def start(self, log: Path) -> "StartedProcess":
        """Start it; it waits for its clock."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LEEWARD_")}
        command = (sys.executable, "-m", "services.demo.world.process", self.service)
        with log.open("ab") as said:
            process = await asyncio.create_subprocess_exec(
                *command,
                env={**kept, **self.variables},
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=said,
                # out of reach of a Ctrl-C that is meant for the story, which then stops it in good order
                start_new_session=True,
            )
        assert process.stdin
        return StartedProcess(self, process, process.stdin)


@dataclass(frozen=True)
class StartedProcess:
    """A process and its input."""

    member: ServiceProcess
    process: asyncio.subprocess.Process
    input: asyncio.StreamWriter

    def set_clock(self, setting: str) -> None:
        """Set its clock, as `DemoClock.setting` gives it."""
        if not self.input.is_closing():
            self.input.write(f"{setting}\n".encode())

    async def until_ready(self, client: httpx.AsyncClient) -> None:
        """Wait until it does its work, or has ended."""
        while self.process.returncode is None and not await self._ready(client):  # noqa: ASYNC110 it is another process
            await asyncio.sleep(0.1)

    async def _ready(self, client: httpx.AsyncClient) -> bool:
        with suppress(httpx.HTTPError):
            return (await client.get(f"http://127.0.0.1:{self.member.port}/readyz")).status_code == 200
        return False

    async def stop(self) -> bool:
        """End its input, and wait until it has put down what it held; False where it failed, or does not end."""
        self.input.close()
        try:
            async with asyncio.timeout(GRACE):
                code = await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return False
        # whoever watches may kill one to see that the other goes on
        return code in (0, -signal.SIGKILL)


@asynccontextmanager
async def run_together(
    members: Sequence[ServiceProcess], clock: DemoClock, log: Path
) -> AsyncIterator[Sequence[StartedProcess]]:
    """Start all, wait until each is ready, and stop them together at the end.

    Raises:
        NotRunning: when one is not there as long as it should be, with the end of the log.
    """
    started: list[StartedProcess] = []
    try:
        for member in members:
            one = await member.start(log)
            started.append(one)
            clock.followers.append(one.set_clock)
            one.set_clock(clock.setting)
        await _ready(started)
        yield started
    finally:
        well = await asyncio.gather(*(one.stop() for one in started))
        if not all(well):
            raise NotRunning(f"{started[well.index(False)].member.service} failed; {last_words(log)}")


async def _ready(started: Sequence[StartedProcess]) -> None:
    try:
        async with http_client() as client, asyncio.timeout(PATIENCE):
            await asyncio.gather(*(one.until_ready(client) for one in started))
    except TimeoutError:
        raise NotRunning(f"some of them are not ready after {PATIENCE:g} seconds") from None
    if gone := [one.member.service for one in started if one.process.returncode is not None]:
        raise NotRunning(f"{gone[0]} ended by itself")


def last_words(log: Path) -> str:
    """The end of a log."""
    return f"it was logged: {' | '.join(log.read_text(errors='replace').splitlines()[-SHOWN:])}"

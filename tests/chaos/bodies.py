"""The runner's side of its processes: starts them from the nursery, kills them, and learns how they ended."""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests import nursery
from tests.leeward.limits import no_room

PROGRAM: Final = "tests.chaos.process:main"


class Body:
    """One process. `gone` gives how it ended: its exit code, or minus the signal that killed it."""

    def __init__(self, process: nursery.Process) -> None:
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[int] = self._loop.create_future()
        self._process = process
        self._number = process.connection.fileno()
        self._loop.add_reader(self._number, self._look)

    def _look(self) -> None:
        if (status := self._process.poll()) is not None:
            self._loop.remove_reader(self._number)
            self.gone.set_result(status)

    @property
    def alive(self) -> bool:
        return not self.gone.done()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still, as a machine does that is suspended, and goes on afterwards."""
        with suppress(ProcessLookupError):
            if self.alive:
                self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                if self.alive:
                    self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file of it may grow by a byte; it may die meanwhile."""
        limit = ExitStack()
        with suppress(ProcessLookupError):
            if self.alive:
                limit.enter_context(no_room(0, self._process.pid))
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                limit.close()

    async def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; gives how it ended."""
        if self.alive:
            self._process.send_signal(number)
            self._look()
        return await self.gone


async def start(words: Sequence[str], environment: Mapping[str, str], log: Path) -> Body:
    """Start `leeward WORDS` with this environment and no other; what it prints goes to the end of the log."""

    def born() -> nursery.Process:
        with log.open("ab") as file:
            return nursery.Process(words, environment, stdout=file, stderr=file, main=PROGRAM)

    return Body(await asyncio.to_thread(born))


async def run(words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Run a command to its end, which must be a good one."""
    code = await (await start(words, environment, log)).gone
    assert code == 0, f"leeward {words[0]} ended with {code}: {log.read_text()[-2000:]}"

"""The runner's side of the nursery: starts processes, kills them, and learns how they ended."""

import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]


class Body:
    """One process. `gone` gives how it ended: its exit code, or minus the signal that killed it."""

    def __init__(self, pid: int, nursery: "Nursery") -> None:
        self.pid = pid
        self.gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._nursery = nursery

    @property
    def alive(self) -> bool:
        return not self.gone.done()

    async def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; gives how it ended."""
        if self.alive:
            self._nursery.tell(pid=self.pid, signal=int(number))
        return await self.gone


class Nursery:
    """`async with Nursery() as nursery`; everything it started is gone at the end."""

    def __init__(self) -> None:
        self._bodies: dict[int, Body] = {}
        self._expected: deque[asyncio.Future[Body]] = deque()
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        command = (sys.executable, "-m", "tests.chaos.nursery")
        given = {name: value for name, value in os.environ.items() if not name.startswith(("LEEWARD_", "CHAOS_"))}
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT, env=given)
        self._listening = asyncio.create_task(self._listen())
        async with asyncio.timeout(120):
            await self._ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    async def start(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> Body:
        """Start `leeward WORDS` with this environment and no other; what it prints goes to the end of the log."""
        born: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        self._expected.append(born)
        self.tell(words=list(words), environment=dict(environment), log=str(log))
        return await born

    async def run(self, words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Run a command to its end, which must be a good one."""
        code = await (await self.start(words, environment, log)).gone
        assert code == 0, f"leeward {words[0]} ended with {code}: {log.read_text()[-2000:]}"

    def tell(self, **order: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout
        while line := await self._process.stdout.readline():
            word = json.loads(line)
            if "born" in word:
                body = self._bodies[word["born"]] = Body(word["born"], self)
                self._expected.popleft().set_result(body)
            elif "gone" in word:
                self._bodies.pop(word["gone"]).gone.set_result(word["status"])
            else:
                self._ready.set()

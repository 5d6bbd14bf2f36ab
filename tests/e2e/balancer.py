"""The front of the demonstration, in a thread of its own, for tests that do not run on a loop."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence

from services.demo.servers.load_balancer import front


class Balancer:
    """Listens on loopback; `behind` maps each of its ports to those it passes connections on to, in turn."""

    def __init__(self, behind: Mapping[int, Sequence[int]]) -> None:
        self._behind = behind
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._listening.wait(10)

    def close(self) -> None:
        """Drop every connection and end."""
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as fronts:
            for port, behind in self._behind.items():
                await fronts.enter_async_context(front(port, behind))
            self._listening.set()
            await self._closing.wait()

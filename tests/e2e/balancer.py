"""What a site puts before its replicas: each connection goes to the next one that takes it."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from functools import partial


class Balancer:
    """Listens on loopback; `behind` maps each of its ports to those it passes connections on to, in turn."""

    def __init__(self, behind: Mapping[int, Sequence[int]]) -> None:
        self._behind = {port: list(ports) for port, ports in behind.items()}
        self._listening = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        # of a connection whose client has ended, the loop itself holds nothing any more
        self._carrying: set[asyncio.Task[None] | None] = set()
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
        async with contextlib.AsyncExitStack() as servers:
            for port in self._behind:
                await servers.enter_async_context(
                    await asyncio.start_server(partial(self._carry, port), "127.0.0.1", port)
                )
            self._listening.set()
            await self._closing.wait()

    async def _carry(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._carrying.add(task := asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            there, back = await self._next(port)
            with contextlib.closing(back):
                await asyncio.gather(pump(reader, back), pump(there, writer))
        self._carrying.discard(task)

    async def _next(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        behind = self._behind[port]
        for _ in behind:
            behind.append(behind.pop(0))
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", behind[-1])
        raise ConnectionRefusedError


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until one side ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()

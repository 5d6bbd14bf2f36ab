"""A real MLLP port for tests, and what is read from it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from leeward.listening import listening
from services.incident.sources.hl7v2.listener import Answer, Listener


@dataclass
class Port:
    """A listening service: `open()` gives a connection, `stop()` ends the listener."""

    number: int
    stop: Callable[[], None]
    ended: "asyncio.Task[None]"
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        self.writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        self.stop()
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self.ended


@asynccontextmanager
async def opened(answer: Answer) -> AsyncIterator[Port]:
    """A port that `answer` serves."""
    bound, stop = listening("127.0.0.1", 0, "MLLP_PORT"), asyncio.Event()
    running = asyncio.create_task(Listener(answer).run(bound, stop))
    await asyncio.sleep(0)
    port = Port(bound.getsockname()[1], stop.set, running)
    yield port
    await port.close()


async def answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(30):
        return (await reader.readuntil(b"\x1c\r"))[1:-2]


async def closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    return True


def control_id(reply: bytes) -> bytes:
    return reply.split(b"\r")[1].split(b"|")[2]

"""What a site puts before its replicas: one address, whose connections go to each of them in turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from itertools import cycle, islice


@asynccontextmanager
async def front(port: int, behind: Sequence[int]) -> AsyncIterator[None]:
    """Listen on a port of loopback and pass connections on to those behind it; one that is away is left out."""
    turns, carrying = cycle(behind), set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        carrying.add(task)
        task.add_done_callback(carrying.discard)
        with closing(writer):
            for number in islice(turns, len(behind)):
                try:
                    there, back = await asyncio.open_connection("127.0.0.1", number)
                except OSError:
                    continue
                with suppress(OSError), closing(back):
                    await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
                return

    async with await asyncio.start_server(carry, "127.0.0.1", port):
        try:
            yield
        finally:
            for task in carrying:
                task.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until that side ends, then tell the other."""
    while some := await reader.read(65536):
        writer.write(some)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()

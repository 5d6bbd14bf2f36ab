"""An open-loop generator over MLLP and a webhook receiver: latency counts from when a message should have left."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from aiohttp import web

from tests.bench.hospital import number_of

CONNECTIONS = 8
SETTLED = 1 / 3  # of a step: from then on hand-offs are counted


@dataclass
class Receiver:
    """Takes the hand-offs and notes when each member's came."""

    arrived: dict[int, float] = field(default_factory=dict)
    repeated: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _take(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        number = number_of((body.get("data") or body)["to"]["email"])
        if number in self.arrived:
            self.repeated += 1
        self.arrived.setdefault(number, time.perf_counter())
        return web.Response(status=204)

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()


@dataclass(frozen=True)
class Measured:
    """One step of load: what was offered and, once settled, handed off a second; latency in seconds at 50 and 99 %."""

    offered: float
    handed_off: float
    p50: float
    p99: float
    lost: int

    @property
    def sustained(self) -> bool:
        """Whether hand-offs kept up with what was offered."""
        return self.lost == 0 and self.handed_off >= 0.95 * self.offered


class Sender:
    """Several kept MLLP connections; acknowledgements are read beside the sending and must be AA."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._readers: list[asyncio.Task[None]] = []
        self.refused = 0

    async def open(self, port: int) -> None:
        for _ in range(CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            self._writers.append(writer)
            self._readers.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while frame := await reader.readuntil(b"\x1c\r"):
            if b"MSA|AA|" not in frame:
                self.refused += 1

    def send(self, number: int, frame: bytes) -> None:
        self._writers[number % CONNECTIONS].write(frame)

    async def close(self) -> None:
        for task in self._readers:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._readers, return_exceptions=True)


async def measure(
    sender: Sender, receiver: Receiver, messages: Iterator[tuple[int, bytes]], rate: float, seconds: float
) -> Measured:
    """Offer `rate` messages a second for a time, whatever comes back, and wait for the last hand-off."""
    begin = time.perf_counter()
    due: dict[int, float] = {}
    for n in range(int(rate * seconds)):
        at = begin + n / rate
        while (wait := at - time.perf_counter()) > 0:
            await asyncio.sleep(wait if wait > 0.001 else 0)
        number, frame = next(messages)
        due[number] = at
        sender.send(number, frame)
        if n % 16 == 0:
            await asyncio.sleep(0)
    await _all_arrived(receiver, due)
    return _figures(receiver, due, rate, begin + SETTLED * seconds, begin + seconds)


async def _all_arrived(receiver: Receiver, due: dict[int, float]) -> None:
    missing = set(due)
    patience = time.perf_counter() + 20
    while missing and time.perf_counter() < patience:
        await asyncio.sleep(0.02)
        missing -= receiver.arrived.keys()


def _figures(receiver: Receiver, due: dict[int, float], rate: float, settled: float, end: float) -> Measured:
    times = {number: receiver.arrived[number] for number in due if number in receiver.arrived}
    latencies = sorted(times[number] - due[number] for number in times) or [float("inf")]
    return Measured(
        offered=rate,
        # a queue that grows hands off less in this time than comes in; one that only takes a while does not
        handed_off=sum(settled <= arrived < end for arrived in times.values()) / (end - settled),
        p50=latencies[len(latencies) // 2],
        p99=latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))],
        lost=len(due) - len(times),
    )

"""How many HL7 v2 messages a second the edge accepts durably, beside python-hl7's bare parse rate in the same run.

Accepted means: read, decided, committed, acknowledged, with everything that a death leads to in the same process.
Latency counts, at half of that rate, from when a message should have left.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import hl7
import psutil

from tests.bench import closed_cases, systems
from tests.bench.feed import feed, framed
from tests.bench.load import Receiver

CONNECTIONS: Final = 8
WINDOW: Final = 128  # messages a connection may have unanswered at full load
SAMPLE: Final = 2000
PARTS: Final = 5
RETENTION_EVERY: Final = "1"  # seconds
WARM: Final = 3.0  # seconds
TICK: Final = 0.001  # seconds; a sender that spins would take a core from what is measured
END: Final = b"\x1c\r"


@dataclass
class Line:
    """One MLLP connection; answers come in order."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    due: deque[float] = field(default_factory=deque)
    latencies: list[float] = field(default_factory=list)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        rest = b""
        while some := await self.reader.read(262144):
            *whole, rest = (rest + some).split(END)
            if sum(b"MSA|AA|" in answer for answer in whole) < len(whole):
                raise SystemExit("a message was refused")
            now = time.perf_counter()
            self.latencies += (now - self.due.popleft() for _ in whole)
            self.answered.set()

    def send(self, message: bytes, due: float) -> None:
        self.due.append(due)
        self.writer.write(framed(message))

    async def room(self, most: int) -> None:
        """Until no more than so many are unanswered."""
        while len(self.due) > most:
            self.answered.clear()
            await self.answered.wait()


class Lines:
    """All connections to one system."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._readers: list[asyncio.Task[None]] = []

    async def open(self, port: int) -> None:
        for _ in range(CONNECTIONS):
            self._lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
            self._readers.append(asyncio.create_task(self._lines[-1].read()))

    async def flood(self, messages: Iterator[bytes], count: int) -> float:
        """As fast as they are acknowledged; gives messages a second."""
        begin, left = time.perf_counter(), iter(range(count))

        async def one(line: Line) -> None:
            for n, message in zip(left, messages, strict=False):
                line.send(message, 0.0)
                if n % 8 == 0:
                    await line.room(WINDOW)
            await line.room(0)

        await asyncio.gather(*map(one, self._lines))
        return count / (time.perf_counter() - begin)

    async def paced(self, messages: Iterator[bytes], rate: float, seconds: float) -> list[float]:
        """Open loop; gives all latencies, in seconds, in order of size."""
        for line in self._lines:
            line.latencies.clear()
        begin = time.perf_counter()
        for n in range(int(rate * seconds)):
            due = begin + n / rate
            while (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(wait, TICK))
            self._lines[n % CONNECTIONS].send(next(messages), due)
        await asyncio.gather(*(line.room(0) for line in self._lines))
        return sorted(one for line in self._lines for one in line.latencies)

    async def close(self) -> None:
        for line in self._lines:
            line.writer.close()
        await asyncio.gather(*self._readers, return_exceptions=True)


class Rate(NamedTuple):
    """Messages a second by the clock, and by the processor time that they took: others' work hits only the first."""

    wall: float
    processor: float


def parse_rate(sample: list[str]) -> Rate:
    """What python-hl7 parses, doing nothing else with it."""
    begin, used = time.perf_counter(), time.process_time()
    for message in sample:
        hl7.parse(message)
    return Rate(len(sample) / (time.perf_counter() - begin), len(sample) / (time.process_time() - used))


def listener(port: int) -> psutil.Process:
    """The process that listens there."""
    found = [one.pid for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == port]
    return psutil.Process(found[0])


def megabytes(process: psutil.Process) -> float:
    """What it holds in memory."""
    return float(process.memory_info().rss) / 1e6


def processor(process: psutil.Process) -> float:
    """Seconds of processor time that it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def main(messages: int, staff: int, seconds: float) -> None:
    sample = [message.decode() for message in itertools.islice(feed("S", staff), SAMPLE)]
    size, segments = sum(map(len, sample)) / SAMPLE, sum(one.count("\r") for one in sample) / SAMPLE
    print(f"messages of {size:.0f} bytes and {segments:.0f} segments on average, 3 % deaths, {staff} staff")
    parsed = [parse_rate(sample)]
    receiver, lines, source = Receiver(), Lines(), feed("M", staff)
    await receiver.start()
    with tempfile.TemporaryDirectory() as folder:
        async with systems.embedded(Path(folder), f"http://127.0.0.1:{receiver.port}/hook", staff) as port:
            await lines.open(port)
            await lines.flood(source, messages // 10)
            system = listener(port)
            used, memory, seconds_taken = processor(system), [megabytes(system)], 0.0
            for _ in range(PARTS):
                seconds_taken += messages / PARTS / await lines.flood(source, messages // PARTS)
                memory.append(megabytes(system))
            await quiet(receiver)
            wall = messages / seconds_taken
            accepted = Rate(wall, messages / (processor(system) - used))
            latencies = await lines.paced(source, wall / 2, seconds)
            await lines.close()
    parsed.append(parse_rate(sample))
    await receiver.stop()
    report(accepted, Rate(*(sum(each) / 2 for each in zip(*parsed, strict=True))), latencies)
    print(f"memory, every {messages // PARTS} messages: {', '.join(f'{one:.0f}' for one in memory)} MB")


async def beside_retention(cases: int, rate: float, staff: int, seconds: float) -> None:
    """The same stream with so many closed cases behind it, first without retention, then with it all the time."""
    receiver = Receiver()
    await receiver.start()
    url = f"http://127.0.0.1:{receiver.port}/hook"
    with tempfile.TemporaryDirectory() as folder:
        systems.prepare(Path(folder), systems.environment(Path(folder), url), staff)
        began = time.perf_counter()
        closed_cases.fill(Path(folder, "data"), cases)
        size = sum(file.stat().st_size for file in Path(folder, "data").glob("*.db")) / 1e6
        print(f"{cases} closed cases, {size:.0f} MB, filled in {time.perf_counter() - began:.0f} s")
        found, rows = [], closed_cases.count(Path(folder, "data"))
        for run, often in enumerate(("never", RETENTION_EVERY)):
            program = (sys.executable, "-m", "tests.bench.closed_cases", often)
            async with systems.again(Path(folder), url, program) as port:
                found.append(await _paced_alone(port, feed(f"R{run}", staff), rate, seconds))
                await quiet(receiver)
        print(f"deleted meanwhile: at least {rows - closed_cases.count(Path(folder, 'data'))} rows")
    await receiver.stop()
    for name, latencies in zip(("without retention", "with retention"), found, strict=True):
        p50, p99, p999 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99, 0.999))
        worst = latencies[-1] * 1000
        print(f"{name}, {rate:.0f}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99.9 {p999:.1f} ms, most {worst:.1f} ms")


async def _paced_alone(port: int, messages: Iterator[bytes], rate: float, seconds: float) -> list[float]:
    lines = Lines()
    await lines.open(port)
    await lines.paced(messages, rate, WARM)
    latencies = await lines.paced(messages, rate, seconds)
    await lines.close()
    return latencies


async def quiet(receiver: Receiver) -> None:
    """Until what the deaths so far lead to has been done."""
    seen = -1
    while seen < (seen := len(receiver.arrived)):
        await asyncio.sleep(1)


def report(accepted: Rate, parsed: Rate, latencies: list[float]) -> None:
    p50, p99 = (latencies[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
    times = accepted.wall / parsed.wall
    print(f"accepted durably {accepted.wall:.0f}/s, python-hl7 parses {parsed.wall:.0f}/s: {times:.1f} times")
    print(f"by processor time {accepted.processor / parsed.processor:.1f} times")
    print(f"at half load: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000, help="how many at full load")
    parser.add_argument("--staff", type=int, default=20_000, help="people who can be affected")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long at half load")
    parser.add_argument("--closed", type=int, default=0, help="closed cases behind the stream, beside retention")
    parser.add_argument("--rate", type=float, default=200.0, help="messages a second beside retention")
    arguments = parser.parse_args()
    if arguments.closed:
        asyncio.run(beside_retention(arguments.closed, arguments.rate, arguments.staff, arguments.seconds))
    else:
        asyncio.run(main(arguments.messages, arguments.staff, arguments.seconds))

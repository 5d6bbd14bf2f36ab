"""Measure both ways to run beside naive baselines, with the same generator, receiver and hospital."""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench import systems
from tests.bench.hospital import deaths
from tests.bench.load import Measured, Receiver, Sender, measure

UNLOADED_RATE = 20.0
WARM_UP = 10.0  # seconds: a Java runtime and a database's plans take as long to settle


async def unloaded(port: int, receiver: Receiver, messages: Iterator[tuple[int, bytes]], seconds: float) -> Measured:
    sender = Sender()
    await sender.open(port)
    await measure(sender, receiver, messages, UNLOADED_RATE, WARM_UP)
    result = await measure(sender, receiver, messages, UNLOADED_RATE, seconds)
    await sender.close()
    return result


async def sustained(
    port: int, receiver: Receiver, messages: Iterator[tuple[int, bytes]], rates: Iterable[int], seconds: float
) -> Measured:
    """The highest of rising rates at which hand-offs keep up."""
    sender = Sender()
    await sender.open(port)
    best = Measured(0, 0, float("inf"), float("inf"), 0)
    for rate in rates:
        step = await measure(sender, receiver, messages, rate, seconds)
        print(f"  offered {rate}/s: handed off {step.handed_off:.0f}/s, p99 {step.p99 * 1000:.0f} ms, lost {step.lost}")
        if not step.sustained:
            break
        best = step
    await sender.close()
    if sender.refused:
        raise SystemExit(f"{sender.refused} messages were refused")
    return best


# each way with the baseline on the same kind of database and queue, and the rates it is tried at
WAYS: Final = {
    "naive": (systems.naive, "naive", range(40, 401, 20)),
    "embedded": (systems.embedded, "naive", range(300, 3001, 100)),
    "naive-servers": (systems.naive_distributed, "naive-servers", range(20, 401, 10)),
    "distributed": (systems.distributed, "naive-servers", range(100, 3001, 50)),
}


async def main(ways: Sequence[str], seconds: float, staff: int) -> None:
    print(
        f"population: {staff} staff, each in one death at most, {systems.SUPPORTERS} supporters; {os.cpu_count()} cores"
    )
    figures: dict[str, tuple[Measured, Measured]] = {}
    for run, name in enumerate(ways):
        start, _, rates = WAYS[name]
        print(name)
        receiver = Receiver()
        await receiver.start()
        with tempfile.TemporaryDirectory() as folder:
            async with start(Path(folder), f"http://127.0.0.1:{receiver.port}/hook", staff) as port:
                messages = deaths(run)
                idle = await unloaded(port, receiver, messages, seconds)
                print(f"  unloaded: p50 {idle.p50 * 1000:.1f} ms, p99 {idle.p99 * 1000:.1f} ms, lost {idle.lost}")
                figures[name] = idle, await sustained(port, receiver, messages, rates, seconds)
        await receiver.stop()
        if receiver.repeated:
            raise SystemExit(f"{receiver.repeated} hand-offs came twice")
    report(figures)


def report(figures: Mapping[str, tuple[Measured, Measured]]) -> None:
    """Beside each way how many times as fast as its baseline it is, where that was measured in this run."""
    print(f"\n{'':14}{'sustained/s':>12}{'ratio':>8}{'p50 unloaded':>15}{'p99 unloaded':>15}")
    for name, (idle, load) in figures.items():
        base = figures.get(WAYS[name][1])
        ratio = f"{load.handed_off / base[1].handed_off:.1f}" if base and base[1].handed_off else "-"
        p50, p99 = idle.p50 * 1000, idle.p99 * 1000
        print(f"{name:14}{load.handed_off:>12.0f}{ratio:>8}{p50:>12.1f} ms{p99:>12.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=9.0, help="length of one step")
    parser.add_argument("--staff", type=int, default=60000, help="people who can be affected")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="what to measure")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.ways, arguments.seconds, arguments.staff))

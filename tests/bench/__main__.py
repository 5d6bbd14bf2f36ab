"""Measure the embedded system and the naive baseline with the same generator, receiver and hospital."""

import argparse
import asyncio
import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from leeward.settings import SERVICES
from tests.bench.hospital import deaths, write_roster
from tests.bench.load import Measured, Receiver, Sender, measure

SUPPORTERS = 1000
UNLOADED_RATE = 20.0
POLICY = """
[outreach]
mode = "live"
quiet_hours = ""
jitter = "0s"
cover_every = ""
[sources.ehr]
kind = "hl7v2"
[channels.webhook]
url = "http://127.0.0.1:{port}/hook"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path, receiver: Receiver, mllp_port: int) -> dict[str, str]:
    policy = folder / "leeward.toml"
    policy.write_text(POLICY.format(port=receiver.port))
    ours = {f"LEEWARD_{name.upper()}_PORT": str(free_port()) for name in SERVICES}
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("LEEWARD_")},
        **ours,
        "LEEWARD_ENV": "test",
        "LEEWARD_CONFIG": str(policy),
        "LEEWARD_DATA": str(folder / "data"),
        "LEEWARD_MLLP_PORT": str(mllp_port),
        "LEEWARD_WEBHOOK_SECRET": "whsec_" + base64.b64encode(os.urandom(32)).decode(),
        "LEEWARD_CLOCK": "2026-11-21T10:00:00Z",
    }


@asynccontextmanager
async def embedded(folder: Path, receiver: Receiver, staff: int) -> AsyncIterator[int]:
    """`leeward up` with its roster imported; gives the MLLP port."""
    port = free_port()
    env = environment(folder, receiver, port)
    roster = folder / "roster.csv"
    write_roster(roster, staff, SUPPORTERS)
    command = [sys.executable, "-m", "services"]
    for words in (["migrate"], ["staff", "import", str(roster)]):
        subprocess.run([*command, *words], env=env, check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen([*command, "up"], env=env, stderr=(folder / "log").open("w"))
    try:
        await ready(env)
        yield port
    finally:
        process.terminate()
        process.wait(30)


async def ready(env: dict[str, str]) -> None:
    async with httpx.AsyncClient() as client:
        begin = time.perf_counter()
        while True:
            try:
                if (await client.get(f"http://127.0.0.1:{env['LEEWARD_BOX_PORT']}/readyz")).status_code == 200:
                    print(f"  leeward up answers /readyz after {time.perf_counter() - begin:.1f} s")
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def naive(folder: Path, receiver: Receiver, staff: int) -> AsyncIterator[int]:
    """The baseline, listening; gives its MLLP port."""
    port = free_port()
    words = [str(folder), str(port), f"http://127.0.0.1:{receiver.port}/hook", str(staff), str(SUPPORTERS)]
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.naive", *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        yield port
    finally:
        process.kill()
        process.wait()


async def unloaded(port: int, receiver: Receiver, messages: Iterator[tuple[int, bytes]], seconds: float) -> Measured:
    sender = Sender()
    await sender.open(port)
    await measure(sender, receiver, messages, UNLOADED_RATE, 2)
    result = await measure(sender, receiver, messages, UNLOADED_RATE, seconds)
    await sender.close()
    return result


async def sustained(
    port: int, receiver: Receiver, messages: Iterator[tuple[int, bytes]], rates: list[int], seconds: float
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


async def main(seconds: float, staff: int) -> None:
    print(f"population: {staff} staff, each in one death at most, {SUPPORTERS} supporters; {os.cpu_count()} cores")
    figures: dict[str, tuple[Measured, Measured]] = {}
    ways = {
        "naive": (naive, [*range(40, 401, 20)]),
        "embedded": (embedded, [*range(300, 3001, 100)]),
    }
    for run, (name, (start, rates)) in enumerate(ways.items()):
        print(name)
        receiver = Receiver()
        await receiver.start()
        with tempfile.TemporaryDirectory() as folder:
            async with start(Path(folder), receiver, staff) as port:
                messages = deaths(run)
                idle = await unloaded(port, receiver, messages, seconds)
                figures[name] = idle, await sustained(port, receiver, messages, rates, seconds)
        await receiver.stop()
        if receiver.repeated:
            raise SystemExit(f"{receiver.repeated} hand-offs came twice")
    report(figures)


def report(figures: dict[str, tuple[Measured, Measured]]) -> None:
    base = figures["naive"][1].handed_off
    print(f"\n{'':10}{'sustained/s':>14}{'ratio':>8}{'p50 unloaded':>15}{'p99 unloaded':>15}")
    for name, (idle, load) in figures.items():
        rate, p50, p99 = load.handed_off, idle.p50 * 1000, idle.p99 * 1000
        print(f"{name:10}{rate:>14.0f}{rate / base:>8.1f}{p50:>12.1f} ms{p99:>12.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of one step")
    parser.add_argument("--staff", type=int, default=60000, help="people who can be affected")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.seconds, arguments.staff))

"""`kill -9` at twenty random moments of a stream: every acknowledged death reaches its people, under one Message-ID."""

import asyncio
import random
import threading
import time

from leeward.testing import wait_until
from tests.e2e.conftest import MakeSystem
from tests.e2e.harness import LIVE, AckReader, Mailbox, Member, System, death

INCIDENTS, CUTS, SEED = 200, 20, 20261121


def hospital() -> list[Member]:
    staff = [Member(f"S{n:03}", unit=f"W{n % 9}") for n in range(INCIDENTS)]
    helpers = [Member(f"H{n:03}", unit=f"X{n % 9}", supporter=True) for n in range(40)]
    return [*staff, *helpers]


async def stream(system: System, done: set[int]) -> None:
    """Deliver every death in turn, again and again until it is acknowledged, as an engine's queue would."""
    reader = AckReader(system.mllp_port)
    for number in range(INCIDENTS):
        message = death(f"C{number}", f"S{number:03}", unit=f"W{number % 9}", patient=f"Q{number}")
        while not await reader.deliver(message):
            await asyncio.sleep(0.05)
        done.add(number)
        await asyncio.sleep(0.02)


def test_every_acknowledged_death_reaches_its_people_once(make_system: MakeSystem, mailbox: Mailbox) -> None:
    system = make_system(LIVE, LEEWARD_CLOCK="2026-11-21T09:00:00Z")
    system.import_roster(*hospital())
    system.start()
    chance, acknowledged = random.Random(SEED), set[int]()
    sending = threading.Thread(target=lambda: asyncio.run(stream(system, acknowledged)))
    sending.start()
    for _ in range(CUTS):
        time.sleep(chance.uniform(0.02, 0.4))
        system.kill()
        system.restart()
    sending.join(60)
    assert len(acknowledged) == INCIDENTS
    wanted = {f"s{number:03}@hospital.example" for number in acknowledged}
    wait_until(lambda: wanted - mailbox.message_ids().keys(), 20, lambda missing: not missing)
    assert {address: len(ids) for address, ids in mailbox.message_ids().items() if len(ids) > 1} == {}
    assert set(mailbox.message_ids()) == wanted

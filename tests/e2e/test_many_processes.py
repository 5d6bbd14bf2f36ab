"""Each service a process of its own, in replicas: whatever is killed or restarted, each person gets one message."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from leeward.settings import SERVICES, ServiceName
from tests.e2e.conftest import STAFF, MakeDistributed
from tests.e2e.distributed import Distributed
from tests.e2e.harness import LIVE, AckReader, Mailbox, Member, death, eventually

NINE = "2026-11-21T09:00:00Z"
TWICE: Mapping[ServiceName, int] = {"incident": 2, "matching": 2, "notify": 2}
INVOLVED = ("amy@hospital.example", "ben@hospital.example")
DEATHS = 60


def hospital() -> list[Member]:
    staff = [Member(f"S{n:02}", unit=f"W{n % 9}") for n in range(DEATHS)]
    helpers = [Member(f"H{n:02}", unit=f"X{n % 9}", supporter=True) for n in range(10)]
    return [*staff, *helpers]


class Stream:
    """Deaths one after the other, now to one replica of incident and now to the other, each until acknowledged."""

    def __init__(self, system: Distributed) -> None:
        self._readers = [AckReader(one.mllp_port) for one in system.replicas["incident"]]
        self.acknowledged = 0
        self._stop = threading.Event()

    async def send(self) -> None:
        for number in range(DEATHS):
            message = death(f"C{number}", f"S{number:02}", unit=f"W{number % 9}", patient=f"Q{number}")
            attempt = number
            while not self._stop.is_set() and not await self._readers[attempt % 2].deliver(message):
                attempt += 1
                await asyncio.sleep(0.05)
            self.acknowledged += not self._stop.is_set()
            await asyncio.sleep(0.05)

    def reached(self, count: int) -> None:
        eventually(lambda: self.acknowledged, 30, lambda sent: sent >= count)

    @contextmanager
    def running(self) -> Iterator[None]:
        sending = threading.Thread(target=lambda: asyncio.run(self.send()))
        sending.start()
        try:
            yield
            self.reached(DEATHS)
        finally:
            self._stop.set()
            sending.join()


def each_got_exactly_one(mailbox: Mailbox) -> None:
    """Nobody is missing, nobody has two, and nobody else has any."""
    wanted = {f"s{number:02}@hospital.example" for number in range(DEATHS)}
    eventually(lambda: wanted - mailbox.message_ids().keys(), 30, lambda missing: not missing)
    assert {address: len(ids) for address, ids in mailbox.message_ids().items()} == dict.fromkeys(wanted, 1)


def test_each_involved_person_gets_exactly_one_message(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, TWICE, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF, *hospital())
    system.start()
    assert "MSA|AA|M1" in system.send(death("M1", "AMY", "BEN", referring="REF"))
    eventually(lambda: len(mailbox.message_ids()), 10, lambda found: found >= 2)
    assert sorted(mailbox.message_ids()) == sorted(INVOLVED)


def test_broker_and_database_die_in_the_middle(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, TWICE, LEEWARD_CLOCK=NINE)
    system.import_roster(*hospital())
    system.start()
    stream = Stream(system)
    with stream.running():
        stream.reached(15)
        system.kafka.kill()
        # what is acknowledged rests on the database alone
        stream.reached(25)
        system.kafka.start()
        stream.reached(35)
        system.postgresql.kill()
        system.postgresql.start()
    each_got_exactly_one(mailbox)
    for replica in (*system.replicas["matching"], *system.replicas["notify"]):
        assert system.metric(replica, "leeward_events_handled_total") > 0
    assert system.stop() == 0


def test_a_rolling_restart_of_everything(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, dict.fromkeys(SERVICES, 2), LEEWARD_CLOCK=NINE)
    system.import_roster(*hospital())
    system.start()
    stream = Stream(system)
    with stream.running():
        stream.reached(5)
        for number in range(2):
            for service in SERVICES:
                assert system.terminate(service, number) == 0
                system.launch(service)
            system.await_ready()
    each_got_exactly_one(mailbox)
    assert system.stop() == 0

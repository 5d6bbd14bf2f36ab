"""Each service a process of its own, in replicas: whatever is killed or restarted, each person gets one message."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from leeward.settings import SERVICES, ServiceName
from leeward.testing import wait_until
from tests.e2e.conftest import STAFF, MakeDistributed
from tests.e2e.distributed import Distributed
from tests.e2e.harness import LIVE, AckReader, Mailbox, Member, death

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
        self._stop = threading.Event()
        self._wanted = 0
        self.acknowledged = 0

    def want(self, count: int) -> None:
        """Let that many more go."""
        self._wanted += count

    def reached(self, count: int) -> None:
        wait_until(lambda: self.acknowledged, 60, lambda sent: sent >= count)

    async def _send(self) -> None:
        while not self._stop.is_set():
            if self.acknowledged < self._wanted and await self._acknowledge(self.acknowledged):
                self.acknowledged += 1
            await asyncio.sleep(0.05)

    async def _acknowledge(self, number: int) -> bool:
        message = death(f"C{number}", f"S{number:02}", unit=f"W{number % 9}", patient=f"Q{number}")
        self._readers.append(self._readers.pop(0))
        return await self._readers[-1].deliver(message)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, and until all that is wanted is acknowledged."""
        sending = threading.Thread(target=lambda: asyncio.run(self._send()))
        sending.start()
        try:
            yield
            self.reached(self._wanted)
        finally:
            self._stop.set()
            sending.join()


def each_got_exactly_one(mailbox: Mailbox, *others: str) -> None:
    """Nobody is missing, nobody has two, and nobody else has any."""
    wanted = {*others, *(f"s{number:02}@hospital.example" for number in range(DEATHS))}
    wait_until(lambda: wanted - mailbox.message_ids().keys(), 60, lambda missing: not missing)
    assert {address: len(ids) for address, ids in mailbox.message_ids().items()} == dict.fromkeys(wanted, 1)


@pytest.mark.own_servers
def test_each_person_gets_one_message_though_broker_and_database_die(
    make_distributed: MakeDistributed, mailbox: Mailbox
) -> None:
    system = make_distributed(LIVE, TWICE, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF, *hospital())
    system.start()
    stream = Stream(system)
    with stream.running():
        stream.want(DEATHS)
        stream.reached(15)
        system.kafka.kill()
        # what is acknowledged rests on the database alone: no process needs to remember it
        assert "MSA|AA|M1" in system.send(death("M1", "AMY", "BEN", referring="REF"))
        stream.reached(25)
        for number in range(2):
            system.kill("incident", number)
        system.launch("incident")
        system.kafka.start()
        stream.reached(35)
        system.postgresql.kill()
        system.postgresql.start()
    each_got_exactly_one(mailbox, *INVOLVED)
    for replica in (*system.replicas["matching"], *system.replicas["notify"]):
        assert system.metric(replica, "leeward_events_handled_total") > 0
    assert system.stop() == 0


def test_a_rolling_restart_of_everything(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, dict.fromkeys(SERVICES, 2), LEEWARD_CLOCK=NINE)
    system.import_roster(*hospital())
    system.start()
    stream = Stream(system)
    with stream.running():
        for number in range(2):
            for service in SERVICES:
                stream.want(DEATHS // 2 // len(SERVICES))
                assert system.terminate(service, number) == 0
                system.launch(service)
            system.await_ready()
    each_got_exactly_one(mailbox)
    assert len(mailbox.mails) == DEATHS, "who stops in order leaves no hand-off in doubt"
    assert system.stop() == 0

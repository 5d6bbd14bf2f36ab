"""A backup under a stream of deaths, what comes after it, and the restore: what people got, and what is stored."""

import asyncio
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from leeward.settings import SERVICES, ServiceName
from leeward.testing import wait_until
from services.demo.servers.postgresql import find_programs
from tests.e2e.conftest import MakeDistributed
from tests.e2e.harness import LIVE, AckReader, Installation, Mailbox, Member, System, death, link_in

SUPPORTERS = tuple(Member(f"S{n}", unit="ED", supporter=True) for n in range(3))
BEFORE = tuple(Member(f"B{n}", unit="ICU") for n in range(6))
DURING = tuple(Member(f"D{n}", unit="OR") for n in range(60))
AFTER = tuple(Member(f"A{n}", unit="PICU") for n in range(3))
LATE = tuple(Member(f"L{n}", unit="PICU") for n in range(2))
STAFF = (*SUPPORTERS, *BEFORE, *DURING, *AFTER, *LATE)
GONE = BEFORE[1]


class OneTime(System):
    """A system whose processes and commands have one time, which goes on from start to start."""

    _began = time.monotonic()

    def command_environment(self) -> dict[str, str]:
        now = datetime(2026, 11, 21, 9, tzinfo=UTC) + timedelta(seconds=time.monotonic() - self._began)
        self.environment["LEEWARD_CLOCK"] = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        return self.environment

    def start(self) -> None:
        self.command_environment()
        super().start()


@pytest.fixture
def system(tmp_path: Path, mailbox: Mailbox) -> Iterator[System]:
    """Live, with everybody on its roster, and running."""
    folder = tmp_path / "system"
    folder.mkdir()
    made = OneTime(folder, mailbox, LIVE)
    made.import_roster(*STAFF)
    made.start()
    yield made
    made.close()


class Stream:
    """Deaths that come one after another, each of one person of their own, until all have come."""

    def __init__(self, system: Installation, people: tuple[Member, ...]) -> None:
        self._reader = AckReader(system.mllp_port)
        self._people = people
        self.pause = 0.1
        self.accepted: list[Member] = []
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        for one in self._people:
            message = death(f"M{one.staff_id}", one.staff_id, unit="X")
            while not asyncio.run(self._reader.deliver(message)):
                time.sleep(0.02)
            self.accepted.append(one)
            time.sleep(self.pause)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        yield
        self._thread.join()


def tell(system: Installation, *people: Member) -> None:
    """A death for each, and wait until each has their message."""
    for one in people:
        assert "MSA|AA" in system.send(death(f"M{one.staff_id}", one.staff_id, unit="X"))
    wait_until(lambda: {one.address for one in people} <= set(system.mailbox.message_ids()), 20)


def rows(system: System, service: str, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{system.folder}/data/{service}.db?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def calm(mailbox: Mailbox) -> None:
    """Wait until no mail has come for a second."""
    seen, since = -1, 0.0
    while time.monotonic() - since < 1:
        if len(mailbox.mails) != seen:
            seen, since = len(mailbox.mails), time.monotonic()
        time.sleep(0.05)


def test_embedded_nothing_before_the_copy_is_lost_nothing_is_sent_twice_and_nothing_erased_returns(
    system: System, mailbox: Mailbox, tmp_path: Path
) -> None:
    drill = Drill(system, mailbox, tmp_path / "backups" / "noon")
    drill.play(lambda service, query: rows(system, service, query))
    # an outcome accepted after the copy is not there; nobody is asked twice
    assert {address: ids for address, ids in mailbox.message_ids().items() if len(ids) > 1} == {}


def test_distributed_nothing_before_the_copy_is_lost_nothing_is_sent_twice_and_nothing_erased_returns(
    make_distributed: MakeDistributed, mailbox: Mailbox, tmp_path: Path
) -> None:
    programs = f"{find_programs('')}:{os.environ['PATH']}"
    system = make_distributed(LIVE, LEEWARD_CLOCK="2026-11-21T09:00:00Z", PATH=programs)
    system.import_roster(*STAFF)
    system.start()
    drill = Drill(system, mailbox, tmp_path / "backups" / "noon")
    drill.play(system.rows)
    unfinished = "SELECT count(*) FROM pg_tables WHERE tablename = 'restore_unfinished'"
    assert [system.rows(name, unfinished) for name in SERVICES] == [[(0,)]] * 5
    # Kafka still has what was accepted after the copy: these are asked again, by a link that leads somewhere
    for one in AFTER:
        wait_until(lambda: len(mailbox.to(one.address)), 20, lambda found: found > 1)  # noqa: B023 done within the turn
        first, last = mailbox.to(one.address)
        assert system.http.get(link_in(last)).status_code == 200
        assert system.http.get(link_in(first)).status_code != 200


class Drill:
    """Outcomes before, during and after a backup, somebody who leaves, everything gone, and the restore."""

    def __init__(self, system: Installation, mailbox: Mailbox, folder: Path) -> None:
        self.system = system
        self.mailbox = mailbox
        self.folder = folder

    def play(self, look: Callable[[ServiceName, str], list[Any]]) -> None:
        """`look` reads a service's database by a query."""
        system, mailbox = self.system, self.mailbox
        tell(system, *BEFORE)
        stream = Stream(system, DURING)
        with stream.running():
            wait_until(lambda: len(stream.accepted), 10, lambda found: found > 10)
            accepted = {one.address for one in (*BEFORE, *stream.accepted)}
            system.command("backup", str(self.folder))
            assert len(stream.accepted) < len(DURING), "the backup was not under the stream"
            stream.pause = 0.0

        tell(system, *AFTER)
        refused = system.command("restore", str(self.folder), check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        assert "runs; stop all services first" in refused.stderr
        assert system.stop() == 0
        system.import_roster(*(one for one in STAFF if one is not GONE))
        system.start()
        wait_until(lambda: look("matching", "SELECT 1 FROM timer WHERE name = 'departed'"), 30, lambda due: not due)
        calm(mailbox)
        system.kill()

        system.command("restore", str(self.folder))
        assert look("notify", "SELECT count(*) FROM recipient WHERE status = 'left' AND email = ''") == [(1,)]
        assert look("matching", "SELECT count(*) FROM person WHERE status = 'left'") == [(1,)]
        sent_before = len(mailbox.mails)
        system.start()
        calm(mailbox)

        got = mailbox.message_ids()
        assert accepted <= got.keys()
        assert {address: ids for address, ids in got.items() if address in accepted and len(ids) > 1} == {}
        cases = look("matching", "SELECT count(*) FROM support_case WHERE person_ref IS NOT NULL")
        assert cases[0][0] >= len(accepted) - 1
        assert GONE.address not in {one.to for one in mailbox.received[sent_before:]}
        # what comes from now on gets through: a number that is given again is not taken for one that was passed
        tell(system, *LATE)
        # whose outcome was accepted before the copy is not asked again by the same message either
        assert "MSA|AA" in system.send(death(f"M{BEFORE[0].staff_id}", BEFORE[0].staff_id, unit="X"))
        calm(mailbox)
        assert len(mailbox.message_ids()[BEFORE[0].address]) == 1


@pytest.mark.parametrize("older", ["incident", "all"])
def test_by_files_that_were_copied_by_hand_no_death_is_lost_in_silence(
    system: System, mailbox: Mailbox, tmp_path: Path, older: str
) -> None:
    """One file older than the others, and all five copied one after the other under a stream."""
    tell(system, *BEFORE)
    stream = Stream(system, DURING[:30])
    stream.pause = 0.02
    with stream.running():
        wait_until(lambda: len(stream.accepted), 10, lambda found: found > 3)
        accepted = {one.address for one in (*BEFORE, *stream.accepted)}
        for name in ("matching", "notify", "incident", "issuer", "box") if older == "all" else ("incident",):
            with (
                closing(sqlite3.connect(system.folder / "data" / f"{name}.db")) as source,
                closing(sqlite3.connect(tmp_path / f"{name}.db")) as target,
            ):
                source.backup(target)
            time.sleep(0.1)
    calm(mailbox)
    assert system.stop() == 0
    for copy in tmp_path.glob("*.db"):
        for beside in (system.folder / "data").glob(f"{copy.name}-*"):
            beside.unlink()
        shutil.copy(copy, system.folder / "data")
    system.start()
    # by numbers that are given again
    tell(system, *AFTER, *LATE)
    calm(mailbox)
    assert accepted <= mailbox.message_ids().keys()
    assert '"event": "log_restored"' in (system.folder / "log").read_text()
    assert "was read again" in system.command("doctor", check=False).stdout

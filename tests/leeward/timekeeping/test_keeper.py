"""What was trusted is kept in the database; stored times are put right once the clock is."""

import asyncio
from datetime import datetime, timedelta

import pytest_asyncio
from sqlalchemy import Column, MetaData, String, Table, insert, select

from leeward.store import Store, Unit, UtcTime, ground_tables
from leeward.testing import ManualClock, eventually
from leeward.timekeeping.guard import GuardedClock, bear_out, is_doubted
from leeward.timekeeping.keeper import Kept, Timekeeper, stand_by
from leeward.timekeeping.last_seen import LastSeen, read_last_seen
from leeward.timekeeping.moments import Moments
from tests.conftest import MakeContext

METADATA = MetaData()
TABLES = ground_tables(METADATA)
OFFER = Table(
    "offer",
    METADATA,
    Column("name", String(10), primary_key=True),
    Column("made_at", UtcTime),
    Column("ends_at", UtcTime),
    Column("quiet_until", UtcTime),
)
MOMENTS = [
    Moments(OFFER, ("ends_at",), stamp="made_at"),
    Moments(OFFER, ("quiet_until",), longest=timedelta(days=14)),
]


class Machine:
    """One service on one machine, which can be started again."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store, self.inner = store, clock
        self.guard: GuardedClock
        self.keeper: Timekeeper

    async def start(self) -> None:
        self.guard = GuardedClock(self.inner)
        self.store.clock = self.guard
        self.keeper = Timekeeper(self.guard)
        await self.keeper.take_up("matching", Kept(self.store, MOMENTS))
        await self.keeper.look()

    async def off(self, **span: float) -> None:
        """Off for some time, then on again."""
        await self.inner.advance(**span)
        await self.start()

    async def seen(self) -> LastSeen:
        found = await self.store.read(lambda conn: read_last_seen(conn, TABLES))
        assert found
        return found

    async def make(self, name: str) -> None:
        """An offer, with a reminder after three days."""

        def work(unit: Unit) -> None:
            times = {"ends_at": unit.now + timedelta(days=15), "quiet_until": unit.now + timedelta(days=14)}
            unit.conn.execute(insert(OFFER).values(name=name, made_at=unit.now, **times))
            unit.set_timer("reminder", name, unit.now + timedelta(hours=72))
            unit.set_timer("round", name, unit.now + timedelta(minutes=5))

        await self.store.write(work)

    async def timer(self, key: str, name: str = "reminder") -> datetime:
        query = select(TABLES.timer.c.due_at).where(TABLES.timer.c.key == key, TABLES.timer.c.name == name)
        found: datetime = await self.store.read(lambda conn: conn.execute(query).scalar_one())
        return found

    async def offer(self, name: str) -> tuple[datetime, datetime, datetime]:
        query = select(OFFER.c.made_at, OFFER.c.ends_at, OFFER.c.quiet_until).where(OFFER.c.name == name)
        row = await self.store.read(lambda conn: conn.execute(query).one())
        return row.made_at, row.ends_at, row.quiet_until


@pytest_asyncio.fixture
async def machine(make_context: MakeContext, clock: ManualClock) -> Machine:
    found = Machine(make_context("matching", METADATA).store, clock)
    await found.start()
    return found


async def test_the_time_is_noted_now_and_then_and_at_the_end(machine: Machine) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(machine.keeper.run(stop))
    await machine.inner.advance(minutes=7)
    stop.set()
    await running
    assert await machine.seen() == LastSeen(machine.inner.now(), None)


async def test_a_short_stop_raises_no_doubt(machine: Machine) -> None:
    await machine.off(days=1, hours=23)
    assert not is_doubted(machine.guard)
    assert (await machine.seen()).seen_at == machine.inner.now()


async def test_two_years_ahead_for_eight_seconds_leave_no_trace(machine: Machine) -> None:
    await machine.make("before")
    due = await machine.timer("before")
    machine.inner.leap(days=730)
    await machine.start()
    assert is_doubted(machine.guard)
    await machine.inner.advance(seconds=8)
    await machine.make("meanwhile")
    machine.inner.leap(days=-730)
    await machine.start()
    assert not is_doubted(machine.guard)
    assert await machine.timer("before") == due
    # a minute is what may lie between the last note and the start
    assert (
        timedelta()
        <= await machine.timer("meanwhile") - machine.inner.now() - timedelta(hours=72)
        <= timedelta(minutes=1)
    )


async def test_doubt_outlasts_a_restart_and_its_time_goes_on(machine: Machine) -> None:
    await machine.off(days=5)
    began = (await machine.seen()).doubted_at
    await machine.inner.advance(hours=3)
    await machine.keeper.look()
    await machine.off(minutes=1)
    assert is_doubted(machine.guard)
    seen = await machine.seen()
    assert began is not None
    assert seen.seen_at - began >= timedelta(hours=3)


async def by_a_source(machine: Machine) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(machine.keeper.run(stop))
    await bear_out(machine.guard, machine.inner.now() - timedelta(minutes=50))
    stop.set()
    await running


async def test_a_site_that_was_off_for_five_days_comes_back(machine: Machine) -> None:
    await machine.make("before")
    due = await machine.timer("before")
    await machine.off(days=5)
    await machine.make("meanwhile")
    assert machine.guard.now() < due, "what came due in the gap waits"
    await machine.inner.advance(minutes=30)
    await by_a_source(machine)
    now = machine.inner.now()
    assert not is_doubted(machine.guard)
    assert machine.guard.now() == now
    assert await machine.timer("before") == due, "and is due now"
    late = await machine.timer("meanwhile") - (now + timedelta(hours=71, minutes=30))
    assert timedelta() <= late <= timedelta(minutes=1), "what was set meanwhile comes when it should"
    made, ends, _ = await machine.offer("meanwhile")
    assert ends - made == timedelta(days=15)
    assert abs(made - (now - timedelta(minutes=30))) <= timedelta(minutes=1)
    assert (await machine.seen()) == LastSeen(now, None)


async def test_a_command_beside_it_is_heard(machine: Machine) -> None:
    await machine.off(days=5)
    stop = asyncio.Event()
    running = asyncio.create_task(machine.keeper.run(stop))

    def command(unit: Unit) -> None:
        stand_by(unit, MOMENTS, machine.inner.now())

    await machine.store.write(command)
    await eventually(lambda: not is_doubted(machine.guard))
    stop.set()
    await running
    assert machine.guard.now() == machine.inner.now()


async def test_what_was_set_under_a_clock_that_was_ahead_is_put_right_when_it_is_borne_out(machine: Machine) -> None:
    machine.inner.leap(days=730)
    await machine.store.write(lambda unit: unit.conn.execute(TABLES.last_seen.delete()))
    await machine.start()
    await machine.make("ahead")
    machine.inner.leap(days=-730)
    machine.guard.now()
    await machine.keeper.look()
    assert machine.guard.behind
    now = machine.inner.now()
    assert await machine.timer("ahead", "round") == now + timedelta(minutes=5), "short ones go on at once"
    assert await machine.timer("ahead") > now + timedelta(days=730), "which of the times was wrong is not known yet"
    await by_a_source(machine)
    assert await machine.timer("ahead") == now + timedelta(hours=72)
    made, ends, quiet = await machine.offer("ahead")
    assert (made, ends, quiet) == (now, now + timedelta(days=15), now + timedelta(days=14))
    assert (await machine.seen()) == LastSeen(now, None)
    assert not machine.guard.behind


async def test_a_clock_set_back_by_mistake_and_forth_again_moves_nothing(machine: Machine) -> None:
    await machine.make("a")
    due = await machine.timer("a")
    machine.inner.leap(hours=-30)
    await machine.keeper.look()
    machine.inner.leap(hours=30)
    await machine.keeper.look()
    assert await machine.timer("a") == due
    assert not machine.guard.behind

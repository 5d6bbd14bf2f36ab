"""A clock that leaps by more than two days is not believed before somebody bears it out."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from leeward.bus.kafka import sent_at
from leeward.telemetry import REGISTRY
from leeward.testing import ManualClock
from leeward.timekeeping.guard import GuardedClock, ahead_by, bear_out, is_doubted

NINE = datetime(2026, 11, 21, 9, tzinfo=UTC)


@pytest.fixture
def inner() -> ManualClock:
    return ManualClock(NINE)


async def test_time_that_really_passes_is_believed_however_long_nobody_looked(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    await inner.advance(days=40)
    assert clock.now() == NINE + timedelta(days=40)
    assert not is_doubted(clock)


async def test_after_a_leap_time_goes_on_from_where_it_was(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    inner.leap(days=730)
    assert (clock.now(), is_doubted(clock)) == (NINE, True)
    assert REGISTRY.get_sample_value("leeward_clock_doubted") == 1
    await inner.advance(hours=3)
    assert clock.now() == NINE + timedelta(hours=3)
    assert ahead_by(clock) == timedelta(days=730)
    assert clock.shown() == NINE + timedelta(days=730, hours=3)


async def test_two_days_are_no_leap(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    inner.leap(days=2)
    assert (clock.now(), is_doubted(clock)) == (NINE + timedelta(days=2), False)


async def test_it_ends_when_the_clock_is_back(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    inner.leap(days=730)
    clock.now()
    await inner.advance(seconds=8)
    inner.leap(days=-730)
    assert (clock.now(), is_doubted(clock)) == (NINE + timedelta(seconds=8), False)
    assert REGISTRY.get_sample_value("leeward_clock_doubted") == 0


async def test_at_a_start_the_last_trusted_time_decides(inner: ManualClock) -> None:
    for days, doubted in ((1, False), (3, True)):
        clock = GuardedClock(inner)
        clock.resume(NINE - timedelta(days=days))
        assert is_doubted(clock) is doubted
        assert clock.now() == (NINE - timedelta(days=3) if doubted else NINE)


async def test_a_clock_of_somebody_else_bears_it_out_within_an_hour(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    clock.resume(NINE - timedelta(days=5))
    await bear_out(clock, NINE - timedelta(hours=2))
    assert is_doubted(clock)
    waiting = asyncio.create_task(bear_out(clock, NINE - timedelta(minutes=59)))
    async with asyncio.timeout(5):
        await clock.confirmed.wait()
    assert not waiting.done()
    clock.believe()
    await waiting
    assert (clock.now(), is_doubted(clock)) == (NINE, False)


async def test_a_clock_that_goes_back_is_followed_and_noticed(inner: ManualClock) -> None:
    clock = GuardedClock(inner)
    inner.leap(hours=-3)
    assert clock.now() == NINE - timedelta(hours=3)
    assert clock.behind


def record(time: str) -> Any:
    """An event as Kafka gives it."""
    return SimpleNamespace(headers=[("ce_id", b"1"), ("ce_time", time.encode())])


def test_an_event_says_when_its_sender_sent_it() -> None:
    assert sent_at(record("2026-11-21T08:45:00Z")) == NINE - timedelta(minutes=15)
    assert sent_at(record("nonsense")) is None
    nothing: Any = SimpleNamespace(headers=[])
    assert sent_at(nothing) is None

"""Time is UTC, injected, and turned by hand in tests."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from leeward.clock import ScaledClock, SystemClock, first_of, parse_clock
from leeward.testing import ManualClock

NINE = datetime(2026, 11, 21, 9, tzinfo=UTC)


def test_the_systems_clock_is_in_utc() -> None:
    assert SystemClock().now().tzinfo is UTC


async def test_a_clock_that_runs_faster_sleeps_less() -> None:
    clock = ScaledClock(NINE, 3600 * 24)
    await clock.sleep(3600)
    assert clock.now() - NINE >= timedelta(hours=1)
    await clock.sleep(-5)


async def test_a_fake_clock_stands_still_until_it_is_turned() -> None:
    clock = ManualClock(NINE)
    assert clock.now() == NINE
    await clock.advance(hours=1, minutes=30)
    assert clock.now() == NINE + timedelta(minutes=90)


async def test_sleepers_wake_at_their_times_in_order() -> None:
    clock, woken = ManualClock(NINE), []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.now() - NINE))

    tasks = [asyncio.create_task(sleeper(str(seconds), seconds)) for seconds in (30, 10, 20, 0)]
    await asyncio.sleep(0)
    await clock.advance(seconds=20)
    assert [name for name, _ in woken] == ["0", "10", "20"]
    assert dict(woken)["10"] == timedelta(seconds=10)
    await clock.advance(minutes=1)
    await asyncio.gather(*tasks)
    assert woken[-1][0] == "30"


async def test_a_sleeper_that_was_cancelled_is_passed_over() -> None:
    clock = ManualClock(NINE)
    task = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await clock.advance(seconds=10)
    assert task.cancelled()


async def test_the_first_of_several_waits_ends_the_others() -> None:
    clock, done = ManualClock(NINE), asyncio.Event()
    waiting = asyncio.create_task(first_of(done.wait(), clock.sleep(60)))
    await asyncio.sleep(0)
    done.set()
    async with asyncio.timeout(5):
        await waiting
    assert len(asyncio.all_tasks()) <= 2


@pytest.mark.parametrize(
    ("text", "rate"), [("2026-11-21T09:00:00Z", 1), ("2026-11-21T09:00:00Z*60", 60), ("2026-11-21T09:00:00Z*0.5", 0.5)]
)
def test_a_clock_setting_is_a_start_and_a_rate(text: str, rate: float) -> None:
    assert parse_clock(text) == (NINE, rate)


@pytest.mark.parametrize(
    "text", ["", "now", "2026-11-21", "2026-11-21T09:00:00", "2026-13-01T09:00:00Z", "2026-11-21T09:00:00Z*-1"]
)
def test_another_setting_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is a time such as"):
        parse_clock(text)

"""What every bus must do, told against each adapter: nothing lost, nothing applied twice, each key in its order."""

import asyncio
from collections.abc import Sequence
from functools import partial
from unittest.mock import AsyncMock

import pytest

from leeward.bus import consumer
from leeward.bus import sqlite as sqlite_bus
from leeward.contracts import Event, IncidentAmended, IncidentRecorded, IncidentRetracted
from leeward.store import StoreUnavailable, Unit
from leeward.store.retention import Retention
from leeward.testing import eventually
from tests.contract.world import PRODUCER, Crash, Dying, World, counted, recorded, ref


async def test_events_are_applied_in_the_order_of_their_key(world: World) -> None:
    for n in range(30):
        await world.publish(recorded(n % 3, f"{n % 3}-{n:02}"))
    await world.process().step()
    for key in "012":
        told = [what for what in await world.applied() if what.startswith(f"{key}-")]
        assert told == sorted(told)
        assert len(told) == 10


async def test_order_holds_between_types_and_a_run_of_one_type_comes_as_one(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"), IncidentRetracted(incident_ref=ref(1)), recorded(1, "c"))
    await world.process().step()
    assert await world.applied() == ["a", "b", "retracted", "c"]
    assert world.handlers.runs == [2, 1, 1]


async def test_a_consumer_that_was_away_starts_at_the_beginning(world: World) -> None:
    await world.publish(recorded(1, "early"))
    await world.process().step()
    assert await world.applied() == ["early"]


@pytest.mark.parametrize("step", ["fetched", "in the transaction", "committed", "before settled", "after settled"])
async def test_a_crash_between_any_two_steps_loses_and_repeats_nothing(world: World, step: str) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    doomed = world.process(wrap=lambda inner: Dying(inner, step))
    with pytest.raises(Crash):
        await doomed.step()
    await doomed.gone()
    await world.publish(recorded(1, "c"))
    survivor = world.process()
    while not await survivor.nothing_left():
        await survivor.step()
    assert await world.applied() == ["a", "b", "c"]


async def test_a_crash_inside_a_handler_leaves_nothing_half_done(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    world.handlers.poison, world.handlers.fault = {"b"}, Crash
    doomed = world.process()
    with pytest.raises(Crash):
        await doomed.step()
    await doomed.gone()
    assert await world.applied() == []
    world.handlers.poison = set()
    await world.process().step()
    assert await world.applied() == ["a", "b"]


async def test_the_inbox_drops_what_comes_again(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    process = world.process()
    batch = await process.subscription.fetch(256)
    before = counted("leeward_events_repeated_total")
    await process.consumer.take(batch)
    await process.consumer.take(batch)
    await process.consumer.take([*batch, *batch])
    assert await world.applied() == ["a", "b"]
    assert counted("leeward_events_repeated_total") - before == 6


async def test_the_same_event_twice_in_one_batch_is_applied_once(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    process = world.process()
    batch = await process.subscription.fetch(256)
    await process.consumer.take([*batch, *batch[:1]])
    assert await world.applied() == ["a", "b"]


async def test_a_zombie_applies_nothing_and_does_not_turn_the_group_back(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    zombie, successor = world.process(), world.process()
    held = await zombie.subscription.fetch(256)
    await zombie.gone()
    await successor.step()
    await world.publish(recorded(1, "c"))
    await successor.step()
    await zombie.consumer.take(held)
    assert await world.applied() == ["a", "b", "c"]
    await successor.gone()
    assert await world.process().nothing_left()


async def test_known_types_that_nobody_here_handles_are_passed_over(world: World) -> None:
    await world.publish(IncidentAmended(incident_ref=ref(1), involved=()), recorded(1, "a"))
    process = world.process()
    await process.step()
    assert await world.applied() == ["a"]
    assert await world.parked("key") + await world.parked("key", dead=1) == []
    assert await process.nothing_left()


async def test_a_database_that_is_away_parks_nothing_and_the_batch_comes_again(world: World) -> None:
    world.handlers.away = True
    await world.publish(recorded(1, "a"), recorded(2, "b"))
    process = world.process()
    with pytest.raises(StoreUnavailable):
        await process.step()
    assert await world.parked("key") + await world.parked("key", dead=1) == []
    world.handlers.away = False
    await process.step()
    assert await world.applied() == ["a", "b"]


async def test_a_consumer_whose_database_is_away_says_so_and_recovers(world: World) -> None:
    world.handlers.away = True
    await world.publish(recorded(1, "a"))
    process = world.process()

    async def stuck() -> bool:
        return process.consumer.stuck

    async def applied() -> bool:
        return await world.applied() == ["a"] and not process.consumer.stuck

    async with process.running():
        await eventually(stuck)
        world.handlers.away = False
        await eventually(applied)


async def test_a_consumer_that_cannot_even_park_does_not_look_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish(recorded(1, "a"))
    process = world.process()

    async def applied() -> bool:
        return await world.applied() == ["a"] and not process.consumer.stuck

    with monkeypatch.context() as broken:
        broken.setattr(process.store, "write", AsyncMock(side_effect=LookupError))
        for _ in range(2):
            process.consumer.stuck = False
            with pytest.raises(LookupError):
                async with asyncio.timeout(20):
                    await process.consumer.run(asyncio.Event())
            assert process.consumer.stuck
    async with process.running():
        await eventually(applied)


async def test_a_commit_wakes_its_consumers_without_polling(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 3600)
    process = world.process()

    async def applied() -> bool:
        return await world.applied() == ["a", "b"]

    async with process.running():
        assert await process.nothing_left()
        await world.publish(recorded(1, "a"))
        await world.publish(recorded(1, "b"))
        await eventually(applied, within=5)


async def test_what_another_process_wrote_is_found_by_looking(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 0.01)
    process = world.process()
    importer = world.open(world.ways.producer, PRODUCER)

    async def applied() -> bool:
        return await world.applied() == ["a"]

    async with process.running():
        assert await process.nothing_left()
        await importer.write(lambda unit: unit.emit(recorded(1, "a")))
        await world.ways.carry(world.ways.producer, importer)
        await eventually(applied, within=5)


async def test_a_stop_finishes_the_batch_under_way(world: World) -> None:
    stops: list[asyncio.Event] = []

    def stop_in_the_middle(unit: Unit, events: Sequence[Event]) -> None:
        stops[0].set()
        world.handlers.apply(unit, events)

    process = world.process()
    process.parking.handlers = {IncidentRecorded.type: stop_in_the_middle}
    async with process.running() as stop:
        stops.append(stop)
        await world.publish(*(recorded(n, f"n{n}") for n in range(10)))
        async with asyncio.timeout(10):
            await stop.wait()
    assert len(await world.applied()) == 10
    assert await world.process().nothing_left()


async def test_an_idle_consumer_stops_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_bus, "POLL_SECONDS", 3600)
    async with world.process().running():
        await asyncio.sleep(0)


async def test_positions_of_an_emptied_log_are_not_used_again(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    process = world.process()
    await process.step()
    await world.clock.advance(days=9)
    await Retention(world.producer, partial(world.ways.bus({}).forget, world.ways.producer)).once()
    await world.publish(recorded(1, "c"))
    await process.step()
    await process.gone()
    restarted = world.process()
    assert await restarted.nothing_left()
    assert await world.applied() == ["a", "b", "c"]


async def test_a_producer_that_has_no_log_yet_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "_FIRST_PAUSE", 0.01)
    waiting = world.consuming("leeward.late", {})

    async def stuck() -> bool:
        return waiting.consumer.stuck

    async def consuming() -> bool:
        return not waiting.consumer.stuck and await world.applied() == ["a"]

    async with waiting.running():
        await eventually(stuck)
        await world.ways.create("late", PRODUCER)
        late = world.open("late", PRODUCER)
        await late.write(lambda unit: unit.emit(recorded(1, "a")))
        await world.ways.carry("late", late)
        await eventually(consuming, within=30)

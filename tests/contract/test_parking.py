"""What fails waits aside with its key's followers, returns in order, or ends as a dead letter that tells nothing."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from leeward.bus import parking
from leeward.bus.parking import ATTEMPTS, FIRST_RETRY, TooManyParked
from leeward.contracts import Event, IncidentRecorded, IncidentRetracted
from leeward.store import Unit
from tests.contract.world import World, counted, recorded, ref


async def test_a_zombie_does_not_park_what_its_successor_applied(world: World) -> None:
    await world.publish(recorded(1, "a"), recorded(1, "b"))
    zombie, successor = world.process(), world.process()
    world.handlers.poison = {"b"}
    held = await zombie.subscription.fetch(256)
    await zombie.gone()
    taken = await successor.subscription.fetch(256)
    write, done = zombie.store.write, 0

    async def write_late(work: Callable[[Unit], Any]) -> Any:
        # the successor comes in between the zombie's failed attempt at b and its setting b aside
        nonlocal done
        done += 1
        if done == 4:
            world.handlers.poison = set()
            await successor.consumer.take(taken)
        return await write(work)

    zombie.store.write = write_late  # type: ignore[method-assign]
    await zombie.consumer.take(held)
    assert done == 4
    assert await world.applied() == ["a", "b"]
    assert await world.parked("key") == []


async def test_a_poison_event_waits_aside_with_its_followers_while_others_go_on(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(2, "good"), recorded(1, "follower"), recorded(3, "better"))
    process = world.process()
    await process.step()
    await world.publish(IncidentRetracted(incident_ref=ref(1)), recorded(2, "later"))
    await process.step()
    assert await world.applied() == ["good", "better", "later"]
    assert await world.parked("key", "type") == [
        (ref(1), IncidentRecorded.type),
        (ref(1), IncidentRecorded.type),
        (ref(1), IncidentRetracted.type),
    ]


async def test_what_was_parked_is_retried_in_order_once_its_fault_is_gone(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(1, "second"), recorded(1, "third"))
    process = world.process()
    await process.step()
    world.handlers.poison = set()
    await process.parking.retry()
    assert await world.applied() == []
    await world.clock.advance(seconds=FIRST_RETRY.total_seconds())
    await process.parking.retry()
    assert await world.applied() == ["bad", "second", "third"]
    assert await world.parked("key") == []
    await world.publish(recorded(1, "fourth"))
    await process.step()
    assert (await world.applied())[-1] == "fourth"


async def attempts(world: World) -> int:
    return int((await world.parked("attempts"))[0][0])


async def test_retries_back_off_even_when_followers_arrive(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await process.step()
    made, waits = 0, []
    for _ in range(40):
        await world.clock.advance(seconds=15)
        await process.parking.retry()
        if await attempts(world) > made:
            made = await attempts(world)
            waits.append(world.clock.now())
            await world.publish(recorded(1, f"follower-{made}"))
            await process.step()
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert gaps == [timedelta(minutes=1), timedelta(minutes=2), timedelta(minutes=4)]


async def test_the_last_attempt_makes_a_dead_letter_without_the_faults_text(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(1, "follower"))
    process = world.process()
    await process.step()
    for _ in range(ATTEMPTS):
        assert await world.applied() == []
        await world.clock.advance(hours=3)
        await process.parking.retry()
    assert await world.applied() == ["follower"]
    [(attempts_made, fault, place)] = await world.parked("attempts", "fault", "place", dead=1)
    assert (attempts_made, fault) == (ATTEMPTS, "LookupError")
    assert place.startswith("world.py:")


@pytest.mark.own_servers
async def test_no_word_of_a_fault_is_stored(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await process.step()
    await process.store.tidy()
    place = world.ways.databases.place("matching")
    for file in [place] if place.is_file() else [one for one in place.rglob("*") if one.is_file()]:
        assert b"must not be kept" not in file.read_bytes()


@pytest.mark.parametrize("event_type", ["leeward.incident.forgotten.v1", "leeward.incident.recorded.v2"])
async def test_an_unknown_type_or_version_is_a_dead_letter_and_the_rest_goes_on(world: World, event_type: str) -> None:
    await world.publish(recorded(1, "before"))
    await world.publish_foreign(event_type, 1)
    await world.publish(recorded(1, "after"))
    await world.process().step()
    assert await world.applied() == ["before", "after"]
    assert await world.parked("type", "fault", "place", dead=1) == [(event_type, "Undecodable", "unknown-type")]


async def test_a_body_that_does_not_fit_is_a_dead_letter_and_the_rest_goes_on(world: World) -> None:
    await world.publish_foreign(IncidentRecorded.type, 1, '{"incident_ref": "a name"}')
    await world.publish(recorded(1, "after"))
    await world.process().step()
    assert await world.applied() == ["after"]
    assert await world.parked("fault", "place", dead=1) == [("Undecodable", "body-does-not-fit")]


async def test_a_follower_that_nobody_understands_dies_at_its_first_retry(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    await world.publish_foreign("leeward.incident.forgotten.v1", 1)
    await world.publish(recorded(1, "after"))
    process = world.process()
    await process.step()
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert await world.applied() == ["bad", "after"]
    assert await world.parked("place", dead=1) == [("unknown-type",)]


async def test_a_handlers_own_wrong_event_is_retried_and_not_given_up_at_once(world: World) -> None:
    def faulty(_unit: Unit, _events: Sequence[Event]) -> None:
        IncidentRetracted.model_validate({})

    await world.publish(recorded(1, "a"))
    process = world.process()
    process.parking.handlers = {IncidentRecorded.type: faulty}
    await process.step()
    assert await world.parked("fault") == [("ValidationError",)]


async def test_the_limit_stops_the_consumer_before_a_whole_topic_is_parked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "LIMIT", 3)
    names = [f"bad-{n}" for n in range(5)]
    world.handlers.poison = set(names)
    await world.publish(*(recorded(n, name) for n, name in enumerate(names)))
    process = world.process()
    with pytest.raises(TooManyParked):
        await process.step()
    assert len(await world.parked("key")) == 3
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    await process.step()
    assert sorted(await world.applied()) == names


async def test_the_limit_holds_for_events_nobody_understands_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "LIMIT", 3)
    for n in range(5):
        await world.publish_foreign("leeward.incident.recorded.v2", n)
    with pytest.raises(TooManyParked):
        await world.process().step()
    assert len(await world.parked("key", dead=1)) == 3


async def test_what_was_applied_is_counted_once_by_type(world: World) -> None:
    world.handlers.poison = {"bad"}
    labels = {"service": "matching", "type": IncidentRecorded.type}
    before = counted("leeward_events_handled_total", **labels)
    parked = counted("leeward_events_parked_total")
    await world.publish(recorded(1, "a"), recorded(2, "bad"), recorded(3, "c"))
    process = world.process()
    await process.step()
    assert counted("leeward_events_handled_total", **labels) - before == 2
    assert counted("leeward_events_parked_total") - parked == 1
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert counted("leeward_events_handled_total", **labels) - before == 3

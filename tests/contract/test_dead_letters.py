"""A dead letter is tried again or dropped by hand, in its key's order, and ends with what it is about."""

from collections.abc import Sequence
from functools import partial

import pytest

from leeward.bus import dead_letters
from leeward.bus.parking import ATTEMPTS
from leeward.contracts import (
    CaseErased,
    Event,
    EventData,
    IncidentRecorded,
    IncidentRetracted,
    MessageCancelled,
    MessageRequested,
)
from leeward.store import Unit
from leeward.store.retention import Retention, at_once
from tests.contract.world import Process, World, counted, recorded, ref
from tests.databases import content

UNKNOWN = "leeward.incident.forgotten.v1"


async def given_up(world: World, process: Process) -> None:
    """Take what was published, and fail until nothing waits."""
    await process.step()
    while await world.parked("seq"):
        await world.clock.advance(hours=3)
        await process.parking.retry()


async def replayed(world: World, process: Process, *places: int) -> int:
    """Replay the dead letters at these places of the list; all without a place."""
    seqs = [seq for (seq,) in await world.parked("seq", dead=1)]
    chosen = [seqs[place] for place in places] or seqs
    return await process.store.write(lambda unit: dead_letters.replay(unit, chosen))


async def test_what_was_given_up_is_tried_at_once_and_in_its_order(world: World) -> None:
    world.handlers.poison = {"bad", "worse"}
    await world.publish(recorded(1, "bad"), recorded(1, "worse"))
    process = world.process()
    await given_up(world, process)
    assert await world.parked("attempts", dead=1) == [(ATTEMPTS,), (ATTEMPTS,)]
    await process.parking.retry()
    assert await world.applied() == []
    world.handlers.poison = set()
    assert await replayed(world, process) == 2
    assert await world.parked("attempts") == [(0,), (0,)]
    await process.parking.retry()
    assert await world.applied() == ["bad", "worse"]
    assert await world.parked("key") + await world.parked("key", dead=1) == []


async def test_it_goes_before_what_its_key_has_waiting_from_after_it(world: World) -> None:
    world.handlers.poison = {"bad", "worse"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await given_up(world, process)
    await world.publish(recorded(1, "worse"), recorded(1, "last"))
    await process.step()
    world.handlers.poison = set()
    await replayed(world, process)
    await process.parking.retry()
    assert await world.applied() == ["bad", "worse", "last"]


async def test_what_its_key_has_waiting_from_before_it_is_due_as_well(world: World) -> None:
    world.handlers.poison = {"bad", "worse"}
    await world.publish(recorded(1, "bad"), recorded(1, "worse"))
    process = world.process()
    await given_up(world, process)
    await replayed(world, process, 0)
    await process.parking.retry()
    assert await world.parked("attempts") == [(1,)]
    world.handlers.poison = set()
    await replayed(world, process, 0)
    await process.parking.retry()
    assert await world.applied() == ["bad", "worse"]


async def test_what_fails_again_is_given_up_again(world: World) -> None:
    await world.publish_foreign(UNKNOWN, 1)
    process = world.process()
    await process.step()
    dead = counted("leeward_events_dead_total")
    await replayed(world, process)
    await process.parking.retry()
    assert await world.parked("type", "attempts", "place", dead=1) == [(UNKNOWN, 1, "unknown-type")]
    assert counted("leeward_events_dead_total") - dead == 1


async def test_a_type_that_a_new_release_knows_and_another_service_handles_is_let_go(world: World) -> None:
    await world.publish_foreign(UNKNOWN, 1)
    process = world.process()
    await process.step()
    table = process.store.writes.tables.parked
    body = MessageCancelled(request_ref=ref(9)).model_dump_json()
    await process.store.write(
        lambda unit: unit.conn.execute(table.update().values(type=MessageCancelled.type, body=body))
    )
    await replayed(world, process)
    await process.parking.retry()
    assert await world.parked("key") + await world.parked("key", dead=1) == []


async def test_after_a_week_one_still_stands_and_nothing_of_what_was_in_it(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    await world.publish_foreign("Anna Weber", 2, '{"name": "Anna Weber"}')
    process = world.process()
    await given_up(world, process)
    standing = Retention(process.store, at_once(process.parking.forget))
    await world.clock.advance(days=6)
    await standing.once()
    assert len(await world.parked("body", dead=1)) == 2
    assert "" not in {body for (body,) in await world.parked("body", dead=1)}

    await world.clock.advance(days=400)
    for _ in range(2):
        await standing.once()
    kept = await world.parked("type", "key", "body", "fault", "place", dead=1)
    assert [(kind, key, body) for kind, key, body, _, _ in kept] == [
        (IncidentRecorded.type, "", ""),
        ("unknown", "", ""),
    ]
    assert [fault for *_, fault, _ in kept] == ["LookupError", "Undecodable"]
    assert all(place for *_, place in kept)
    assert len(set(await world.parked("accepted_at", "due_at", dead=1))) == 1, "no time but the day"
    held = await content(process.store)
    assert b"Anna" not in held
    assert ref(1).encode() not in held

    world.handlers.poison = set()
    assert await replayed(world, process) == 0
    await process.parking.retry()
    assert counted("leeward_dead_letters") == 2
    seqs = [seq for (seq,) in await world.parked("seq", dead=1)]
    assert await process.store.write(lambda unit: dead_letters.drop(unit, seqs)) == 2
    await process.parking.retry()
    assert counted("leeward_dead_letters") == 0


async def test_a_drop_is_logged_by_the_service_and_nothing_is_kept_of_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "leeward")
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await given_up(world, process)
    [(place,)] = await world.parked("place", dead=1)
    seqs = [seq for (seq,) in await world.parked("seq", dead=1)]
    await process.store.write(lambda unit: dead_letters.drop(unit, seqs))
    assert await world.parked("body", "key", dead=2) == [("", "")]
    for _ in range(2):
        await process.parking.retry()
    assert await world.parked("seq", dead=2) == []
    told = [(one.message, vars(one)["fields"]) for one in caplog.records if one.name == "leeward"]
    said = {"service": "matching", "type": IncidentRecorded.type, "fault": "LookupError", "place": place}
    assert told == [("event_parked", said), ("event_given_up", said), ("event_dropped", said)]


async def test_what_was_dropped_is_gone_and_what_waits_cannot_be(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"))
    await world.publish_foreign(UNKNOWN, 2)
    process = world.process()
    await process.step()
    seqs = [seq for dead in (0, 1) for (seq,) in await world.parked("seq", dead=dead)]
    assert await process.store.write(lambda unit: dead_letters.drop(unit, seqs)) == 1
    assert await world.parked("key") == [(ref(1),)]
    assert await world.parked("key", dead=1) == []


async def test_a_retraction_ends_what_was_given_up_of_its_incident_alone(world: World) -> None:
    world.handlers.poison = {"bad", "other"}
    await world.publish(recorded(1, "bad"), recorded(2, "other"))
    process = world.process()
    await given_up(world, process)
    await world.publish(IncidentRetracted(incident_ref=ref(1)))
    await process.step()
    world.handlers.poison = set()
    assert await replayed(world, process) == 1
    await process.parking.retry()
    assert await world.applied() == ["retracted", "other"]


async def test_a_retraction_that_was_given_up_itself_holds_for_what_was_before_it(world: World) -> None:
    world.handlers.poison = {"bad", "retracted"}
    await world.publish(recorded(1, "bad"))
    process = world.process()
    await given_up(world, process)
    await world.publish(IncidentRetracted(incident_ref=ref(1)))
    await given_up(world, process)
    world.handlers.poison = set()
    assert await replayed(world, process, 0) == 1
    await process.parking.retry()
    assert await world.applied() == []
    assert await world.parked("type", dead=1) == [(IncidentRetracted.type,)]
    await replayed(world, process)
    await process.parking.retry()
    assert await world.applied() == ["retracted"]


async def test_a_retraction_that_waited_ends_what_died_before_it(world: World) -> None:
    world.handlers.poison = {"retracted"}
    await world.publish_foreign("leeward.incident.recorded.v2", 1)
    await world.publish(IncidentRetracted(incident_ref=ref(1)))
    process = world.process()
    await process.step()
    world.handlers.poison = set()
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert await world.applied() == ["retracted"]
    assert await world.parked("type", dead=1) == []


def asked(request: int, case: int, step: str) -> MessageRequested:
    return MessageRequested.model_validate(
        {
            "request_ref": ref(request),
            "case_ref": ref(case),
            "step": step,
            "recipient_ref": ref(100),
            "template": "offer",
            "expires_at": "2026-12-21T09:00:00Z",
        }
    )


class Messages:
    """notify in small: writes down the steps of what it is asked for, while it works."""

    def __init__(self, process: Process) -> None:
        self.broken = True
        self.taken: list[str] = []
        process.parking.handlers = {kind.type: self.take for kind in (MessageRequested, MessageCancelled, CaseErased)}
        process.parking.types = frozenset(process.parking.handlers)

    def take(self, unit: Unit, events: Sequence[Event]) -> None:
        for event in events:
            if self.broken:
                raise LookupError
            taken = getattr(event.data, "step", event.type)
            unit.after_commit(partial(self.taken.append, taken))


async def of_a_case(world: World, *events: EventData, case: int = 1) -> None:
    def work(unit: Unit) -> None:
        for event in events:
            unit.emit(event, key=ref(case))

    await world.producer.write(work)
    await world.ways.carry(world.ways.producer, world.producer)


ENDINGS = pytest.mark.parametrize(
    ("ending", "left"),
    [(CaseErased(case_ref=ref(1)), []), (MessageCancelled(request_ref=ref(11)), ["reminder"])],
    ids=["erased", "cancelled"],
)


@ENDINGS
async def test_a_message_never_leaves_that_was_ended_after_it_died(
    world: World, ending: EventData, left: list[str]
) -> None:
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, asked(11, 1, "offer"), asked(12, 1, "reminder"))
    await given_up(world, process)
    messages.broken = False
    await of_a_case(world, ending)
    await process.step()
    await replayed(world, process)
    await process.parking.retry()
    assert messages.taken == [ending.type, *left]


@ENDINGS
async def test_a_message_never_leaves_whose_end_died_too(world: World, ending: EventData, left: list[str]) -> None:
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, asked(11, 1, "offer"), asked(12, 1, "reminder"))
    await given_up(world, process)
    await of_a_case(world, ending)
    await given_up(world, process)
    messages.broken = False
    assert await replayed(world, process) == 3
    await process.parking.retry()
    assert messages.taken == [*left, ending.type]


@ENDINGS
async def test_a_message_never_leaves_whose_end_waits_behind_it(
    world: World, ending: EventData, left: list[str]
) -> None:
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, asked(11, 1, "offer"), asked(12, 1, "reminder"), ending)
    await process.step()
    messages.broken = False
    await world.clock.advance(minutes=1)
    await process.parking.retry()
    assert messages.taken == [*left, ending.type]


async def test_one_cases_end_is_not_anothers(world: World) -> None:
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, asked(11, 1, "offer"))
    await of_a_case(world, asked(21, 2, "reminder"), case=2)
    await given_up(world, process)
    messages.broken = False
    await of_a_case(world, CaseErased(case_ref=ref(1)))
    await of_a_case(world, MessageCancelled(request_ref=ref(22)), case=2)
    await process.step()
    assert await world.parked("key", dead=1) == [(ref(2),)]


async def test_a_cancellation_is_never_ended_itself(world: World) -> None:
    """What ends more may have been given up as well, and be replayed later or never."""
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, MessageCancelled(request_ref=ref(11)), CaseErased(case_ref=ref(1)))
    await given_up(world, process)
    messages.broken = False
    await replayed(world, process, 0)
    await process.parking.retry()
    assert messages.taken == [MessageCancelled.type]


async def test_what_a_case_asks_for_after_its_erasure_leaves(world: World) -> None:
    """How it was: asked last, when whatever else there was of the case is forgotten."""
    process = world.process()
    messages = Messages(process)
    await of_a_case(world, CaseErased(case_ref=ref(1)), asked(13, 1, "follow_up"))
    await given_up(world, process)
    messages.broken = False
    assert await replayed(world, process) == 2
    await process.parking.retry()
    assert messages.taken == [CaseErased.type, "follow_up"]


async def test_the_list_says_what_is_tried_first_and_holds_no_body(world: World) -> None:
    world.handlers.poison = {"bad"}
    await world.publish(recorded(1, "bad"), recorded(1, "follower"))
    await world.publish_foreign(UNKNOWN, 2)
    process = world.process()
    await process.step()
    table = process.store.writes.tables.parked
    rows = await process.store.read(lambda conn: dead_letters.letters(conn, table))
    assert [(row.type, row.dead, bool(row.first)) for row in rows] == [
        (IncidentRecorded.type, 0, True),
        (IncidentRecorded.type, 0, False),
        (UNKNOWN, 1, False),
    ]
    assert not any("body" in row._mapping for row in rows)
    [one] = await process.store.read(lambda conn: dead_letters.letters(conn, table, [rows[0].seq]))
    assert "bad" in one.body

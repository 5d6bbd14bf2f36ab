"""The relay of a service: what it sends, what it forgets, and what it says when it cannot."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import AsyncMock, Mock, create_autospec

import pytest
import pytest_asyncio
from sqlalchemy import Connection

from leeward.bus import relay, topics
from leeward.bus.relay import KafkaRelay
from leeward.contracts.events import Involved
from leeward.settings import Settings
from leeward.store import StoreUnavailable
from leeward.testing import ManualClock, eventually
from tests.contract.adapters import Distributed
from tests.contract.test_kafka import administer, commit, relaying, said, waiting, ways
from tests.contract.world import World, recorded, ref


@pytest_asyncio.fixture
async def world(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    opened = World(Distributed(request, settings, clock), clock)
    await opened.create()
    yield opened
    await opened.close()


async def test_the_outbox_is_emptied_once_kafka_has_its_events(world: World) -> None:
    async with relaying(world, world.producer) as [sending]:
        await commit(world.producer, *(recorded(n, f"{n}-0") for n in range(20)))

        async def sent() -> bool:
            return await waiting(world.producer) == 0

        await eventually(sent)
        assert not sending.stuck
    await world.process().step()
    assert len(await world.applied()) == 20


async def test_what_could_not_be_deleted_is_deleted_later_though_nothing_more_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, tries = world.producer.sweep, 0

    async def once_away(work: Callable[[Connection], object]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable
        await sweep(work)

    monkeypatch.setattr(world.producer, "sweep", once_away)
    async with relaying(world, world.producer):
        await commit(world.producer, recorded(1, "1-1"))

        async def deleted() -> bool:
            return await waiting(world.producer) == 0

        await eventually(deleted)


async def test_what_is_deleted_while_the_relay_looks_is_not_sent_again(world: World) -> None:
    sending = KafkaRelay(ways(world).brokers, world.ways.producer, world.producer)
    await commit(world.producer, recorded(1, "1-1"))

    def look(conn: Connection) -> int:
        [row] = sending._waiting(conn)
        sending._sent.add(row.seq)

        def deleted_meanwhile(*_: Any) -> Mock:
            sending._sent.clear()
            return Mock(all=lambda: [row])

        found = create_autospec(conn, instance=True)
        found.execute.side_effect = deleted_meanwhile
        return len(sending._waiting(found))

    assert await world.producer.glance(look) == 0


async def test_a_relay_that_ends_with_a_fault_does_not_look_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sending = KafkaRelay(ways(world).brokers, world.ways.producer, world.producer)
    monkeypatch.setattr(sending, "send", AsyncMock(side_effect=[False, LookupError]))
    monkeypatch.setattr(relay, "LOOK_AGAIN", 0.01)
    with pytest.raises(LookupError):
        await sending.run(asyncio.Event())
    assert sending.stuck


async def test_a_database_that_is_away_is_not_said_to_be_kafka(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "leeward")
    sending = KafkaRelay(ways(world).brokers, world.ways.producer, world.producer)
    await sending._set_back(StoreUnavailable("ConnectionRefusedError"))
    assert said(caplog) == [("relay_waits", "")]


async def test_an_event_of_a_whole_hospital_is_carried(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as a report of 1 MiB can name."""
    everybody = tuple(Involved(person_ref=ref(number)) for number in range(35_000))
    monkeypatch.setattr(topics, "TOPICS", ("leeward.p-large",))
    await topics.make_topics(ways(world).brokers)
    sending = KafkaRelay(ways(world).brokers, "p-large", world.producer)
    event = recorded(1, "1-1").model_copy(update={"involved": everybody})
    assert len(event.model_dump_json()) > 3_000_000
    await commit(world.producer, event)
    await sending.send()
    await sending.close()
    process = world.consuming("leeward.p-large", {})
    await process.step()
    assert await world.applied() == ["1-1"]
    await administer(world, "delete_topics", ["leeward.p-large"])

"""Several replicas of notify on one database: what one leaves another takes up, and nothing leaves twice."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from leeward.contracts import Event, MessageRequested, bucket_up
from leeward.store import Unit, postgresql
from leeward.testing import eventually
from services.notify.channels.registry import CHANNELS
from services.notify.delivery import recovery, sender
from services.notify.delivery.deliveries import Outgoing
from services.notify.delivery.queue import Claims
from services.notify.links import seals
from services.notify.models import DELIVERY, METADATA, QUESTION
from services.notify.retention import delete_expired
from tests.databases import OpenStore
from tests.replicas import behind
from tests.services.notify.conftest import MakeWorld
from tests.services.notify.questions.forms import ACCEPT
from tests.services.notify.world import ANNA, SAM, World, member

pytestmark = pytest.mark.database("postgresql")
PRESENCE = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


Replica = Callable[[World], Awaitable[World]]


@pytest.fixture
def replica(make_world: MakeWorld) -> Replica:
    """`await replica(world)`: another process on the same database, mailing through the same server."""

    async def make(first: World) -> World:
        return await make_world(LEEWARD_SMTP_URL=f"smtp://127.0.0.1:{first.mail.port}")

    return make


async def states(world: World) -> list[str]:
    return sorted(row.state for row in await world.rows(DELIVERY))


async def become(world: World, wanted: list[str]) -> None:
    async with asyncio.timeout(10):
        while await states(world) != wanted:
            await asyncio.sleep(0.01)


async def test_what_a_dead_replica_was_sending_another_sends_within_seconds(world: World, replica: Replica) -> None:
    other = await replica(world)
    await world.die()
    await world.asks(ANNA)
    await asyncio.sleep(0.5)
    assert await states(world) == ["sending"], "slow it may be, but it is alive"
    await world.context.store.close()
    await world.mailed(1)
    await eventually(lambda: other.outcomes() == ["handed_off"])


async def test_what_a_hung_replica_was_sending_another_sends_when_its_lease_has_run_out(
    make_world: MakeWorld, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session is there, so that no lock is free; only the beats of its name do not come any more."""
    monkeypatch.setattr(postgresql, "LEASE", 1.0)
    monkeypatch.setattr(postgresql, "_SURE", 0.8)
    world = await make_world()
    other = await replica(world)
    await world.die()
    await world.asks(ANNA)
    await become(world, ["sending"])
    await world.mailed(1)
    await eventually(lambda: other.outcomes() == ["handed_off"])


async def test_what_a_dead_replica_had_queued_another_sends_soon(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "OTHERS", 0.2)
    other = await replica(world)
    monkeypatch.setattr(sender, "DEPTH", 0)  # no room at either, so that it is queued
    await world.die()
    await world.asks(ANNA)
    assert await states(world) == ["queued"]
    monkeypatch.undo()
    await world.mailed(1)
    await eventually(lambda: other.outcomes() == ["handed_off"])


async def test_one_that_only_lost_its_connection_goes_on(
    world: World, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name is free for a moment: who looks then waits for another look, and finds it taken again."""
    monkeypatch.setattr(recovery, "LOOK", 3600)
    monkeypatch.setattr(recovery, "PULSE", 0.5)
    other = open_store("notify", METADATA)
    looking = recovery.Recovery(other, "other", lambda _unit: None)
    world.mail.slow = asyncio.Event()
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    await other.read(lambda conn: conn.execute(text(PRESENCE)))
    await looking.look()
    assert await states(world) == ["sending"]
    await asyncio.sleep(1)
    await looking.look()
    await looking.look()
    assert await states(world) == ["sending"]
    world.mail.slow.set()
    await eventually(lambda: world.outcomes() == ["handed_off"])


async def test_nothing_is_begun_under_a_name_that_others_would_find_free(world: World, open_store: OpenStore) -> None:
    other = open_store("notify", METADATA)
    [run] = {row.claimed_by for row in await _one_sent(world)}
    await other.read(lambda conn: conn.execute(text(PRESENCE)))
    async with asyncio.timeout(5):
        while not await other.hold(run):
            await other.read(lambda conn: conn.execute(text(PRESENCE)))
    await asyncio.sleep(0.3)
    await world.asks(SAM)
    assert await states(world) == ["handed_off", "queued"]
    await other.release(run)
    await world.mailed(2)


async def _one_sent(world: World) -> list[Any]:
    await world.asks(ANNA)
    await become(world, ["handed_off"])
    return await world.rows(DELIVERY)


async def test_one_that_stood_still_does_not_send_what_another_has_sent(
    world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "STALE_SECONDS", 0)
    await replica(world)
    await world.die()
    await world.asks(ANNA)
    await world.context.store.read(lambda conn: conn.execute(text(PRESENCE)))
    await world.mailed(1)
    await become(world, ["handed_off"])
    world.wakes_up()
    await asyncio.sleep(0.5)
    await world.mailed(1)
    assert await states(world) == ["handed_off"]


async def test_what_it_sent_after_all_another_does_not_repeat(world: World) -> None:
    world.mail.slow = asyncio.Event()
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    taken_up = DELIVERY.update().values(state="queued", claimed_by="another", doubts=1)
    await world.context.store.write(lambda unit: unit.conn.execute(taken_up))
    world.mail.slow.set()
    await become(world, ["handed_off"])
    assert world.outcomes() == ["handed_off"]


async def test_a_failure_is_not_written_over_what_another_has_sent(world: World) -> None:
    world.mail.slow, world.mail.cut_after_dot = asyncio.Event(), 1
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    sent = DELIVERY.update().values(state="handed_off", claimed_by="another")
    await world.context.store.write(lambda unit: unit.conn.execute(sent))
    world.mail.slow.set()
    await asyncio.sleep(0.3)
    assert await states(world) == ["handed_off"]
    assert world.outcomes() == []


@pytest.mark.database("sqlite", "postgresql")
async def test_a_commit_nobody_heard_of_is_taken_up_too(world: World) -> None:
    """The connection is lost behind the commit: the row says `sending`, and no lane has it."""
    request = world.request(ANNA)

    def deaf(unit: Unit) -> None:
        world.parts.handlers[MessageRequested](unit, [Event(str(uuid4()), request.key, request, unit.now)])
        unit.afterwards.clear()

    await eventually(lambda: bool(world.clock._sleepers))
    await world.context.store.write(deaf)
    await world.mailed(1)
    await eventually(lambda: world.outcomes() == ["handed_off"])


async def test_many_wait_and_each_leaves_once(world: World, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [member(f"p{n}") for n in range(30)]
    await world.people(ANNA, SAM, *people)
    other = await replica(world)
    await other.people(ANNA, SAM, *people)
    monkeypatch.setattr(sender, "DEPTH", 0)
    await world.happens(*(world.request(person) for person in people))
    assert await states(world) == ["queued"] * 30
    monkeypatch.setattr(sender, "BATCH", 7)
    monkeypatch.setattr(sender, "DEPTH", 1024)
    await eventually(lambda: len(world.mail.mails) >= 30, 20)
    await become(world, ["handed_off"] * 30)
    assert len(set(world.mail.ids())) == len(world.mail.mails) == 30
    assert sorted(world.outcomes() + other.outcomes()) == ["handed_off"] * 30


async def test_an_answer_and_a_claim_at_once_are_one_after_the_other(world: World, replica: Replica) -> None:
    """Whoever claims on a view of the time before an answer does so again, and finds nothing to say."""
    other = await replica(world)
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await other.die()
    await world.die()
    reminder = world.request(ANNA, case_ref=asked.case_ref, step="reminder")
    await world.happens(reminder)
    queued = DELIVERY.update().where(DELIVERY.c.step == "reminder").values(state="queued")
    await world.context.store.write(lambda unit: unit.conn.execute(queued))
    claims = Claims(Outgoing(other.context.settings, CHANNELS, seals(other.context.keys), "other"))
    store = other.context.store
    claim = store.write(lambda unit: claims.claim_due(unit, "email", 10))
    _, jobs = await behind(store, lambda: claim, lambda: world.client.post(link, data=ACCEPT))
    assert jobs == []
    assert sorted(await states(world)) == ["cancelled", "handed_off"]


async def test_an_answer_and_a_reminder_at_once_are_one_after_the_other(world: World, replica: Replica) -> None:
    other = await replica(world)
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    reminder = world.request(ANNA, case_ref=asked.case_ref, step="reminder")
    await behind(other.context.store, lambda: other.happens(reminder), lambda: world.client.post(link, data=ACCEPT))
    await world.mailed(1)
    [question] = await world.rows(QUESTION)
    assert question.state == "accepted"


async def test_answers_from_two_taps_on_two_replicas_are_one(world: World, replica: Replica) -> None:
    other = await replica(world)
    await world.asks(ANNA)
    [link] = await world.mailed()
    tapped = await behind(
        other.context.store,
        lambda: other.client.post(link, data={"answer": "no_thanks"}),
        lambda: world.client.post(link, data=ACCEPT),
    )
    assert tapped.status_code in (200, 404, 410)
    assert world.answers() + other.answers() == [("accept", {"when": "hours"})]


async def test_new_links_are_three_a_day_however_fast_one_taps(world: World, replica: Replica) -> None:
    other = await replica(world)
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    strangers = [world.browser() for _ in range(3)] + [other.browser() for _ in range(3)]
    await asyncio.gather(*(one.post(link, data={"answer": "new_link"}) for one in strangers))
    await world.mailed(1 + 3)


async def test_an_address_gets_five_codes_however_fast_one_asks(world: World, replica: Replica) -> None:
    other = await replica(world)
    asking = [one.client.post("/ask", data={"address": ANNA.email}) for one in (world, other) * 5]
    await asyncio.gather(*asking)
    await world.mailed(5)


async def test_rounds_of_forgetting_at_once_disturb_nobody(world: World, open_store: OpenStore) -> None:
    await world.asks(ANNA)
    await become(world, ["handed_off"])
    await world.stop()
    await world.clock.advance(days=91)
    stores = [open_store("notify", METADATA) for _ in range(3)]
    await asyncio.gather(*(store.write(delete_expired) for store in stores))
    assert await world.rows(DELIVERY) == await world.rows(QUESTION) == []


async def test_replicas_that_start_at_once_tell_once_of_a_channel_that_is_gone(world: World, replica: Replica) -> None:
    await world.die()
    await world.asks(ANNA, not_before=bucket_up(world.clock.now() + timedelta(hours=1)))
    elsewhere = DELIVERY.update().values(channel="webhook")
    await world.context.store.write(lambda unit: unit.conn.execute(elsewhere))
    others = await asyncio.gather(*(replica(world) for _ in range(3)))
    await become(world, ["failed"])
    assert [state for other in others for state in other.outcomes()] == ["failed"]

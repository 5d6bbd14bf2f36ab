"""What notify gave up and is tried again later: never a message of somebody who has been forgotten meanwhile."""

import pytest
from sqlalchemy import select

from leeward.bus import dead_letters
from leeward.contracts import CaseErased, MessageCancelled, MessageRequested
from services.notify.models import DELIVERY, QUESTION
from tests.databases import content
from tests.letters import Consuming, fails
from tests.services.notify.world import ANNA, World

pytestmark = pytest.mark.database("sqlite", "postgresql")


class Broken:
    """notify, whose every message fails until it is mended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.handlers = {model.type: handler for model, handler in world.parts.handlers.items()}
        broken = {**self.handlers, MessageRequested.type: fails}
        self.consuming = Consuming("notify", "leeward.matching", world.context.store, world.clock, broken)

    async def gives_up(self, request: MessageRequested) -> None:
        await self.consuming.take(request)
        await self.consuming.give_up()

    async def is_mended_and_replays(self) -> int:
        store = self.world.context.store
        self.consuming.parking.handlers = self.handlers
        seqs = select(store.writes.tables.parked.c.seq)
        count = await store.write(lambda unit: dead_letters.replay(unit, unit.conn.execute(seqs).scalars().all()))
        await self.consuming.parking.retry()
        return count


async def test_a_message_that_was_given_up_leaves_after_the_mend(world: World) -> None:
    broken = Broken(world)
    await broken.gives_up(world.request(ANNA))
    assert await broken.is_mended_and_replays() == 1
    await world.mailed()


async def test_of_a_case_that_was_erased_meanwhile_nothing_leaves_and_nothing_is_kept(world: World) -> None:
    broken, request = Broken(world), world.request(ANNA)
    await broken.gives_up(request)
    await broken.consuming.take(CaseErased(case_ref=request.case_ref))
    assert await broken.is_mended_and_replays() == 0
    await world.mailed(0)
    assert await world.rows(QUESTION) == []
    assert await world.rows(DELIVERY) == []
    await world.context.store.tidy()
    assert request.request_ref.encode() not in await content(world.context.store)


async def test_a_message_that_was_cancelled_meanwhile_never_leaves(world: World) -> None:
    broken, request = Broken(world), world.request(ANNA)
    await broken.gives_up(request)
    await broken.consuming.take(MessageCancelled(request_ref=request.request_ref), key=request.case_ref)
    assert await broken.is_mended_and_replays() == 0
    await world.mailed(0)

"""A hand-off that nobody knows the end of: never repeated to somebody who has answered, never called off in silence."""

import asyncio

import pytest

from leeward.contracts import MessageRequested
from leeward.testing import eventually
from services.notify.links import seals
from services.notify.models import DELIVERY
from tests.services.notify.world import ANNA, World

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def _in_doubt(world: World) -> MessageRequested:
    """A message that was being sent when the process died; at the next start its channel is away."""
    await world.mail.stop()
    await world.die()
    asked = await world.asks(ANNA)
    await world.start()
    async with asyncio.timeout(5):
        while not any(row.state == "queued" and row.due_at > world.clock.now() for row in await world.rows(DELIVERY)):
            await asyncio.sleep(0.01)
    assert [row.doubts for row in await world.rows(DELIVERY)] == [1]
    return asked


async def test_taken_back_while_in_doubt_it_may_be_there_and_that_is_told(world: World) -> None:
    asked = await _in_doubt(world)
    await world.cancels(asked)
    assert world.outcomes() == ["unknown"]
    assert [row.state for row in await world.rows(DELIVERY)] == ["unknown"]


async def test_an_answer_to_what_is_in_doubt_shows_that_it_arrived(world: World) -> None:
    await _in_doubt(world)
    [row] = await world.rows(DELIVERY)
    link = f"/m/{seals(world.context.keys).token(row.key)}"
    assert (await world.client.post(link, data={"answer": "another"})).status_code == 200
    assert world.outcomes() == ["handed_off"]


async def test_an_answer_that_leaves_the_question_open_is_one_too(world: World) -> None:
    world.mail.cut_after_dot = 1
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    await asyncio.sleep(0.1)
    await world.client.post(world.links[0], data={"answer": "talk_now"})
    await world.clock.advance(minutes=10)
    await world.mailed(1)


@pytest.mark.parametrize("answer", ["another", "talk_now"])
async def test_nobody_is_reminded_of_what_they_have_answered(world: World, answer: str) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": answer})
    await world.asks(ANNA, case_ref=asked.case_ref, step="reminder")
    await world.mailed(1)

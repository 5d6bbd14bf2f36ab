"""After a restore: what may have been sent since is repeated once under its Message-ID, nothing erased returns."""

from datetime import timedelta

import pytest

from leeward.contracts import bucket_up
from leeward.service import Restored
from leeward.store import Unit
from leeward.testing import eventually, member
from services.notify.delivery.deliveries import Outgoing
from services.notify.links import seals
from services.notify.models import DELIVERY, LINK, QUESTION, RECIPIENT
from services.notify.restored import bring_to_present
from tests.services.notify.world import World

ANN, BOB = member("ann"), member("bob")

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def restored(world: World, **found: list[str]) -> None:
    given = Restored(world.context.settings, world.context.keys, frozenset(), **found)
    await world.context.store.write(lambda unit: bring_to_present(unit, given))


def forget(unit: Unit) -> None:
    """Leave nothing of what was asked for."""
    for table in (DELIVERY, LINK, QUESTION):
        unit.conn.execute(table.delete())


async def test_what_was_due_is_in_doubt_and_repeated_once_under_its_own_id(world: World) -> None:
    await world.people(ANN)
    await world.asks(ANN)
    await world.mailed()
    await eventually(lambda: world.outcomes() == ["handed_off"])
    # the copy is of the moment before it left
    await world.die()
    copy = DELIVERY.update().values(state="queued", claimed_by="a run of before")
    await world.context.store.write(lambda unit: unit.conn.execute(copy))
    await world.clock.advance(hours=2)
    await restored(world)
    [row] = await world.rows(DELIVERY)
    assert (row.state, row.doubts) == ("queued", 1)
    await world.start()
    await world.mailed(2)
    first, second = world.mail.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first.get_content() == second.get_content()
    await eventually(lambda: world.outcomes().count("handed_off") == 2)


async def test_what_is_not_due_yet_cannot_have_left(world: World) -> None:
    await world.people(ANN)
    await world.asks(ANN, not_before=bucket_up(world.clock.now() + timedelta(hours=30)))
    await restored(world)
    [row] = await world.rows(DELIVERY)
    assert (row.state, row.doubts) == ("queued", 0)


async def test_of_what_was_erased_nothing_is_sent_and_no_name_is_left(world: World) -> None:
    await world.people(ANN, BOB)
    later = bucket_up(world.clock.now() + timedelta(hours=30))
    erased = await world.asks(ANN, not_before=later)
    await world.asks(BOB, not_before=later)
    await restored(world, cases=[erased.case_ref], recipients=[BOB.recipient_ref])
    assert {row.state for row in await world.rows(DELIVERY)} == {"cancelled"}
    assert await world.rows(QUESTION) == []
    assert await world.rows(LINK) == []
    rows = {row.recipient_ref: row for row in await world.rows(RECIPIENT)}
    assert (rows[BOB.recipient_ref].display_name, rows[BOB.recipient_ref].email) == ("", "")
    assert rows[BOB.recipient_ref].status == "left"
    assert rows[ANN.recipient_ref].email == ANN.email


async def test_a_step_that_is_asked_for_again_has_the_same_id_and_link(world: World) -> None:
    await world.people(ANN)
    outgoing = Outgoing(world.context.settings, (), seals(world.context.keys), "run")
    asked = await world.asks(ANN, step="reminder")
    await world.mailed()
    [before] = await world.rows(DELIVERY)
    # the copy that was put back knows nothing of it, and matching asks for the same step again
    await world.context.store.write(forget)
    await world.asks(ANN, step="reminder", case_ref=asked.case_ref)
    first, second = await world.mailed(2)
    assert first == second
    [after] = await world.rows(DELIVERY)
    assert after.key == before.key
    assert outgoing.seals.token(after.key) in second

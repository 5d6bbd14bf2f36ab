"""A service tells matching that it has given something up, and that it has not any more: that alone."""

from leeward.bus import dead_letters
from leeward.contracts import EVENTS, MessageCancelled
from leeward.store import Store
from leeward.testing import ManualClock
from services.notify.models import METADATA
from tests.conftest import MakeContext
from tests.contract.world import ref
from tests.letters import Consuming, fails

YES, NO = '{"kind":"dead_letter","standing":"yes"}', '{"kind":"dead_letter","standing":"no"}'


async def told(store: Store) -> list[tuple[str, str, str]]:
    outbox = store.writes.tables.outbox
    rows = await store.read(lambda conn: conn.execute(outbox.select().order_by(outbox.c.seq)).all())
    return [(row.type, row.key, row.body) for row in rows]


async def bodies(store: Store) -> list[str]:
    return [body for _, _, body in await told(store)]


async def test_matching_is_told_when_it_begins_and_when_it_is_over(
    make_context: MakeContext, clock: ManualClock
) -> None:
    store = make_context("notify", METADATA).store
    consuming = Consuming("notify", "leeward.matching", store, clock, {MessageCancelled.type: fails})
    await consuming.parking.retry()
    assert await bodies(store) == [NO], "after a start nobody knows what matching has been told before"
    await consuming.take(*(MessageCancelled(request_ref=ref(number)) for number in (1, 2)))
    await consuming.parking.retry()
    assert await bodies(store) == [NO], "what waits is tried again"
    await consuming.give_up()
    await consuming.parking.retry()
    assert await bodies(store) == [NO, YES]

    seqs = [row.seq for row in await store.read(lambda c: dead_letters.letters(c, store.writes.tables.parked))]
    await store.write(lambda unit: dead_letters.drop(unit, seqs[:1]))
    await consuming.parking.retry()
    assert await bodies(store) == [NO, YES], "one still stands"
    await store.write(lambda unit: dead_letters.replay(unit, seqs[1:]))
    consuming.parking.handlers = {MessageCancelled.type: lambda _unit, _events: None}
    await consuming.parking.retry()
    assert await bodies(store) == [NO, YES, NO]
    assert {(kind, key) for kind, key, _ in await told(store)} == {("leeward.notify.attention.v1", "dead_letter")}


async def test_what_was_dropped_while_nothing_ran_is_told_at_the_next_start(
    make_context: MakeContext, clock: ManualClock
) -> None:
    store = make_context("notify", METADATA).store
    consuming = Consuming("notify", "leeward.matching", store, clock, {MessageCancelled.type: fails})
    await consuming.take(MessageCancelled(request_ref=ref(1)))
    await consuming.give_up()
    [row] = await store.read(lambda c: dead_letters.letters(c, store.writes.tables.parked))
    await store.write(lambda unit: dead_letters.drop(unit, [row.seq]))
    again = Consuming("notify", "leeward.matching", store, clock, {MessageCancelled.type: fails})
    await again.parking.retry()
    assert (await bodies(store))[-1] == NO


async def test_matching_reads_its_own_and_who_consumes_nothing_has_none(
    make_context: MakeContext, clock: ManualClock
) -> None:
    store = make_context("notify", METADATA).store
    for service, handlers in (("matching", {MessageCancelled.type: fails}), ("incident", {}), ("issuer", {})):
        consuming = Consuming(service, "leeward.matching", store, clock, handlers)  # type: ignore[arg-type]
        await consuming.parking.retry()
    assert await told(store) == []


def test_an_attention_holds_nothing_but_its_kind_and_whether_it_stands() -> None:
    for service in ("incident", "notify"):
        assert EVENTS[f"leeward.{service}.attention.v1"].model_fields.keys() == {"kind", "standing"}

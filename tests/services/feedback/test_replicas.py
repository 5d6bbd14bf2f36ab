"""Several replicas of issuer and box, and what a real PostgreSQL tells of the order in which ratings came."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from statistics import mean
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Insert, Table, func, insert, literal, select, text, update

from leeward.contracts import CaseClosed, Event
from leeward.service import Context
from leeward.settings.policy import Feedback
from leeward.testing import ManualClock
from services.feedback import blind, reports
from services.feedback.box import ratings, repository
from services.feedback.box.epochs import EpochKeeper, PublishedEpochs, pin
from services.feedback.box.models import EPOCH, OPENED, RELEASE, SEALED
from services.feedback.box.models import METADATA as BOX
from services.feedback.issuer import SERVICE, claims, epochs
from services.feedback.issuer.models import CLAIM
from services.feedback.issuer.models import EPOCH as KEYS
from services.feedback.issuer.models import METADATA as ISSUER
from tests.conftest import MakeContext
from tests.replicas import behind
from tests.services.feedback.box.test_box import NAME, TRIALS, Box, agreement, box, distinct, published

__all__ = ["box"]
pytestmark = pytest.mark.database("postgresql")
POLICY = Feedback(epoch_min=timedelta(0), epoch_tokens=3)


class Issuer:
    """One replica of the issuer."""

    def __init__(self, context: Context) -> None:
        self.store = context.store
        self.safe = epochs.Safe(context.keys)

    async def close(self) -> str:
        """A case closes; gives its reference."""
        case = str(uuid4())
        event = Event(str(uuid4()), case, CaseClosed(case_ref=case), self.store.clock.now())
        await self.store.write(lambda unit: claims.allow_tokens(unit, [event]))
        return case

    async def mint(self, case: str, blinded: bytes, epoch: str | None = None) -> claims.Minted:
        return await self.store.write(claims.mint_token(self.safe, POLICY, case, blinded, epoch))

    async def first(self) -> str:
        row = await self.store.write(lambda unit: epochs.signing_epoch(unit, self.safe, POLICY))
        return str(row.epoch)

    async def ends(self) -> None:
        """The timer of the epoch's end."""
        close = epochs.close_epochs(self.safe, POLICY)
        await self.store.write(lambda unit: close(unit, []))

    async def rows(self, table: Table) -> list[Any]:
        return await self.store.read(lambda conn: list(conn.execute(select(table)).all()))


@pytest.fixture
def issuers(make_context: MakeContext) -> list[Issuer]:
    return [Issuer(make_context("issuer", ISSUER)) for _ in range(3)]


def blinded() -> bytes:
    return b"\x00" + secrets.token_bytes(blind.BITS // 8 - 1)


async def test_the_first_epoch_is_one_and_no_replica_stumbles(make_context: MakeContext) -> None:
    parts = [SERVICE.build(make_context("issuer", ISSUER)) for _ in range(3)]
    await asyncio.gather(*(task(asyncio.Event()) for part in parts for task in part.tasks))
    issuer = Issuer(make_context("issuer", ISSUER))
    assert [row.issuing for row in await issuer.rows(KEYS)] == [1]
    assert len(await issuer.rows(ISSUER.tables["timer"])) == 1


async def test_the_same_request_at_two_replicas_has_one_answer(issuers: list[Issuer]) -> None:
    one, other, _ = issuers
    await one.first()
    case = await one.close()
    asked = blinded()
    minted: list[claims.Minted] = []

    async def first() -> None:
        minted.append(await one.mint(case, asked))

    again = await behind(other.store, lambda: other.mint(case, asked), first)
    assert [again] == minted
    assert [row.issued for row in await one.rows(KEYS)] == [1]


async def test_of_two_requests_for_a_case_one_is_signed(issuers: list[Issuer]) -> None:
    one, other, _ = issuers
    await one.first()
    case = await one.close()
    with pytest.raises(claims.AlreadyUsed):
        await behind(other.store, lambda: other.mint(case, blinded()), lambda: one.mint(case, blinded()))
    assert [row.issued for row in await one.rows(KEYS)] == [1]


async def test_every_token_is_counted(issuers: list[Issuer]) -> None:
    await issuers[0].first()
    cases = [await issuers[0].close() for _ in range(9)]
    await asyncio.gather(*(issuer.mint(case, blinded()) for issuer, case in zip(issuers * 3, cases, strict=True)))
    assert [row.issued for row in await issuers[0].rows(KEYS)] == [9]
    assert all(row.signature for row in await issuers[0].rows(CLAIM))


async def test_a_key_that_ends_at_that_moment_signs_nothing_more(issuers: list[Issuer]) -> None:
    one, other, _ = issuers
    epoch = await one.first()
    case = await one.close()
    enough = update(KEYS).values(issued=POLICY.epoch_tokens)
    await one.store.write(lambda unit: unit.conn.execute(enough))
    ends = one.ends()
    with pytest.raises(claims.EpochChanged):
        await behind(other.store, lambda: other.mint(case, blinded(), epoch), lambda: ends)
    assert sorted((row.issuing or 0, row.issued) for row in await one.rows(KEYS)) == [(0, 3), (1, 0)]


async def test_an_epoch_is_ended_by_two_replicas_once(issuers: list[Issuer]) -> None:
    one, other, _ = issuers
    await one.first()
    await one.store.write(lambda unit: unit.conn.execute(update(KEYS).values(issued=POLICY.epoch_tokens)))
    close = [one.ends(), other.ends()]
    await behind(other.store, lambda: close[1], lambda: close[0])
    assert sorted(row.issuing or 0 for row in await one.rows(KEYS)) == [0, 1]


# --- the box ---


@pytest.fixture
def others(box: Box, make_context: MakeContext) -> list[Box]:
    """Further processes on the box's database, with its keys."""
    made = [Box(replace(box.context, store=make_context("box", BOX).store), box.clock) for _ in range(2)]
    for other in made:
        other.public, other.private = box.public, box.private
    return made


async def stored(box: Box, table: Table, column: str) -> list[tuple[Any, int, tuple[int, int]]]:
    """Each row's value with the number of the transaction that wrote it and its place in the table."""
    query = text(f'SELECT "{column}", xmin::text::bigint, ctid::text FROM "{table.name}"')

    def read(conn: Connection) -> list[tuple[Any, int, tuple[int, int]]]:
        rows = conn.execute(query).all()
        return [(value, number, (int(p[0]), int(p[1]))) for value, number, at in rows for p in [at[1:-1].split(",")]]

    return await box.context.store.read(read)


async def order_by(box: Box, what: Sequence[Any], key: Callable[[Any], Any]) -> list[int]:
    """By arrival, which place each rating has when the rows are sorted by something."""
    ranked = [row[0] for row in sorted(await stored(box, SEALED, "sealed"), key=key)]
    return [ranked.index(one) for one in what]


async def test_neither_transactions_nor_places_pair_ratings_with_their_arrival(box: Box) -> None:
    orders = []
    for _ in range(TRIALS):
        eight = [box.given(rating) for rating in distinct(8)]
        await box.context.store.write(lambda unit: unit.conn.execute(SEALED.delete()))
        await box.take(*eight)
        assert len({number for _, number, _ in await stored(box, SEALED, "sealed")}) == 1, "one transaction wrote all"
        orders.append(await order_by(box, [given.sealed for given in eight], lambda row: row[2]))
    # bounds at five standard deviations of what orders drawn at random would give
    assert abs(mean(agreement(order) for order in orders)) < 0.3
    assert abs(mean(order[-1] for order in orders) - 3.5) < 2.4, "the one who came last"


async def test_written_one_after_the_other_both_would_tell(box: Box) -> None:
    """The measure of the test above sees what it is meant to see."""
    eight = [box.given(rating) for rating in distinct(8)]
    for given in eight:
        row = {"token": secrets.token_hex(32), "epoch": NAME, "sealed": given.sealed}
        await box.context.store.write(lambda unit, row=row: unit.conn.execute(insert(SEALED).values(**row)))  # type: ignore[misc]
    sealed = [given.sealed for given in eight]
    assert await order_by(box, sealed, lambda row: row[1]) == list(range(8))
    assert await order_by(box, sealed, lambda row: row[2]) == list(range(8))


async def test_what_waits_for_a_release_tells_neither(box: Box) -> None:
    eight = [box.given(rating) for rating in distinct(8)]
    taus = []
    for _ in range(TRIALS):
        await box.context.store.write(lambda unit: unit.conn.execute(OPENED.delete()))
        await box.take(*eight)
        await box.clock.advance(days=1)
        await EpochKeeper(box.context).look()
        rows = await stored(box, OPENED, "rating")
        assert len({number for _, number, _ in rows}) == 1
        ranked = [value for value, _, _ in sorted(rows, key=lambda row: row[2])]
        taus.append(agreement([ranked.index(reports.payload(rating).decode()) for rating in distinct(8)]))
        await box.context.store.write(lambda unit: unit.conn.execute(EPOCH.delete()))
        await box.open()
    assert abs(mean(taus)) < 0.3


async def test_ratings_given_at_once_at_several_replicas_are_all_kept_and_lie_in_no_order(
    box: Box, others: list[Box]
) -> None:
    given = [box.given(rating) for rating in distinct(12)]
    taking = [
        one.context.store.write(ratings.accept_rating(each))
        for one, each in zip([box, *others] * 4, given, strict=True)
    ]
    await asyncio.gather(*taking)
    rows = await stored(box, SEALED, "sealed")
    assert {value for value, _, _ in rows} == {each.sealed for each in given}
    assert len({number for _, number, _ in rows}) == 1


async def test_the_first_two_at_once_lie_in_no_order_either(box: Box, others: list[Box]) -> None:
    """Where nothing was sealed before, nothing that both delete makes the second notice the first."""
    one, two = (box.given(rating) for rating in distinct(2))
    late = others[0].context.store
    await behind(late, lambda: late.write(ratings.accept_rating(two)), lambda: box.take(one))
    rows = await stored(box, SEALED, "sealed")
    assert (len(rows), len({number for _, number, _ in rows})) == (2, 1)


async def test_a_token_spent_at_two_replicas_counts_once(box: Box, others: list[Box]) -> None:
    given = box.given(distinct(1)[0])
    late = others[0].context.store
    await behind(late, lambda: late.write(ratings.accept_rating(given)), lambda: box.take(given))
    assert await box.count(SEALED) == 1
    other = replace(given, sealed=box.given(distinct(2)[1]).sealed)
    with pytest.raises(ratings.AlreadyGiven):
        await box.take(other)


async def test_a_window_ended_by_several_is_ended_once(box: Box, others: list[Box], clock: ManualClock) -> None:
    await box.take(*(box.given(rating) for rating in distinct(10)))
    await clock.advance(days=1)
    await asyncio.gather(*(EpochKeeper(one.context).look() for one in [box, *others]))
    assert (await box.count(SEALED), await box.count(OPENED), await box.count(RELEASE)) == (0, 0, 1)
    figures = await box.context.store.read(repository.list_releases)
    assert [release["n"] for release in figures] == [10]


async def test_two_windows_ended_at_once_make_one_release(box: Box, others: list[Box], clock: ManualClock) -> None:
    second = "f" * 16
    await box.context.store.write(lambda unit: unit.conn.execute(_as_another_epoch(second)))
    await clock.advance(days=1)
    late, ten = others[0].context.store, distinct(10)
    ends = [ratings.open_window(name, [], part, 0) for name, part in ((NAME, ten[:5]), (second, ten[5:]))]
    await behind(late, lambda: late.write(ends[1]), lambda: box.context.store.write(ends[0]))
    assert [release["n"] for release in await box.context.store.read(repository.list_releases)] == [10]


def _as_another_epoch(name: str) -> Insert:
    columns = [column.name for column in EPOCH.columns]
    same = select(*(literal(name) if column == "epoch" else EPOCH.c[column] for column in columns))
    return insert(EPOCH).from_select(columns, same)


async def test_a_rating_of_the_last_moment_is_not_lost(box: Box, others: list[Box], clock: ManualClock) -> None:
    """It is taken by one replica while another, whose clock is ahead, opens what was sealed before it came."""
    first, last = (box.given(rating) for rating in distinct(2))
    await box.take(first)
    read = await box.context.store.read(partial(repository.sealed_in, epoch=NAME))
    await others[0].take(last)
    await clock.advance(days=1)
    ended = ratings.open_window(NAME, read, [distinct(1)[0]], 0)
    assert not await box.context.store.write(ended)
    assert await box.count(SEALED) == 2
    await EpochKeeper(box.context).look()
    assert (await box.count(SEALED), await box.count(OPENED)) == (0, 2)


async def test_a_rating_while_the_window_ends_is_kept_or_refused(
    box: Box, others: list[Box], clock: ManualClock
) -> None:
    first, last = (box.given(rating) for rating in distinct(2))
    await box.take(first)
    late = others[0].context.store
    await clock.advance(days=1)

    async def ends() -> None:
        await EpochKeeper(box.context).look()

    with pytest.raises(ratings.NotOpen):
        await behind(late, lambda: late.write(ratings.accept_rating(last)), ends)
    assert (await box.count(SEALED), await box.count(OPENED)) == (0, 1)


async def test_a_key_is_pinned_by_several_at_once(box: Box, others: list[Box]) -> None:
    [seen] = PublishedEpochs.model_validate({"epochs": [published(blind.generate())]}).epochs
    late = others[0].context.store
    await behind(late, lambda: late.write(pin(seen)), lambda: box.context.store.write(pin(seen)))
    known = await box.context.store.read(
        lambda conn: conn.execute(select(func.count()).select_from(EPOCH)).scalar_one()
    )
    assert known == 2

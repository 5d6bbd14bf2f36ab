"""The box alone: what its rows hold, what their order tells, and whose keys it trusts."""

import base64
import json
import secrets
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from sqlalchemy import func, insert, select

from leeward.sealing import Sealer
from leeward.service import Context
from leeward.store import Unit
from leeward.testing import ManualClock
from leeward.web.app import create_app
from services.feedback import blind, reports
from services.feedback.box import SERVICE, ratings, sealing
from services.feedback.box.epochs import EpochKeeper, PublishedEpochs
from services.feedback.box.models import EPOCH, METADATA, OPENED, RELEASE, SEALED
from services.feedback.reports import ITEMS, Rating
from tests.conftest import MakeContext
from tests.databases import content
from tests.services.feedback.browserless import drive, from_text, text

KEY = blind.generate()
NAME = blind.epoch_of(KEY.spki)
SIGNER = load_der_private_key(KEY.der, None)
TRIALS = 24


class Box:
    """A box with one open window, given ratings in a known order."""

    def __init__(self, context: Context, clock: ManualClock) -> None:
        self.context = context
        self.clock = clock
        self.path = Path(context.settings.database_file("box"))
        self.secret = context.keys.derive("seal keys")
        self.public, self.private = sealing.new_key()

    async def open(self, issued: int = 100) -> None:
        row = {"epoch": NAME, "state": "rating", "key": KEY.spki, "issued": issued, "opened_on": date(2026, 8, 1)}
        seal = {"seal_key": self.public, "seal_private": Sealer(self.secret).seal(self.private, NAME)}
        times = {"closed_on": date(2026, 11, 20), "closes_at": self.clock.now() + timedelta(days=1)}
        await self.context.store.write(lambda unit: unit.conn.execute(insert(EPOCH).values(**row, **seal, **times)))

    def given(self, rating: Rating) -> ratings.SpentToken:
        """A finished token is an ordinary PSS signature (RFC 9474 §4.4); here made without its blinding."""
        prepared = secrets.token_bytes(blind.PREPARED)
        public = load_der_public_key(self.public)
        assert isinstance(SIGNER, rsa.RSAPrivateKey)
        assert isinstance(public, rsa.RSAPublicKey)
        signature = SIGNER.sign(prepared, blind.PSS, hashes.SHA384())
        return ratings.SpentToken(NAME, prepared, signature, public.encrypt(reports.payload(rating), sealing.OAEP))

    async def take(self, *given: ratings.SpentToken) -> None:
        for each in given:
            await self.context.store.write(ratings.accept_rating(each))
        await self.context.store.tidy()

    async def end(self) -> None:
        """The window ends; the issuer is away, which keeps nothing from being opened."""
        await self.clock.advance(days=1)
        assert not await EpochKeeper(self.context).look()

    async def count(self, table: Any) -> int:
        return await self.context.store.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar_one())

    async def content(self) -> bytes:
        return await content(self.context.store)


@pytest_asyncio.fixture
async def box(make_context: MakeContext, clock: ManualClock) -> AsyncIterator[Box]:
    plain = make_context("box", METADATA)
    # nobody listens there, whatever else runs on this machine
    variables = {**plain.settings.variables, "ISSUER_URL": "http://127.0.0.1:1"}
    settings = plain.settings.model_copy(update={"variables": variables})
    found = Box(replace(plain, settings=settings), clock)
    await found.open()
    yield found


def visitor_of(box: Box) -> httpx.AsyncClient:
    app = create_app(box.context, SERVICE.build(box.context).router)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://box")


def distinct(count: int) -> list[Rating]:
    """Ratings that differ from one another, so that each can be found again."""
    return [Rating((place % 5 + 1, place // 5 + 1, 3, 3, 3)) for place in range(count)]


def agreement(order: Sequence[int]) -> float:
    """Kendall's tau of an order against 0, 1, 2 …: 1 the same, -1 reversed, 0 nothing to do with it."""
    pairs = [(a, b) for a in range(len(order)) for b in range(a + 1, len(order))]
    return sum(1 if order[a] < order[b] else -1 for a, b in pairs) / len(pairs)


def places(where: bytes, what: Sequence[bytes]) -> list[int]:
    """By arrival, at which byte of the file each thing lies."""
    found = [where.rindex(each) for each in what]
    return [sorted(found).index(place) for place in found]


async def test_rows_hold_a_hash_an_epoch_and_what_was_sealed(box: Box) -> None:
    assert set(SEALED.c.keys()) == {"token", "epoch", "sealed"}
    assert set(OPENED.c.keys()) == {"ref", "epoch", "rating"}
    await box.take(box.given(distinct(1)[0]))
    tables = box.context.store.writes.tables
    for table in (tables.outbox, tables.inbox, tables.timer, tables.position, tables.parked):
        assert await box.count(table) == 0
    assert not SERVICE.build(box.context).handlers


@pytest.mark.database("sqlite")
async def test_where_a_row_lies_does_not_tell_when_it_came(box: Box) -> None:
    orders = []
    for _ in range(TRIALS):
        eight = [box.given(rating) for rating in distinct(8)]
        await box.context.store.write(lambda unit: unit.conn.execute(SEALED.delete()))
        await box.take(*eight)
        orders.append(places(await box.content(), [given.sealed for given in eight]))
    # bounds at five standard deviations of what orders drawn at random would give
    assert abs(mean(agreement(order) for order in orders)) < 0.3
    assert abs(mean(order[-1] for order in orders) - 3.5) < 2.4, "the one who came last"


@pytest.mark.database("sqlite")
async def test_written_one_after_the_other_it_would_tell(box: Box) -> None:
    """The measure of the test above sees what it is meant to see."""
    eight = [box.given(rating) for rating in distinct(8)]
    for given in eight:
        row = {"token": secrets.token_hex(32), "epoch": NAME, "sealed": given.sealed}
        await box.context.store.write(partial(insert_row, row=row))
    await box.context.store.tidy()
    assert agreement(places(await box.content(), [given.sealed for given in eight])) == -1


def insert_row(unit: Unit, row: dict[str, Any]) -> None:
    unit.conn.execute(insert(SEALED).values(**row))


@pytest.mark.database("sqlite")
async def test_what_waits_for_a_release_lies_in_no_order_either(box: Box) -> None:
    taus = []
    await box.clock.advance(days=2)
    for _ in range(TRIALS):
        await box.context.store.write(lambda unit: unit.conn.execute(OPENED.delete()))
        locked, sealed = await sealed_batch(box)
        batch = ratings.open_window(NAME, [], *sealing.open_batch(box.secret, NAME, locked, sealed))
        await box.context.store.write(lambda unit: unit.conn.execute(EPOCH.update().values(state="rating")))
        await box.context.store.write(batch)
        await box.context.store.tidy()
        texts = [reports.payload(rating) for rating in distinct(8)]
        taus.append(agreement(places(await box.content(), texts)))
    assert abs(mean(taus)) < 0.3


async def sealed_batch(box: Box) -> tuple[bytes, list[bytes]]:
    return Sealer(box.secret).seal(box.private, NAME), [box.given(rating).sealed for rating in distinct(8)]


@pytest.mark.database("sqlite")
async def test_the_log_of_writes_is_gone_after_each_rating(box: Box) -> None:
    await box.take(box.given(distinct(1)[0]))
    assert (box.path.parent / "box.db-wal").stat().st_size == 0


@pytest.mark.database("sqlite")
async def test_a_rating_counts_though_somebody_reads_and_the_log_is_emptied_later(box: Box) -> None:
    given = box.given(distinct(1)[0])
    body = {name: text(getattr(given, name)) for name in ("prepared", "signature", "sealed")}
    with closing(sqlite3.connect(box.path)) as reader:
        visitor = visitor_of(box)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sealed").fetchone()
        answer = await visitor.post("/v1/ratings", json={"epoch": NAME, **body})
        assert answer.json() == {"result": "kept"}
        assert (box.path.parent / "box.db-wal").stat().st_size > 0
    await EpochKeeper(box.context).look()
    assert (box.path.parent / "box.db-wal").stat().st_size == 0


async def test_after_the_window_seals_and_their_key_are_gone(box: Box) -> None:
    given = [box.given(rating) for rating in distinct(9)]
    await box.take(*given)
    locked = await box.context.store.read(lambda c: c.execute(select(EPOCH.c.seal_private)).scalar_one())
    assert locked in await box.content()
    await box.end()
    left = await box.content()
    assert locked not in left
    for each in given:
        assert each.sealed not in left
        assert each.prepared not in left
    assert (await box.count(SEALED), await box.count(OPENED), await box.count(RELEASE)) == (0, 9, 0)


async def test_a_release_keeps_figures_and_no_rating(box: Box) -> None:
    await box.take(*(box.given(rating) for rating in distinct(10)))
    await box.end()
    assert (await box.count(OPENED), await box.count(RELEASE)) == (0, 1)
    for rating in distinct(10):
        assert reports.payload(rating) not in await box.content()


async def test_what_cannot_be_read_or_has_no_token_is_counted(box: Box) -> None:
    await box.context.store.write(lambda unit: unit.conn.execute(EPOCH.update().values(issued=2)))
    unreadable = replace(box.given(distinct(1)[0]), sealed=secrets.token_bytes(sealing.SIZE))
    await box.take(unreadable, *(box.given(rating) for rating in distinct(3)))
    await box.end()
    doubtful = await box.context.store.read(lambda c: c.execute(select(EPOCH.c.doubtful)).scalar_one())
    assert doubtful == 2, "one unreadable, and three where two tokens were issued"
    figures = await box.context.store.read(lambda conn: SERVICE.status(conn, box.context.settings))
    assert figures == {"windows_open": 0, "releases": 0, "epochs_in_doubt": 1}


async def test_a_window_ends_to_the_second_even_before_it_is_opened(box: Box) -> None:
    given = box.given(distinct(1)[0])
    await box.clock.advance(days=1)
    with pytest.raises(ratings.NotOpen):
        await box.take(given)


async def test_the_browser_seals_what_the_box_opens(box: Box) -> None:
    rating = Rating((5, 4, 3, 0, 1), ("listening", "too_short"))
    given = {"items": dict(zip(ITEMS, rating.answers, strict=True)), "tags": list(rating.tags)}
    sealed = [from_text(drive("seal", [text(box.public), given])["sealed"]) for _ in range(2)]
    assert sealed[0] != sealed[1]
    locked = Sealer(box.secret).seal(box.private, NAME)
    assert sealing.open_batch(box.secret, NAME, locked, sealed) == ([rating, rating], 0)


def published(key: blind.SigningKey, **changes: Any) -> dict[str, Any]:
    shown = {"epoch": blind.epoch_of(key.spki), "fingerprint": blind.fingerprint(key.spki), "state": "issuing"}
    days = {"opened_on": "2026-11-21", "closed_on": None, "issued": None}
    return {**shown, **days, "key": base64.b64encode(key.spki).decode(), **changes}


def trusted(*epochs: dict[str, Any]) -> list[str]:
    return [epoch.epoch for epoch in PublishedEpochs.model_validate_json(json.dumps({"epochs": epochs})).trusted()]


def test_a_key_under_another_name_is_not_trusted() -> None:
    assert trusted(published(KEY)) == [NAME]
    assert trusted(published(KEY, fingerprint="0" * 64)) == []
    assert trusted(published(KEY, epoch="0" * 16)) == []


def test_two_keys_that_sign_at_once_are_not_trusted() -> None:
    """One key for each person would tell people apart by the key (DESIGN §7)."""
    other = blind.generate()
    assert trusted(published(KEY), published(other)) == []
    ended = published(KEY, state="rating", closed_on="2026-11-21", issued=20)
    assert trusted(ended, published(other)) == [NAME, blind.epoch_of(other.spki)]


async def test_pages_are_the_same_for_everybody_and_set_no_cookie(box: Box) -> None:
    visitor = visitor_of(box)
    for path in ("/", "/keep", "/rate", "/v1/epochs", "/v1/reports", "/box/keep.js"):
        answer = await visitor.get(path)
        assert answer.status_code == 200, path
        assert "set-cookie" not in answer.headers
        assert "leeward" not in answer.text.lower() or path.startswith("/box/")

"""Several replicas of incident on one database: what comes to two of them at once is what it is on one."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from leeward.service import Context
from leeward.web.app import create_app
from services.incident import SERVICE
from services.incident.decisions.claims import Identifier
from services.incident.intake import unmatched
from services.incident.models import METADATA
from services.incident.retention import delete_expired, resolve_known
from services.incident.review import queries
from services.incident.sealing import DayKeys
from tests.conftest import MakeContext
from tests.replicas import behind
from tests.services.incident.conftest import ANNA, BEN, STAFF, Desk, death, hl7, member
from tests.services.incident.review.test_review import doubt, unknown
from tests.services.incident.sources.test_api import REPORT, SAFETY

pytestmark = pytest.mark.database("postgresql")


@pytest.fixture
def other(desk: Desk, make_context: MakeContext) -> Desk:
    """Another process on the same database."""
    return Desk(make_context("incident", METADATA))


async def involved(desk: Desk) -> list[str]:
    """Who was published, whenever."""
    return [one["person_ref"] for _, body in await desk.events() for one in body.get("involved", ())]


async def test_the_same_death_from_two_feeds_is_one_incident(desk: Desk, other: Desk) -> None:
    late = other.send(death(ident="2", PV1_7="B2^Ben"))
    assert await behind(other.context.store, lambda: late, lambda: desk.send(death(ident="1"))) == ["AA"]
    assert await desk.kinds() == ["recorded", "amended"]
    assert await involved(desk) == [ANNA, BEN]


async def test_the_same_death_of_a_patient_known_before_is_one_incident(desk: Desk, other: Desk) -> None:
    await desk.send(hl7("A01", ident="0"))
    late = other.send(death(ident="2", PV1_7="B2^Ben"))
    await behind(other.context.store, lambda: late, lambda: desk.send(death(ident="1")))
    assert await desk.kinds() == ["recorded", "amended"]


async def test_the_same_message_twice_at_once_is_answered_alike_and_counts_once(desk: Desk, other: Desk) -> None:
    message = death()
    answers = await asyncio.gather(*(one.send(message) for one in (desk, other) * 10))
    assert answers == [["AA"]] * 20
    assert await desk.kinds() == ["recorded"]
    assert len(await desk.rows("seen")) == len(await desk.rows("raw_message")) == 1


async def test_many_deaths_at_once_are_each_recorded_once(desk: Desk, other: Desk) -> None:
    sent = [
        one.send(death(ident=f"{n} {copy}", PID_3=f"P{n}^^^HOSP", PV1_7=("A1", "B2", "ZZ")[copy % 3]))
        for n in range(12)
        for copy, one in enumerate((desk, other, desk, other))
    ]
    assert await asyncio.gather(*sent) == [["AA"]] * 48
    assert await desk.states() == ["recorded"] * 12
    assert sorted(await desk.kinds()) == ["amended"] * 12 + ["recorded"] * 12
    [waiting] = await desk.rows("unmatched")
    links = await desk.rows("unmatched_link")
    assert {row.unmatched_ref for row in links} == {waiting.unmatched_ref}
    assert len(links) == 12


async def test_the_key_of_a_day_is_one(desk: Desk, other: Desk) -> None:
    late = other.send(hl7("A01", ident="2", PID_3="2^^^HOSP"))
    await behind(other.context.store, lambda: late, lambda: desk.send(hl7("A01", ident="1")))
    [key] = await desk.rows("day_key")
    raw = await desk.rows("raw_message")
    assert [row.key_ref for row in raw] == [key.key_ref] * 2
    keys = DayKeys(desk.context.keys)
    box = await desk.context.store.read(lambda conn: keys.open(conn, key.key_ref))
    assert box is not None
    assert all(box.open(row.sealed, row.raw_ref).startswith(b"MSH") for row in raw)


@pytest_asyncio.fixture
async def door(other: Desk) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the other replica."""
    transport = httpx.ASGITransport(app=create_app(other.context, SERVICE.build(other.context).router))
    async with httpx.AsyncClient(transport=transport, base_url="http://other") as client:
        yield client


@pytest.mark.parametrize("keys", [("k", "k"), ("one", "two")])
async def test_one_report_at_two_doors_is_one_incident(
    desk: Desk, web: httpx.AsyncClient, other: Desk, door: httpx.AsyncClient, keys: tuple[str, str]
) -> None:
    """By its idempotency key; and by the source's own reference, where the sender draws a new key each time."""
    posts = [
        one.post("/v1/incidents", headers={**SAFETY, "Idempotency-Key": key}, content=json.dumps(REPORT))
        for one, key in zip((web, door) * 5, keys * 5, strict=False)
    ]
    answers = await asyncio.gather(*posts)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["receipt"] for answer in answers}) == len(set(keys))
    assert await desk.kinds() == ["recorded"]


async def test_an_identifier_settled_while_another_message_names_it_serves_both(desk: Desk, other: Desk) -> None:
    await unknown(desk, "ZZ9")
    [row] = await desk.rows("unmatched")
    settled = desk.context.store.write(lambda unit: unmatched.add_alias(unit, row.key_hash, BEN))
    late = other.send(death(ident="2", PID_3="other^^^HOSP", PV1_7="ZZ9"))
    await behind(other.context.store, lambda: late, lambda: settled)
    assert await involved(desk) == [BEN, BEN]
    assert await desk.rows("unmatched") == await desk.rows("unmatched_link") == []


async def test_an_identifier_named_again_while_it_is_settled_serves_both(desk: Desk, other: Desk) -> None:
    await unknown(desk, "ZZ9")
    [row] = await desk.rows("unmatched")
    settled = other.context.store.write(
        lambda unit: unmatched.settle_identifier(unit, row.unmatched_ref, staff_fingerprint(desk))
    )
    named = desk.send(death(ident="2", PID_3="other^^^HOSP", PV1_7="ZZ9"))
    await behind(other.context.store, lambda: settled, lambda: named)
    assert await involved(desk) == [BEN, BEN]
    assert await desk.rows("unmatched") == await desk.rows("unmatched_link") == []


def staff_fingerprint(desk: Desk) -> str:
    return desk.hasher.of_staff(Identifier("ehr", "B2"))


async def test_an_identifier_imported_while_a_message_names_it_is_served_within_the_hour(
    desk: Desk, other: Desk
) -> None:
    newcomer = member(BEN, ("ehr", "B2"), ("ehr", "ZZ9"))
    imported = desk.import_roster([STAFF[0], newcomer, STAFF[2]])
    late = other.send(death(PV1_7="ZZ9"))
    await behind(other.context.store, lambda: late, lambda: imported)
    await desk.context.store.write(resolve_known)
    assert await involved(desk) == [BEN]
    assert await desk.rows("unmatched") == []


@pytest.mark.parametrize("late", ["confirm", "settle"])
async def test_whoever_is_settled_while_a_doubt_is_confirmed_is_told(desk: Desk, other: Desk, late: str) -> None:
    ref = await doubt(desk, PV1_7="A1", PV1_17="ZZ9")
    [row] = await desk.rows("unmatched")
    one, two = (other, desk) if late == "confirm" else (desk, other)
    confirmed = one.context.store.write(lambda unit: queries.confirm_incident(unit, ref))
    settled = two.context.store.write(
        lambda unit: unmatched.settle_identifier(unit, row.unmatched_ref, staff_fingerprint(desk))
    )
    steps = (confirmed, settled) if late == "confirm" else (settled, confirmed)
    await behind(other.context.store, lambda: steps[0], lambda: steps[1])
    assert sorted(await involved(desk)) == [ANNA, BEN]


@pytest.mark.parametrize("late", ["confirm", "message"])
async def test_whoever_a_message_names_while_a_doubt_is_confirmed_is_told(desk: Desk, other: Desk, late: str) -> None:
    await desk.send(death(ident="1", PV1_45="20261001080000"))
    [row] = await desk.rows("incident")
    assert (row.state, row.reasons) == ("review", "discharged_dead older")
    one, two = (other, desk) if late == "confirm" else (desk, other)
    confirmed = one.context.store.write(lambda unit: queries.confirm_incident(unit, row.incident_ref))
    named = two.send(death(ident="2", PV1_45="20261001080000", PV1_7="B2^Ben"))
    steps = (confirmed, named) if late == "confirm" else (named, confirmed)
    await behind(other.context.store, lambda: steps[0], lambda: steps[1])
    assert sorted(await involved(desk)) == [ANNA, BEN]


async def test_people_added_while_it_is_taken_back_leave_nothing_behind(desk: Desk, other: Desk) -> None:
    await desk.send(death(ident="1"))
    late = other.send(death(ident="2", PV1_7="B2^Ben"))
    await behind(other.context.store, lambda: late, lambda: desk.send(hl7("A11", ident="3")))
    # taken back first, the second feed's word is a new incident
    assert await desk.states() == ["recorded", "retracted"]
    kept = {row.incident_ref for row in await desk.rows("involved")}
    recorded = {row.incident_ref for row in await desk.rows("incident") if row.state == "recorded"}
    assert kept == recorded


async def test_a_death_of_a_patient_who_is_merged_away_at_that_moment_is_one(desk: Desk, other: Desk) -> None:
    await desk.send(hl7("A01", ident="1", PID_3="OLD^^^HOSP"))
    await desk.send(death(ident="2", PID_3="NEW^^^HOSP"))
    late = other.send(death(ident="4", PID_3="OLD^^^HOSP", PV1_7="B2^Ben"))
    merge = desk.send(hl7("A40", ident="3", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP"))
    await behind(other.context.store, lambda: late, lambda: merge)
    assert await desk.kinds() == ["recorded", "amended"]
    assert len(await desk.rows("patient")) == 1


async def test_confirmed_by_two_it_is_published_once(desk: Desk, other: Desk) -> None:
    ref = await doubt(desk)
    work = [one.context.store.write(lambda unit: queries.confirm_incident(unit, ref)) for one in (desk, other)]
    rows = [await behind(other.context.store, lambda: work[1], lambda: work[0])]
    assert rows[0].state == "recorded"
    assert await desk.kinds() == ["recorded"]


async def test_dismissed_by_one_it_is_not_confirmed_by_another(desk: Desk, other: Desk) -> None:
    ref = await doubt(desk)
    dismiss = desk.context.store.write(lambda unit: queries.dismiss_incident(unit, ref))
    confirm = other.context.store.write(lambda unit: queries.confirm_incident(unit, ref))
    with pytest.raises(queries.Settled):
        await behind(other.context.store, lambda: confirm, lambda: dismiss)
    assert await desk.kinds() == []


async def test_rounds_of_retention_at_once_disturb_nobody(desk: Desk, make_context: MakeContext) -> None:
    await desk.send(death())
    await desk.context.clock.advance(days=401)  # type: ignore[attr-defined]
    grounds: list[Context] = [make_context("incident", METADATA) for _ in range(3)]
    await asyncio.gather(*(context.store.write(delete_expired) for context in grounds))
    for name in ("incident", "patient", "patient_key", "seen", "raw_message", "day_key", "involved"):
        assert await desk.rows(name) == [], name

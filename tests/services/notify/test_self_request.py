"""Asking for oneself or a colleague: an address proved by a code, and nothing that tells a stranger who works here."""

import re

from leeward.contracts import HelpRequested
from services.notify.models import CODE
from tests.services.notify.world import ANNA, SAM, World


def ticket(page: str) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', page)
    assert found
    return found[1]


def without_ticket(page: str) -> str:
    return page.replace(ticket(page), "…")


async def code_by_mail(world: World, address: str = "anna@hospital.example") -> tuple[str, str]:
    page = await world.client.post("/ask", data={"address": address})
    await world.mailed(1)
    digits = re.search(r"\b(\d{8})\b", world.mail.mails[0].get_content())
    assert digits
    return ticket(page.text), digits[1]


async def test_for_myself(world: World) -> None:
    page = await world.client.get("/ask")
    assert page.text.index("Night Line") < page.text.index("Your work e-mail address")
    opaque, digits = await code_by_mail(world, "Anna@Hospital.example")
    page = await world.client.post("/ask", data={"ticket": opaque, "code": f"{digits[:4]} {digits[4:]}"})
    assert "Who is it for?" in page.text
    page = await world.client.post("/ask", data={"ticket": opaque, "for": "myself"})
    assert "comes to your address" in page.text
    assert [event for event in world.told if isinstance(event, HelpRequested)] == [
        HelpRequested(recipient_ref=ANNA.recipient_ref, urgency="urgent")
    ]


async def test_for_a_colleague_and_the_answer_is_the_same_for_an_address_that_is_not_there(world: World) -> None:
    seen = []
    for colleague in ("sam@hospital.example", "stranger@hospital.example"):
        world.mail.received.clear()
        opaque, digits = await code_by_mail(world)
        await world.client.post("/ask", data={"ticket": opaque, "code": digits})
        page = await world.client.post("/ask", data={"ticket": opaque, "for": "colleague", "colleague": colleague})
        seen.append(page.text)
    assert seen[0] == seen[1]
    asked = [event for event in world.told if isinstance(event, HelpRequested)]
    assert asked == [HelpRequested(recipient_ref=SAM.recipient_ref, urgency="routine")]


async def test_strangers_cannot_tell_whether_an_address_exists(world: World) -> None:
    known = await world.client.post("/ask", data={"address": "anna@hospital.example"})
    strange = await world.client.post("/ask", data={"address": "nobody@hospital.example"})
    assert known.status_code == strange.status_code == 200
    assert without_ticket(known.text) == without_ticket(strange.text)
    wrong = [
        await world.client.post("/ask", data={"ticket": ticket(page.text), "code": "00000000"})
        for page in (known, strange)
    ]
    assert wrong[0].status_code == wrong[1].status_code == 422
    assert without_ticket(wrong[0].text) == without_ticket(wrong[1].text)
    await world.mailed(1)


async def test_a_code_has_five_tries(world: World) -> None:
    opaque, digits = await code_by_mail(world)
    for _ in range(5):
        wrong = f"{(int(digits) + 1) % 10**8:08d}"
        assert (await world.client.post("/ask", data={"ticket": opaque, "code": wrong})).status_code == 422
    assert (await world.client.post("/ask", data={"ticket": opaque, "code": digits})).status_code == 422


async def test_a_code_ends_after_a_quarter_of_an_hour_and_after_one_use(world: World) -> None:
    opaque, digits = await code_by_mail(world)
    assert (await world.client.post("/ask", data={"ticket": opaque, "code": digits})).status_code == 200
    assert (await world.client.post("/ask", data={"ticket": opaque, "for": "myself"})).status_code == 200
    assert (await world.client.post("/ask", data={"ticket": opaque, "for": "myself"})).status_code == 410
    world.mail.received.clear()
    opaque, digits = await code_by_mail(world)
    await world.clock.advance(minutes=16)
    assert (await world.client.post("/ask", data={"ticket": opaque, "code": digits})).status_code == 422


async def test_without_a_code_nothing_can_be_asked(world: World) -> None:
    page = await world.client.post("/ask", data={"address": "anna@hospital.example"})
    for whom in ("myself", "colleague", "manager"):
        form = {"ticket": ticket(page.text), "for": whom, "colleague": "sam@hospital.example"}
        assert (await world.client.post("/ask", data=form)).status_code == 410
    assert not [event for event in world.told if isinstance(event, HelpRequested)]


async def test_an_address_gets_five_codes_an_hour(world: World) -> None:
    pages = [await world.client.post("/ask", data={"address": "anna@hospital.example"}) for _ in range(7)]
    assert {page.status_code for page in pages} == {200}
    await world.mailed(5)


async def test_a_flood_is_slowed_down_with_the_numbers_still_there(world: World) -> None:
    for n in range(120):
        await world.client.post("/ask", data={"address": f"n{n}@hospital.example"})
    page = await world.client.post("/ask", data={"address": "anna@hospital.example"})
    assert page.status_code == 429
    assert "tel:112" in page.text
    assert 'value="anna@hospital.example"' in page.text


async def test_what_is_no_address_is_said_beside_it_and_kept(world: World) -> None:
    page = await world.client.post("/ask", data={"address": "anna at home"})
    assert page.status_code == 422
    assert "This does not look like an e-mail address." in page.text
    assert 'value="anna at home"' in page.text


async def test_neither_codes_nor_addresses_are_stored_in_clear(world: World) -> None:
    _, digits = await code_by_mail(world)
    stored = str(await world.rows(CODE))
    assert digits not in stored
    assert "anna" not in stored

"""What a supporter sees: nobody before the confirm, one person after it, and a form without prose at the end."""

import pytest

from leeward.contracts import CaseErased
from leeward.people import Member
from services.notify.models import QUESTION
from tests.services.notify.questions.forms import ACCEPT, CLOSE, answers_on
from tests.services.notify.world import ANNA, SAM, World


async def test_a_supporter_sees_who_it_is_after_the_confirm_alone(world: World) -> None:
    offer = await world.asks(ANNA)
    [anna] = await world.mailed()
    persons = world.browser()
    await persons.post(anna, data=ACCEPT)
    await world.asks(SAM, "supporter_request", case_ref=offer.case_ref, step="request-1", options={"when": "hours"})
    _, sam = await world.mailed(2)
    world.http.asked.clear()
    page = await world.client.get(sam)
    assert answers_on(page.text) == ["confirm", "pass"]
    assert "Somebody would like to talk, in some hours." in page.text
    assert "Anna" not in page.text
    assert world.http.asked == []

    world.http.introduced = {SAM.recipient_ref: ANNA.recipient_ref, ANNA.recipient_ref: SAM.recipient_ref}
    page = await world.client.post(sam, data={"answer": "confirm"})
    assert "Anna" in page.text
    assert "Weber" not in page.text
    assert "+44 20 7946 0001" in page.text
    assert "anna@hospital.example" not in page.text
    assert world.http.asked[-1].startswith("Bearer ")
    assert answers_on(page.text) == ["close", "hand_over", "urgent_help"]
    assert "Anna" not in (await world.browser().get(sam)).text

    page = await persons.get(anna)
    assert "Sam Field gets in touch with you." in page.text
    assert "I have worked nights for ten years." in page.text


async def test_without_matching_the_page_says_so_and_keeps_its_choices(world: World) -> None:
    await world.asks(SAM, "supporter_request", step="request-1")
    [sam] = await world.mailed()
    page = await world.client.post(sam, data={"answer": "confirm"})
    assert "We cannot show this at the moment." in page.text
    assert "hand_over" in answers_on(page.text)


async def test_closing_is_coded_and_whole(world: World) -> None:
    await world.asks(SAM, "supporter_request", step="request-1")
    [sam] = await world.mailed()
    await world.client.post(sam, data={"answer": "confirm"})
    form = {"answer": "close", "channel": "phone", "duration": "15_45", "contacts": "2", "referral": "none"}
    page = await world.client.post(sam, data=form)
    assert page.status_code == 422
    assert 'value="phone" checked' in page.text
    page = await world.client.post(sam, data={**form, "strain": "4"})
    assert "How are you?" in page.text
    coded = {"channel": "phone", "duration": "15_45", "contacts": "2", "referral": "none", "strain": "4"}
    assert world.answers()[-1] == ("close", coded)


async def test_the_last_page_stays_for_a_day_however_fast_the_case_moves_on(world: World) -> None:
    asked = await world.asks(SAM, "supporter_request", step="request-1")
    [sam] = await world.mailed()
    await world.client.post(sam, data={"answer": "pass"}, follow_redirects=False)
    await world.cancels(asked)
    page = await world.client.get(sam)
    assert page.status_code == 200
    assert "Nobody asks you why." in page.text
    await world.clock.advance(hours=25)
    assert (await world.client.get(sam)).status_code in (404, 410)


@pytest.mark.parametrize(
    ("who", "template", "answers"),
    [(SAM, "supporter_request", ({"answer": "confirm"}, CLOSE)), (ANNA, "check_in", ({"answer": "no_thanks"},))],
)
async def test_the_answer_that_closes_a_case_ends_on_its_page_though_the_case_is_erased(
    world: World, who: Member, template: str, answers: tuple[dict[str, str], ...]
) -> None:
    asked = await world.asks(who, template, step="request-1")
    [link] = await world.mailed()
    for form in answers:
        await world.client.post(link, data=form, follow_redirects=False)
    await world.cancels(asked)
    await world.happens(CaseErased(case_ref=asked.case_ref))
    assert (await world.client.get(link)).status_code == 200
    assert asked.case_ref not in str(await world.rows(QUESTION))
    await world.clock.advance(hours=25)
    assert (await world.client.get(link)).status_code in (404, 410)


async def test_a_case_given_to_somebody_else_is_out_of_sight_at_once(world: World) -> None:
    asked = await world.asks(SAM, "supporter_request", step="request-1")
    [sam] = await world.mailed()
    world.http.introduced = {SAM.recipient_ref: ANNA.recipient_ref}
    assert "Anna" in (await world.client.post(sam, data={"answer": "confirm"})).text
    await world.cancels(asked)
    assert (await world.client.get(sam)).status_code == 404


@pytest.mark.parametrize("answer", ["pass", "hand_over"])
async def test_a_supporter_may_step_back_in_one_click(world: World, answer: str) -> None:
    await world.asks(SAM, "supporter_request", step="request-1")
    [sam] = await world.mailed()
    if answer == "hand_over":
        await world.client.post(sam, data={"answer": "confirm"})
    page = await world.client.post(sam, data={"answer": answer})
    assert page.status_code == 200
    assert world.answers()[-1] == (answer, {})

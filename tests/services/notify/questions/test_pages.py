"""What a person and a supporter see and choose, through the forms of the pages as served."""

import pytest

from leeward.contracts import Answered
from leeward.settings.keys import keyring
from services.notify.models import QUESTION
from tests.services.notify.conftest import LINES, POLICY, MakeWorld
from tests.services.notify.questions.forms import ACCEPT, answers_on
from tests.services.notify.world import ANNA, SAM, World

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def test_the_offer_says_what_it_must_and_offers_every_answer(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    page = (await world.client.get(link)).text
    assert answers_on(page) == ["accept", "another", "not_now", "no_thanks", "talk_now"]
    assert "It says nothing about what you did, and no review sees it." in page
    assert "Leave this page" in page
    assert 'value="hours" required' in page
    assert "checked" not in page


async def test_opening_a_page_changes_nothing_whoever_opens_it(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    before = await world.rows(QUESTION)
    for method in ("GET", "HEAD", "GET"):
        answer = await world.browser().request(method, link)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert await world.rows(QUESTION) == before
    assert world.answers() == []


async def test_yes_with_a_time_and_a_way_is_one_post(world: World) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    page = await world.client.post(link, data=ACCEPT)
    assert page.status_code == 200
    assert "In some hours, someone reaches you by phone." in page.text
    assert "they don&#39;t know who you are" in page.text
    assert answers_on(page.text) == ["another", "not_contacted", "check_ins", "withdraw", "talk_now"]
    told = next(event for event in world.told if isinstance(event, Answered))
    assert (told.request_ref, told.case_ref) == (asked.request_ref, asked.case_ref)
    # how they are reached is nobody's business but the supporter's
    assert world.answers() == [("accept", {"when": "hours"})]


async def test_a_yes_without_a_time_keeps_what_was_chosen_and_says_what_is_missing(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    page = await world.client.post(link, data={"answer": "accept", "how": "email"})
    assert page.status_code == 422
    assert "Please choose when." in page.text
    assert 'value="email" required checked' in page.text
    assert world.answers() == []


async def test_no_is_one_click_and_can_be_taken_back_for_a_day(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    page = await world.client.post(link, data={"answer": "no_thanks"})
    assert "We won&#39;t write about this again." in page.text
    assert world.answers() == [("ended", {})]
    assert "undo" in answers_on(page.text)
    page = await world.client.post(link, data={"answer": "undo"})
    assert "accept" in answers_on(page.text)
    await world.client.post(link, data=ACCEPT)
    assert world.answers() == [("ended", {}), ("accept", {"when": "hours"})]


async def test_after_a_day_a_no_stands(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": "no_thanks"})
    await world.clock.advance(hours=25)
    page = await world.client.get(link)
    assert "undo" not in answers_on(page.text)
    await world.client.post(link, data={"answer": "undo"})
    assert (await world.rows(QUESTION))[0].state == "declined"


async def test_not_now_asks_when_again(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    page = await world.client.post(link, data={"answer": "not_now", "again": "month"})
    assert "We write once more in a month." in page.text
    assert world.answers() == [("not_now", {"again": "month"})]
    await world.client.post(link, data=ACCEPT)
    assert world.answers()[-1] == ("accept", {"when": "hours"})


@pytest.mark.parametrize("answer", ["another", "not_contacted", "check_ins", "withdraw"])
async def test_every_choice_after_a_yes_is_told(world: World, answer: str) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    page = await world.client.post(link, data={"answer": answer})
    assert page.status_code == 200
    assert world.answers()[-1] == ("ended" if answer == "withdraw" else answer, {})


async def test_the_same_form_sent_twice_is_one_answer(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    for _ in range(2):
        assert (await world.client.post(link, data=ACCEPT)).status_code == 200
    assert len(world.answers()) == 1


async def test_after_the_first_answer_a_second_browser_sees_nothing(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    other = world.browser()
    page = await other.get(link)
    assert page.status_code == 410
    assert "This link has ended." in page.text
    assert "Night Line" in page.text
    assert "accept" not in page.text
    await other.post(link, data={"answer": "withdraw"})
    assert world.answers() == [("accept", {"when": "hours"})]


async def test_a_new_link_comes_by_mail_and_moves_the_page(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    phone = world.browser()
    said = await phone.post(link, data={"answer": "new_link"})
    assert "a new link is on its way" in said.text
    _, renewed = await world.mailed(2)
    assert renewed != link
    assert "Open it here" in (await phone.get(renewed)).text
    page = await phone.post(renewed, data={"answer": "open"})
    assert "withdraw" in answers_on(page.text)
    assert "This link has ended." in (await world.client.get(link)).text


async def test_a_new_link_is_sent_three_times_a_day_and_looks_the_same_the_fourth(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    said = [await world.browser().post(link, data={"answer": "new_link"}) for _ in range(5)]
    assert len({page.text for page in said}) == 1
    await world.mailed(4)


async def test_a_link_that_never_was_gets_the_same_kind_page(world: World) -> None:
    page = await world.client.get("/m/" + "A" * 32)
    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert "Nothing is lost." in page.text
    assert 'href="/ask"' in page.text
    said = await world.client.post("/m/" + "A" * 32, data={"answer": "new_link"})
    assert "If there is something to open" in said.text
    assert world.mail.mails == []


async def test_a_link_ends_with_its_question(world: World) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await world.cancels(asked)
    assert (await world.client.get(link)).status_code == 404
    unanswered = await world.asks(ANNA)
    await world.mailed(2)
    await world.clock.advance(days=15)
    assert (await world.client.get(world.links[1])).status_code in (404, 410)
    assert unanswered.request_ref not in {getattr(event, "answer", None) for event in world.told}


async def test_the_cookie_is_secure_exactly_where_the_address_is(make_world: MakeWorld) -> None:
    world = await make_world(LEEWARD_PUBLIC_URL="https://notify.test")
    await world.asks(ANNA)
    [link] = await world.mailed()
    answer = await world.client.post(link, data={"answer": "no_thanks"}, follow_redirects=False)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"].lower()
    assert "secure" in cookie
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


async def test_the_cookie_is_plain_over_plain_http(world: World) -> None:
    await world.asks(ANNA)
    [link] = await world.mailed()
    answer = await world.client.post(link, data={"answer": "no_thanks"}, follow_redirects=False)
    assert "secure" not in answer.headers["set-cookie"].lower()


async def test_check_ins_and_monthly_notes_can_be_ended_and_taken_back(world: World) -> None:
    await world.asks(ANNA, "monthly_offer")
    [link] = await world.mailed()
    page = await world.client.post(link, data={"answer": "check_ins"})
    assert "We ask once a month" in page.text
    page = await world.client.post(link, data={"answer": "no_thanks"})
    assert "undo" in answers_on(page.text)
    await world.asks(ANNA, "check_in", step="check_in_72h")
    _, check = await world.mailed(2)
    assert answers_on((await world.client.get(check)).text) == ["accept", "no_thanks", "talk_now"]
    await world.client.post(check, data=ACCEPT)
    assert [answer for answer, _ in world.answers()] == ["check_ins", "ended", "accept"]


async def test_who_talks_again_after_the_end_is_reached_as_they_chose_there(world: World) -> None:
    await world.asks(ANNA, "follow_up")
    [link] = await world.mailed()
    page = await world.client.post(link, data=ACCEPT)
    assert answers_on(page.text) == ["another", "not_contacted", "withdraw", "keep", "talk_now"]
    await world.asks(SAM, "supporter_request", step="request-1")
    _, sam = await world.mailed(2)
    world.http.introduced = {SAM.recipient_ref: ANNA.recipient_ref}
    page = await world.browser().post(sam, data={"answer": "confirm"})
    assert ANNA.mobile in page.text
    assert ANNA.email not in page.text


async def test_an_old_choice_on_a_page_that_asks_anew_does_not_count(world: World) -> None:
    offer = await world.asks(ANNA)
    [first] = await world.mailed()
    await world.client.post(first, data=ACCEPT)
    await world.client.post(first, data={"answer": "withdraw"})
    await world.asks(ANNA, case_ref=offer.case_ref, step="asked")
    await world.mailed(2)
    await world.asks(ANNA, "follow_up")
    *_, again = await world.mailed(3)
    await world.browser().post(again, data={**ACCEPT, "how": "email"})
    await world.asks(SAM, "supporter_request", step="request-1")
    *_, sam = await world.mailed(4)
    world.http.introduced = {SAM.recipient_ref: ANNA.recipient_ref}
    page = await world.browser().post(sam, data={"answer": "confirm"})
    assert ANNA.email in page.text
    assert ANNA.mobile not in page.text


@pytest.mark.parametrize("template", ["follow_up", "check_in"])
async def test_talking_again_can_be_stopped_on_its_own_page(world: World, template: str) -> None:
    await world.asks(ANNA, template)
    [link] = await world.mailed()
    await world.client.post(link, data=ACCEPT)
    page = await world.client.post(link, data={"answer": "withdraw"})
    assert "It has stopped." in page.text
    assert world.answers() == [("accept", {"when": "hours"}), ("ended", {})]


async def test_after_several_talks_professional_help_is_suggested(world: World) -> None:
    await world.asks(ANNA, "follow_up", options={"suggest": "professional"})
    [link] = await world.mailed()
    page = (await world.client.get(link)).text
    assert "a professional can help in other ways" in page
    assert "Staff counselling" in page
    await world.asks(ANNA, "follow_up")
    _, plain = await world.mailed(2)
    assert "Staff counselling" not in (await world.client.get(plain)).text


async def test_keep_leads_to_the_box_with_a_signed_word_in_the_fragment(make_world: MakeWorld) -> None:
    from joserfc import jwt
    from joserfc.jwk import OKPKey

    world = await make_world(LEEWARD_BOX_URL="http://box.test")
    asked = await world.asks(ANNA, "follow_up")
    [link] = await world.mailed()
    page = await world.client.get(link)
    assert "form-action 'self' http://box.test" in page.headers["content-security-policy"]
    answer = await world.client.post(link, data={"answer": "keep"}, follow_redirects=False)
    assert answer.status_code == 303
    address, _, assertion = answer.headers["location"].partition("#")
    assert address == "http://box.test/keep"
    key = OKPKey.import_key(keyring(world.context.settings, "issuer").assertion_public_key)
    claims = jwt.decode(assertion, key, algorithms=["Ed25519"]).claims
    assert claims["case_ref"] == asked.case_ref
    assert claims["exp"] - claims["iat"] == 900
    assert world.answers() == []


async def test_cover_leads_to_the_box_and_asks_nothing(world: World) -> None:
    await world.asks(ANNA, "cover", step="cover-202611")
    [link] = await world.mailed()
    page = await world.client.get(link)
    assert answers_on(page.text) == []
    assert f'href="{world.context.settings.box_url}/"' in page.text


async def test_the_public_pages_open_for_everybody(world: World) -> None:
    for path in ("/resources", "/privacy", "/ask", "/"):
        page = await world.client.get(path)
        assert page.status_code == 200
        assert "Night Line" in page.text
        assert "tel:+448000000000" in page.text
        assert "Works council" in page.text


async def test_supporters_are_listed_for_our_own_services_alone(world: World) -> None:
    assert (await world.client.get("/v1/supporters")).status_code == 401
    listed = await world.client.get("/v1/supporters", headers=world.context.call_headers())
    assert listed.json()["items"] == [{"recipient_ref": SAM.recipient_ref, "display_name": "Sam Field"}]


async def test_in_rehearsal_nothing_is_sent_and_there_is_no_page(make_world: MakeWorld) -> None:
    world = await make_world(POLICY.replace('"live"', '"rehearsal"') + LINES.split("[emergency", maxsplit=1)[0])
    await world.asks(ANNA)
    await world.clock.advance(hours=1)
    assert world.mail.connections == 0
    assert world.outcomes() == []
    assert await world.rows(QUESTION) == []

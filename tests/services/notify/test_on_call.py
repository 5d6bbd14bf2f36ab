"""I need somebody now: the numbers at once, and the professional on duty until one says that they are there."""

from leeward.contracts import CaseErased
from leeward.testing import eventually
from tests.services.notify.conftest import PEOPLE_TO_CALL, POLICY, MakeWorld
from tests.services.notify.world import ANNA, SAM, World


async def urgent(make_world: MakeWorld, policy: str = POLICY + PEOPLE_TO_CALL) -> tuple[World, str]:
    world = await make_world(policy)
    await world.asks(ANNA)
    [link] = await world.mailed()
    return world, link


async def test_one_tap_shows_the_numbers_and_calls_everybody_on_duty(make_world: MakeWorld) -> None:
    world, link = await urgent(make_world)
    page = (await world.client.post(link, data={"answer": "talk_now"})).text
    top = page.split("<h1>A colleague")[0]
    for number in ("tel:112", "tel:+448000000000", "sms:85258", "tel:+442079460100"):
        assert number in top
    assert "We have also asked the duty professional" in top
    assert 'value="accept"' in page
    assert world.answers() == [("talk_now", {})]
    await world.mailed(3)
    assert {to for _, to in world.mail.envelopes[1:]} == {"duty@hospital.example", "second@hospital.example"}
    assert all("Anna" not in mail.get_content() for mail in world.mail.mails)


async def test_rounds_go_out_until_one_acknowledges(make_world: MakeWorld) -> None:
    world, link = await urgent(make_world)
    await world.client.post(link, data={"answer": "talk_now"})
    await world.mailed(3)
    await world.clock.advance(minutes=5)
    await world.fire_timers()
    links = await world.mailed(5)
    professional = world.browser()
    page = await professional.get(links[-1])
    assert "Somebody may call you now." in page.text
    page = await professional.post(links[-1], data={"answer": "acknowledge"})
    assert "Nobody else is asked any more." in page.text
    await world.clock.advance(minutes=5)
    await world.fire_timers()
    await world.mailed(5)
    assert world.answers() == [("talk_now", {})]


async def test_after_six_rounds_of_silence_the_coordinator_hears_and_a_new_tap_calls_again(
    make_world: MakeWorld,
) -> None:
    world, link = await urgent(make_world)
    await world.client.post(link, data={"answer": "talk_now"})
    for _ in range(6):
        await world.clock.advance(minutes=5)
        await world.fire_timers()
    await world.mailed(1 + 12)
    assert world.answers() == [("talk_now", {}), ("talk_now", {"unacknowledged": "yes"})]
    await world.client.post(link, data={"answer": "talk_now"})
    await world.mailed(1 + 12 + 2)


async def test_tapping_twice_calls_once(make_world: MakeWorld) -> None:
    world, link = await urgent(make_world)
    for _ in range(3):
        await world.client.post(link, data={"answer": "talk_now"})
    await world.mailed(3)


async def test_with_nobody_to_call_the_numbers_show_and_the_coordinator_hears_at_once(make_world: MakeWorld) -> None:
    world, link = await urgent(make_world, POLICY)
    page = await world.client.post(link, data={"answer": "talk_now"})
    assert "tel:112" in page.text
    assert "We have also asked" not in page.text.split("<h1>A colleague")[0]
    assert world.answers() == [("talk_now", {}), ("talk_now", {"unacknowledged": "yes"})]


async def test_a_supporter_gets_help_as_fast(make_world: MakeWorld) -> None:
    world = await make_world(POLICY + PEOPLE_TO_CALL)
    await world.asks(SAM, "supporter_request", step="request-1")
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": "confirm"})
    page = await world.client.post(link, data={"answer": "urgent_help"})
    assert "You can call right now." in page.text
    await world.mailed(3)
    await eventually(lambda: world.answers()[-1] == ("urgent_help", {}))


async def test_help_is_called_for_until_somebody_is_there_though_the_case_is_over(make_world: MakeWorld) -> None:
    world = await make_world(POLICY + PEOPLE_TO_CALL)
    asked = await world.asks(SAM, "supporter_request", step="request-1")
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": "confirm"})
    await world.client.post(link, data={"answer": "urgent_help"})
    await world.mailed(3)
    await world.happens(CaseErased(case_ref=asked.case_ref))
    await world.clock.advance(minutes=5)
    await world.fire_timers()
    links = await world.mailed(5)
    await world.browser().post(links[-1], data={"answer": "acknowledge"})
    await world.clock.advance(minutes=5)
    await world.fire_timers()
    await world.mailed(5)

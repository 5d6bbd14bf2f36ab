"""From a request to a hand-off: once each, whatever the other side and the machine do."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from standardwebhooks.webhooks import Webhook

from leeward.contracts import CaseErased, DeliveryOutcome, Event, MessageRequested, ReachabilityChanged, bucket_up
from leeward.store import Unit
from leeward.testing import eventually
from services.notify.models import DELIVERY, LINK, QUESTION, RECIPIENT
from tests.services.notify.conftest import POLICY, MakeWorld
from tests.services.notify.world import ANNA, SAM, WEBHOOK_SECRET, World, link, member, when

pytestmark = pytest.mark.database("sqlite", "postgresql")

QUIET = '[outreach]\nmode = "live"\njitter = "0s"\n'


async def test_one_neutral_mail_and_one_outcome(world: World) -> None:
    await world.asks(ANNA)
    await world.mailed()
    await eventually(lambda: world.outcomes() == ["handed_off"])
    assert world.mail.envelopes == [("note@mail.example", "anna@hospital.example")]
    mail = world.mail.mails[0]
    assert mail.get_content().startswith("You have a message. Open it when it suits you.")
    assert len(link(mail)) >= len("/m/") + 22


async def test_the_token_stands_nowhere_in_the_database(world: World) -> None:
    await world.asks(ANNA)
    [path] = await world.mailed()
    token = path.removeprefix("/m/")
    for table in (LINK, QUESTION, DELIVERY):
        assert all(token not in str(row) for row in await world.rows(table))


async def test_a_batch_goes_out_over_few_kept_connections(world: World) -> None:
    people = [member(f"p{n}") for n in range(60)]
    await world.people(ANNA, SAM, *people)
    await world.happens(*(world.request(person) for person in people))
    await world.mailed(60)
    assert world.mail.connections <= 8
    await eventually(lambda: len(world.outcomes()) == 60)
    assert len(set(world.mail.ids())) == 60


async def test_the_same_step_of_the_same_case_is_handed_off_once(world: World) -> None:
    asked = await world.asks(ANNA)
    await world.mailed()
    await eventually(lambda: len(world.outcomes()) == 1)
    await world.asks(ANNA, case_ref=asked.case_ref)
    await world.mailed(1)
    assert world.outcomes() == ["handed_off", "handed_off"]


async def test_a_reminder_leads_to_the_same_question_and_is_dropped_after_an_answer(world: World) -> None:
    asked = await world.asks(ANNA)
    [first] = await world.mailed()
    later = world.clock.now() + timedelta(hours=1)
    await world.asks(ANNA, case_ref=asked.case_ref, step="reminder", not_before=later)
    await world.client.post(first, data={"answer": "no_thanks"})
    assert sorted(row.state for row in await world.rows(DELIVERY)) == ["cancelled", "handed_off"]
    await world.clock.advance(hours=2)
    await world.mailed(1)
    again = await world.asks(ANNA, case_ref=asked.case_ref, step="asked")
    assert again.request_ref
    # an ended question that is asked anew starts from the beginning, for the mail's reader
    _, second = await world.mailed(2)
    assert "accept" in (await world.browser().get(second)).text
    assert (await world.client.get(first)).status_code == 404


@pytest.mark.parametrize(
    ("answer", "step"),
    [("no_thanks", "reminder"), ("no_thanks", "offer_again-2"), ("accept", "reminder"), ("accept", "offer_again-2")],
)
async def test_a_message_that_an_answer_has_overtaken_does_not_leave(world: World, answer: str, step: str) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": answer, "when": "hours", "how": "email"})
    before = await world.rows(QUESTION)
    await world.asks(ANNA, case_ref=asked.case_ref, step=step)
    await world.mailed(1)
    assert await world.rows(QUESTION) == before
    assert world.outcomes() == ["handed_off", "expired"], "whoever asked for it hears that it did not leave"


async def test_a_wanted_message_leaves_though_the_clock_was_set_back_behind_the_last_answer(world: World) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": "another"})
    world.clock.leap(hours=-3)
    later = bucket_up(world.clock.now() + timedelta(minutes=30))
    await world.asks(ANNA, case_ref=asked.case_ref, step="asked-2", not_before=later)
    await world.clock.advance(hours=1)
    await world.mailed(2)


async def test_an_answer_that_comes_after_it_was_asked_for_calls_a_message_off_whatever_the_clock_shows(
    world: World,
) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    later = bucket_up(world.clock.now() + timedelta(minutes=30))
    await world.asks(ANNA, case_ref=asked.case_ref, step="asked-2", not_before=later)
    world.clock.leap(hours=-3)
    await world.client.post(link, data={"answer": "another"})
    await world.clock.advance(hours=5)
    await world.mailed(1)
    assert world.outcomes() == ["handed_off", "expired"]


async def test_not_now_is_asked_again(world: World) -> None:
    asked = await world.asks(ANNA)
    [link] = await world.mailed()
    await world.client.post(link, data={"answer": "not_now", "again": "week"})
    await world.clock.advance(days=7)
    await world.asks(ANNA, case_ref=asked.case_ref, step="offer_again-2")
    await world.mailed(2)


async def test_a_supporter_who_has_confirmed_can_be_told_when_to_get_in_touch(world: World) -> None:
    asked = await world.asks(SAM, "supporter_request", step="request-1", options={"when": "days"})
    [sam] = await world.mailed()
    await world.client.post(sam, data={"answer": "confirm"})
    await world.clock.advance(days=3)
    later = world.clock.now() + timedelta(hours=1)
    given = {"case_ref": asked.case_ref, "options": {"when": "now"}, "not_before": later}
    await world.asks(SAM, "supporter_request", step="request-1-again-2", **given)
    await world.clock.advance(hours=2)
    _, nudge = await world.mailed(2)
    assert "Please get in touch as soon as possible:" in (await world.client.get(nudge)).text


async def test_at_night_nothing_leaves_and_in_the_morning_it_does_once(make_world: MakeWorld) -> None:
    world = await make_world(QUIET)
    await world.clock.advance(hours=13)  # 22:00 UTC, 23:00 in Berlin
    await world.asks(ANNA)
    await world.clock.advance(hours=8)
    assert world.mail.mails == []
    await world.die()
    await world.start()
    await asyncio.sleep(0.1)
    assert world.mail.mails == []
    await world.clock.advance(hours=1, minutes=1)  # 7:01 UTC, 8:01 in Berlin
    await world.mailed(1)


async def test_urgent_leaves_at_night(make_world: MakeWorld) -> None:
    world = await make_world(QUIET)
    await world.clock.advance(hours=13)
    await world.asks(ANNA, urgency="urgent", hold_deadline=when("2026-11-21T12:00:00+00:00"))
    await world.mailed(1)


async def test_held_past_its_deadline_it_is_told_and_not_sent(make_world: MakeWorld) -> None:
    world = await make_world(QUIET)
    await world.clock.advance(hours=13)
    deadline = bucket_up(world.clock.now() + timedelta(hours=2))
    await world.asks(ANNA, hold_deadline=deadline)
    await eventually(lambda: bool(world.clock._sleepers))
    await world.clock.advance(hours=3)
    await world.in_time(lambda: world.outcomes() == ["held_too_long"])
    await world.clock.advance(hours=12)
    await world.mailed(0)


async def test_what_expires_before_it_may_leave_is_told(make_world: MakeWorld) -> None:
    world = await make_world(QUIET)
    await world.clock.advance(hours=13)
    await world.asks(ANNA, expires_at=bucket_up(world.clock.now() + timedelta(hours=1)))
    await world.clock.advance(hours=2)
    await world.in_time(lambda: world.outcomes() == ["expired"])


async def test_a_cancelled_message_never_leaves(world: World) -> None:
    asked = await world.asks(ANNA, not_before=bucket_up(world.clock.now() + timedelta(hours=1)))
    await world.cancels(asked)
    await world.clock.advance(hours=2)
    await world.mailed(0)
    assert world.outcomes() == ["expired"], "an end is told, whatever it was"
    assert [one.cause for one in world.told if isinstance(one, DeliveryOutcome)] == ["cancelled"]
    assert await world.rows(QUESTION) == []


async def test_nobody_to_reach_is_told_at_once(world: World) -> None:
    await world.asks(member("nobody"))
    await world.people(ANNA, SAM, mute := member("mute", email="", mobile=""))
    await world.asks(mute)
    assert world.outcomes() == ["failed", "failed"]


async def test_a_line_cut_after_the_dot_is_repeated_once_under_the_same_id(world: World) -> None:
    world.mail.cut_after_dot = 1
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    await eventually(lambda: bool(world.clock._sleepers))
    await asyncio.sleep(0.1)
    await world.clock.advance(seconds=10)
    await world.mailed(2)
    assert len(set(world.mail.ids())) == 1
    assert len(set(world.links)) == 1
    await eventually(lambda: world.outcomes() == ["handed_off"])


async def test_cut_twice_nobody_knows_and_it_is_told(world: World) -> None:
    world.mail.cut_after_dot = 2
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    for _ in range(5):
        await asyncio.sleep(0.1)
        await world.clock.advance(minutes=10)
    await world.in_time(lambda: world.outcomes() == ["unknown"])
    assert len(world.mail.mails) == 2


async def test_in_doubt_is_not_repeated_when_an_answer_has_come(world: World) -> None:
    world.mail.cut_after_dot = 1
    await world.asks(ANNA)
    await eventually(lambda: len(world.mail.mails) == 1)
    await asyncio.sleep(0.1)
    await world.client.post(world.links[0], data={"answer": "no_thanks"})
    await world.clock.advance(minutes=10)
    await world.mailed(1)


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_temporary_refusal_is_tried_again(world: World, verb: str) -> None:
    world.mail.replies[verb] = ["451 4.3.0 later please"]
    await world.asks(ANNA)
    await eventually(lambda: not world.mail.replies[verb])
    await asyncio.sleep(0.1)
    await world.clock.advance(seconds=30)
    await world.mailed(1)


async def test_a_mailbox_that_is_not_there_ends_the_address_until_an_import_brings_it_back(world: World) -> None:
    await world.people(ANNA, SAM, lone := member("lone", mobile=""))
    world.mail.replies["RCPT"] = ["550 5.1.1 no such user"]
    await world.asks(lone)
    await eventually(lambda: world.outcomes() == ["failed"])
    changes = [event for event in world.told if isinstance(event, ReachabilityChanged)]
    assert [(c.recipient_ref, c.reachable) for c in changes] == [(lone.recipient_ref, False)]
    await world.asks(lone)
    assert world.outcomes() == ["failed", "failed"]
    await world.people(ANNA, SAM, lone)
    assert isinstance(world.told[-1], ReachabilityChanged)
    assert world.told[-1].reachable
    await world.asks(lone)
    await world.mailed(1)


async def test_a_refused_message_is_not_the_address_s_fault(world: World) -> None:
    world.mail.replies["DATA"] = ["554 5.6.0 not today"]
    await world.asks(ANNA)
    await eventually(lambda: not world.mail.replies["DATA"])
    for _ in range(7):
        world.mail.replies["DATA"] = ["554 5.6.0 not today"]
        await asyncio.sleep(0.05)
        await world.clock.advance(minutes=30)
    await eventually(lambda: world.outcomes() == ["failed"])
    assert all(row.email for row in await world.rows(RECIPIENT))


async def test_a_mail_server_that_is_away_delays_and_loses_nothing(world: World) -> None:
    port = world.mail.port
    await world.mail.stop()
    await world.asks(ANNA)
    await asyncio.sleep(0.2)
    await world.clock.advance(minutes=2)
    await asyncio.sleep(0.2)
    await world.mail.start(port)
    for _ in range(4):
        await world.clock.advance(minutes=2)
        await asyncio.sleep(0.1)
    await world.mailed(1)
    assert world.outcomes() == ["handed_off"]


async def test_found_half_sent_at_a_start_it_is_sent_again_under_the_same_id(world: World) -> None:
    port = world.mail.port
    await world.mail.stop()
    await world.die()
    await world.asks(ANNA)  # committed as sending; the process dies before its lanes have a turn
    assert [row.state for row in await world.rows(DELIVERY)] == ["sending"]
    await world.mail.start(port)
    await world.start()
    [first] = await world.mailed(1)
    assert (await world.client.get(first)).status_code == 200
    await eventually(lambda: world.outcomes() == ["handed_off"])


async def test_a_stop_leaves_nothing_in_doubt(world: World) -> None:
    people = [member(f"p{n}") for n in range(100)]
    await world.people(ANNA, SAM, *people)
    await world.happens(*(world.request(person) for person in people))
    await world.stop()
    assert {row.state for row in await world.rows(DELIVERY)} <= {"handed_off", "queued"}
    await world.start()
    await eventually(lambda: len(world.mail.mails) >= 100)
    assert len(set(world.mail.ids())) == len(world.mail.mails) == 100


async def test_nor_does_what_is_written_in_the_moment_of_a_stop(world: World) -> None:
    request = world.request(ANNA)

    def work(unit: Unit) -> None:
        world.parts.handlers[MessageRequested](unit, [Event(str(uuid4()), request.key, request, unit.now)])
        world._stop.set()

    await world.context.store.write(work)
    await world.stop()
    assert [row.state for row in await world.rows(DELIVERY)] == ["queued"]
    await world.start()
    await world.mailed(1)


async def test_the_gateway_gets_a_signed_request_whose_id_stays(make_world: MakeWorld) -> None:
    world = await make_world(smtp=False, webhook=True)
    world.http.statuses = [503]
    await world.asks(ANNA)
    await eventually(lambda: len(world.http.received) == 1)
    await asyncio.sleep(0.1)
    await world.clock.advance(seconds=30)
    await eventually(lambda: world.outcomes() == ["handed_off"])
    (first, body), (second, _) = world.http.received
    assert first["webhook-id"] == second["webhook-id"]
    assert body["data"]["to"]["email"] == "anna@hospital.example"
    assert body["data"]["text"].startswith("You have a message.")
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    signed = {name: second[name] for name in names}
    key = Webhook(WEBHOOK_SECRET)
    at = world.clock.now()
    assert signed["webhook-signature"] == key.sign(signed["webhook-id"], at, world.http.bodies[1])
    assert (await world.client.get("/m/" + body["data"]["url"].rpartition("/")[2])).status_code == 200


async def test_a_gateway_that_refuses_ends_it(make_world: MakeWorld) -> None:
    world = await make_world(smtp=False, webhook=True)
    world.http.statuses = [400] * 20
    await world.asks(ANNA)
    for _ in range(7):
        await asyncio.sleep(0.05)
        await world.clock.advance(minutes=30)
    await eventually(lambda: world.outcomes() == ["failed"])


async def test_one_failing_channel_never_delays_the_other(make_world: MakeWorld) -> None:
    world = await make_world(webhook=True)
    await world.people(ANNA, SAM, phone := member("phone", email=""))
    await world.mail.stop()
    await world.asks(ANNA)
    await world.asks(phone)
    await eventually(lambda: len(world.http.received) == 1)
    await world.mail.start(world.mail.port)


async def test_somebody_who_has_left_gets_nothing_and_nothing_of_them_is_kept(world: World) -> None:
    await world.asks(ANNA, not_before=bucket_up(world.clock.now() + timedelta(hours=1)))
    await world.people(SAM)
    await world.clock.advance(hours=2)
    await world.mailed(0)
    anna = next(row for row in await world.rows(RECIPIENT) if row.recipient_ref == ANNA.recipient_ref)
    assert (anna.status, anna.display_name, anna.email, anna.mobile) == ("left", "", "", "")
    assert await world.rows(QUESTION) == []


async def test_the_same_roster_twice_changes_nothing(world: World) -> None:
    before, told = await world.rows(RECIPIENT), len(world.told)
    await world.people(ANNA, SAM)
    assert await world.rows(RECIPIENT) == before
    assert len(world.told) == told


async def test_an_erased_case_leaves_nothing_that_names_anybody(world: World) -> None:
    asked = await world.asks(ANNA)
    [path] = await world.mailed()
    await eventually(lambda: world.outcomes() == ["handed_off"])
    await world.happens(CaseErased(case_ref=asked.case_ref))
    assert await world.rows(QUESTION) == []
    assert await world.rows(LINK) == []
    assert all(ANNA.recipient_ref not in str(row) for row in await world.rows(DELIVERY))
    assert (await world.client.get(path)).status_code == 404


async def test_the_delivery_log_is_forgotten_after_two_weeks(world: World) -> None:
    await world.asks(ANNA)
    await world.mailed()
    await eventually(lambda: world.outcomes() == ["handed_off"])
    await world.clock.advance(days=15)
    for _ in range(3):
        await asyncio.sleep(0.1)
        await world.clock.advance(hours=1)
    await asyncio.sleep(0.1)
    assert await world.rows(DELIVERY) == []
    assert await world.rows(QUESTION) == []
    assert await world.rows(LINK) == []


async def test_in_rehearsal_it_is_written_down_and_never_sent(make_world: MakeWorld) -> None:
    world = await make_world(POLICY.replace('"live"', '"rehearsal"'))
    await world.asks(ANNA)
    await asyncio.sleep(0.1)
    assert [row.state for row in await world.rows(DELIVERY)] == ["rehearsed"]
    assert world.mail.connections == 0


async def test_with_starttls_required_nothing_is_said_in_clear(make_world: MakeWorld) -> None:
    world = await make_world(started=False)
    url = f"smtp://127.0.0.1:{world.mail.port}?starttls=required"
    variables = {**world.context.settings.variables, "SMTP_URL": url}
    world.context = replace(world.context, settings=world.context.settings.model_copy(update={"variables": variables}))
    await world.start()
    await world.asks(ANNA)
    await eventually(lambda: world.mail.connections > 0)
    async with asyncio.timeout(10):
        while [row.state for row in await world.rows(DELIVERY)] != ["queued"]:
            await asyncio.sleep(0.01)
    assert world.mail.received == []

"""From an outcome to an answer: one message, one reminder, silence; holds, quiet times, and saying no."""

from datetime import timedelta

import pytest

from leeward.contracts import DeliveryOutcome
from leeward.testing import member
from services.matching.coordinator import routes
from services.matching.coordinator.status import status
from tests.services.matching.hospital import Hospital, Open, at, ref, supporter

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def test_everybody_listed_gets_one_neutral_offer(hospital: Hospital) -> None:
    await hospital.incident("ann", "bob")
    assert [m.template for m in hospital.sent] == ["offer", "offer"]
    assert {m.recipient_ref for m in hospital.sent} == {ref("recipient ann"), ref("recipient bob")}
    assert {m.step for m in hospital.sent} == {"offer"}
    assert all(m.options == {} for m in hospital.sent)
    assert {case.state for case in await hospital.cases()} == {"waiting"}
    assert [kind for kind, _ in hospital.published] == ["case_opened", "case_opened"]


@pytest.mark.long
async def test_a_message_goes_out_then_one_reminder_then_silence(hospital: Hospital) -> None:
    await hospital.offered("ann")
    assert (await hospital.case()).state == "offered"
    await hospital.forward(hours=71)
    assert len(hospital.to("ann")) == 1
    await hospital.forward(hours=1)
    assert [m.step for m in hospital.to("ann")] == ["offer", "reminder"]
    await hospital.outcome(hospital.last("ann"))
    await hospital.forward(days=11, hours=2)
    assert (await hospital.case()).state == "ended"
    await hospital.forward(days=60)
    assert len(hospital.to("ann")) == 2


async def test_reviewers_and_people_who_left_are_not_written_to(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), member("rex"), member("lee", status="left"), supporter("sue"))
    await hospital.incident("ann", "lee", reviewers=["rex"])
    assert [hospital.names[m.recipient_ref] for m in hospital.sent] == ["ann"]


async def test_those_on_shift_in_the_unit_are_reached_too(hospital: Hospital) -> None:
    await hospital.duty("ICU", "bob", at(0), 8.5)
    await hospital.incident("ann", hours_ago=1)
    assert {hospital.names[m.recipient_ref] for m in hospital.sent} == {"ann", "bob"}


async def test_on_call_duty_and_other_units_do_not_make_somebody_present(hospital: Hospital) -> None:
    await hospital.duty("Ward 3", "bob", at(0), 8.5)
    await hospital.duty("ICU", "una", at(0), 24, on_call=True)
    await hospital.incident("ann", hours_ago=1)
    assert {hospital.names[m.recipient_ref] for m in hospital.sent} == {"ann"}


async def test_on_shift_a_message_waits_until_half_an_hour_after(hospital: Hospital) -> None:
    await hospital.duty("Ward 3", "ann", at(7), 8)
    await hospital.incident("ann")
    assert hospital.last("ann").not_before == at(15, 30)


async def test_after_a_night_shift_a_message_waits_for_sleep(hospital: Hospital) -> None:
    await hospital.duty("Ward 3", "ann", at(22, day=20), 10)
    await hospital.incident("ann")
    assert hospital.last("ann").not_before == at(16)


async def test_an_urgent_message_waits_for_nothing(hospital: Hospital) -> None:
    await hospital.duty("Ward 3", "ann", at(7), 8)
    await hospital.incident("ann", urgency="urgent")
    assert (hospital.last("ann").not_before, hospital.last("ann").urgency) == (None, "urgent")


async def test_a_hold_that_would_be_too_long_goes_to_the_coordinator(hospital: Hospital) -> None:
    await hospital.duty("Ward 3", "ann", at(7), 48)
    await hospital.incident("ann")
    assert hospital.to("ann") == []
    assert await hospital.state() == ("needs_attention", ["held_too_long"])
    await hospital.as_coordinator(routes.reassign, (await hospital.case()).case_ref)
    assert hospital.last("ann").not_before is None
    assert await hospital.state() == ("waiting", [])


@pytest.mark.long
async def test_who_was_written_to_is_left_alone_whatever_they_answer(hospital: Hospital) -> None:
    offer = await hospital.offered("ann")
    await hospital.answer(offer, "ended")
    await hospital.forward(days=13)
    await hospital.incident("ann")
    assert len(hospital.to("ann")) == 1
    await hospital.forward(days=1, hours=1)
    await hospital.incident("ann")
    assert len(hospital.to("ann")) == 2


@pytest.mark.long
async def test_an_answer_quicker_than_the_word_of_its_hand_off_changes_no_quiet_time(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.answer(hospital.last("ann"), "ended")
    await hospital.outcome(hospital.last("ann"))
    await hospital.forward(days=13)
    await hospital.incident("ann")
    assert len(hospital.to("ann")) == 1


async def test_not_now_quicker_than_the_word_of_its_hand_off_brings_no_reminder(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.answer(hospital.last("ann"), "not_now", again="week")
    await hospital.outcome(hospital.last("ann"))
    assert await hospital.state() == ("waiting", [])
    await hospital.forward(days=6)
    assert len(hospital.to("ann")) == 1
    await hospital.forward(days=2)
    assert [m.step for m in hospital.to("ann")] == ["offer", "offer_again-2"]


async def test_a_reminder_waits_for_the_end_of_a_shift_too(hospital: Hospital) -> None:
    await hospital.offered("ann")
    await hospital.duty("ICU", "ann", at(7, day=24), 8)
    await hospital.forward(days=3)
    assert (hospital.last("ann").step, hospital.last("ann").not_before) == ("reminder", at(15, 30, day=24))


async def test_a_listed_category_is_worth_another_message_when_nothing_is_open(hospital: Hospital) -> None:
    offer = await hospital.offered("ann")
    await hospital.incident("ann", category="child_death")
    assert len(hospital.to("ann")) == 1, "an offer is open"
    await hospital.answer(offer, "ended")
    await hospital.incident("ann", category="child_death")
    assert len(hospital.to("ann")) == 2


async def test_no_thanks_ends_like_silence_and_can_be_taken_back(hospital: Hospital) -> None:
    offer = await hospital.offered("ann")
    await hospital.answer(offer, "ended")
    assert await hospital.state() == ("ended", [])
    assert hospital.cancelled == [], "the link lives for the day in which it can be taken back"
    await hospital.forward(hours=20)
    await hospital.answer(offer, "accept", when="days")
    assert (await hospital.case()).state == "accepted"
    assert hospital.asking().options == {"when": "days"}


@pytest.mark.long
async def test_after_no_thanks_nothing_is_sent(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "ended")
    await hospital.forward(days=80)
    assert len(hospital.sent) == 1


async def test_a_yes_on_an_older_page_is_a_yes_to_the_case_that_is_open(hospital: Hospital) -> None:
    old = await hospital.offered("ann")
    await hospital.answer(old, "ended")
    await hospital.ask("ann")
    await hospital.answer(old, "accept", when="now")
    assert [case.state for case in await hospital.cases()] == ["ended", "accepted"]
    assert hospital.asking().case_ref == hospital.last("ann").case_ref


@pytest.mark.long
async def test_not_now_comes_back_when_the_person_said(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "not_now", again="month")
    await hospital.forward(days=29, hours=23)
    assert len(hospital.to("ann")) == 1
    await hospital.forward(hours=2)
    assert [m.step for m in hospital.to("ann")] == ["offer", "offer_again-2"]
    await hospital.outcome(hospital.last("ann"))
    await hospital.forward(days=4)
    assert len(hospital.to("ann")) == 2, "no second reminder"
    await hospital.answer(hospital.last("ann"), "accept", when="week")
    assert (await hospital.case()).state == "accepted"


async def test_not_now_and_never_is_an_end(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "not_now", again="never")
    assert await hospital.state() == ("ended", [])


async def test_asking_by_oneself_passes_quiet_time_and_shifts(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "ended")
    await hospital.duty("ICU", "ann", at(7), 8)
    await hospital.ask("ann", "urgent")
    message = hospital.last("ann")
    assert (message.step, message.urgency, message.not_before) == ("asked", "urgent", None)
    await hospital.ask("ann")
    assert hospital.last("ann").step == "asked-2"
    assert len(await hospital.cases()) == 2, "the open case is found"


async def test_a_stranger_who_asks_changes_nothing(hospital: Hospital) -> None:
    await hospital.ask("nobody")
    assert hospital.sent == []


async def test_what_did_not_arrive_is_on_the_coordinators_list(hospital: Hospital) -> None:
    for state, reason in (("failed", "unreachable"), ("unknown", "delivery_unknown"), ("expired", "expired")):
        await hospital.incident("ann")
        await hospital.outcome(hospital.last("ann"), state)
        assert await hospital.state() == ("needs_attention", [reason])
        case = await hospital.as_coordinator(routes.reassign, (await hospital.case()).case_ref)
        assert case.state == "waiting"
    steps = [m.step for m in hospital.to("ann")]
    assert len(set(steps)) == len(steps), "a step is used once"


async def test_an_unknown_hand_off_that_arrived_after_all_is_settled(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.outcome(hospital.last("ann"), "unknown")
    await hospital.outcome(hospital.last("ann"), "delivered")
    assert await hospital.state() == ("offered", [])


async def test_nobody_reachable_is_shown_and_nothing_is_asked_for(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann", email=""), supporter("sue"))
    await hospital.incident("ann")
    assert hospital.sent == []
    assert await hospital.state() == ("needs_attention", ["unreachable"])


async def test_without_a_free_supporter_the_offer_leaves_and_the_coordinator_knows(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), supporter("sue", training_expires=at(9).date() - timedelta(days=1)))
    await hospital.incident("ann")
    assert [m.template for m in hospital.sent] == ["offer"]
    assert await hospital.state() == ("needs_attention", ["no_supporter"])
    await hospital.outcome(hospital.last("ann"))
    await hospital.as_coordinator(routes.reassign, (await hospital.case()).case_ref)
    assert await hospital.state() == ("needs_attention", ["no_supporter"])
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.as_coordinator(routes.reassign, (await hospital.case()).case_ref)
    assert await hospital.state() == ("offered", [])
    assert (await hospital.case()).proposed == ref("person sue")
    assert not any(row.active for row in await hospital.rows_of("load")), "a proposal takes nobody's place"
    assert [m.template for m in hospital.sent] == ["offer"], "looking for a supporter is no reason to write again"


async def test_a_supporter_who_becomes_free_before_the_answer_settles_it(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"))
    await hospital.start()
    await hospital.offered("ann")
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.forward(hours=9)
    assert await hospital.state() == ("offered", [])


async def test_an_offer_nobody_reports_on_does_not_wait_for_ever(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.forward(hours=38)
    assert await hospital.state() == ("needs_attention", ["not_sent"])


@pytest.mark.parametrize("outcome", ["failed", "unknown", "held_too_long", "expired", None])
async def test_who_was_never_reached_stays_on_the_list_and_is_forgotten(
    hospital: Hospital, outcome: str | None
) -> None:
    await hospital.incident("ann")
    if outcome:
        await hospital.outcome(hospital.last("ann"), outcome)
    await hospital.forward(days=16)
    assert await hospital.state() == ("needs_attention", ["never_reached"])
    assert await hospital.mentions(ref("person ann")) == []
    found = await hospital.context.store.read(lambda conn: status(conn, hospital.context.settings))
    assert (found["reasons"], "never_reached" in found["gaps"]) == ({"never_reached": 1}, True)
    await hospital.as_coordinator(routes.see, (await hospital.case()).case_ref)
    assert await hospital.state() == ("ended", [])


@pytest.mark.long
async def test_a_case_that_somebody_must_see_is_never_deleted_unseen(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.forward(days=16)
    await hospital.clock.advance(days=100)
    await hospital.forward(seconds=0)
    assert await hospital.state() == ("needs_attention", ["never_reached"])
    await hospital.as_coordinator(routes.see, (await hospital.case()).case_ref)
    await hospital.forward(seconds=0)
    assert await hospital.cases() == []


async def test_an_offer_that_ended_without_being_sent_is_listed_at_once(hospital: Hospital) -> None:
    await hospital.incident("ann")
    offer = hospital.last("ann")
    await hospital.event(DeliveryOutcome(request_ref=offer.request_ref, state="expired", cause="cancelled"))
    assert await hospital.state() == ("needs_attention", ["not_sent"])
    await hospital.as_coordinator(routes.reassign, offer.case_ref)
    assert hospital.last("ann").step == "offer_again-2"
    await hospital.outcome(hospital.last("ann"))
    assert await hospital.state() == ("offered", [])


async def test_a_reminder_that_an_answer_has_overtaken_is_no_matter_for_anybody(hospital: Hospital) -> None:
    await hospital.offered("ann")
    await hospital.forward(hours=72)
    reminder = hospital.last("ann")
    assert reminder.step == "reminder"
    await hospital.event(DeliveryOutcome(request_ref=reminder.request_ref, state="expired", cause="cancelled"))
    assert await hospital.state() == ("offered", [])


async def test_people_named_later_are_reached_once(hospital: Hospital) -> None:
    incident = await hospital.incident("ann")
    await hospital.amend(incident, "ann", "bob")
    assert [hospital.names[m.recipient_ref] for m in hospital.sent] == ["ann", "bob"]
    await hospital.amend(incident, "bob")
    assert len(hospital.sent) == 2


async def test_one_person_in_two_outcomes_of_a_batch_gets_one_message(hospital: Hospital) -> None:
    await hospital.incident("ann")
    await hospital.incident("ann", "bob")
    assert sorted(hospital.names[m.recipient_ref] for m in hospital.sent) == ["ann", "bob"]


async def test_retraction_cancels_what_is_unsent(hospital: Hospital) -> None:
    incident = await hospital.incident("ann")
    await hospital.retract(incident)
    assert hospital.cancelled == [hospital.last("ann").request_ref]
    assert await hospital.state() == ("ended", ["retracted"])
    assert await hospital.rows_of("entry") == []


async def test_retraction_after_sending_is_told(hospital: Hospital) -> None:
    incident = await hospital.incident("ann")
    await hospital.outcome(hospital.last("ann"))
    await hospital.retract(incident)
    assert await hospital.state() == ("ended", ["retracted", "retracted_after_sending"])
    assert [row.kind for row in await hospital.rows_of("entry")] == ["retracted_after_sending"]
    await hospital.forward(hours=80)
    assert len(hospital.sent) == 1, "no reminder"


@pytest.mark.parametrize("early", [True, False])
async def test_who_died_was_alive_and_died_after_all_is_offered_once_more(hospital: Hospital, *, early: bool) -> None:
    """`early`: that it had left is heard of before it is taken back."""
    first = await hospital.incident("ann")
    offer = hospital.last("ann")
    if early:
        await hospital.outcome(offer)
    await hospital.retract(first)
    if not early:
        await hospital.outcome(offer)
    await hospital.incident("ann")
    await hospital.outcome(hospital.last("ann"))
    await hospital.incident("ann")
    assert [message.step for message in hospital.sent] == ["offer", "offer"]


@pytest.mark.parametrize("state", ["handed_off", "unknown"])
async def test_a_message_that_left_while_it_was_being_retracted_is_told_too(hospital: Hospital, state: str) -> None:
    incident = await hospital.incident("ann")
    offer = hospital.last("ann")
    await hospital.retract(incident)
    await hospital.outcome(offer, state)
    assert await hospital.state() == ("ended", ["retracted", "retracted_after_sending"])


async def test_an_offer_that_waits_for_another_time_had_left_when_it_is_taken_back(hospital: Hospital) -> None:
    incident = await hospital.incident("ann")
    await hospital.outcome(hospital.last("ann"))
    await hospital.answer(hospital.last("ann"), "not_now", again="week")
    await hospital.retract(incident)
    assert await hospital.state() == ("ended", ["retracted", "retracted_after_sending"])


async def test_a_message_that_may_never_have_left_spares_nobody_the_next_offer(hospital: Hospital) -> None:
    first = await hospital.incident("ann")
    offer = hospital.last("ann")
    await hospital.retract(first)
    await hospital.outcome(offer, "unknown")
    await hospital.incident("ann")
    assert len(hospital.sent) == 2


async def test_retraction_leaves_those_around_another_outcome_their_offer(hospital: Hospital) -> None:
    first = await hospital.incident("ann")
    await hospital.incident("ann")
    await hospital.retract(first)
    assert await hospital.state() == ("waiting", [])
    assert hospital.cancelled == []


async def test_an_outcome_with_nobody_to_write_to_is_shown(hospital: Hospital) -> None:
    incident = await hospital.incident()
    assert [(row.kind, row.about) for row in await hospital.rows_of("entry")] == [("nobody_to_reach", incident)]
    await hospital.amend(incident, "ann")
    assert await hospital.rows_of("entry") == []


async def test_a_group_session_is_suggested_and_nothing_more(open_hospital: Open) -> None:
    hospital = open_hospital()
    names = [f"p{n}" for n in range(6)]
    await hospital.staff(*(member(name) for name in names), supporter("sue"))
    await hospital.incident(*names[:5])
    assert await hospital.rows_of("entry") == []
    await hospital.incident(*names)
    assert [row.kind for row in await hospital.rows_of("entry")] == ["group_session"]
    assert {m.template for m in hospital.sent} == {"offer"}


async def test_several_units_are_suggested_a_group_session_too(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), member("cem", unit="Ward 3"), supporter("sue"))
    await hospital.incident("ann", "cem")
    assert [row.kind for row in await hospital.rows_of("entry")] == ["group_session"]

"""From a yes to a good end: capacity, confirming, passing on, check-ins, closing."""

import pytest

from leeward.testing import member
from services.matching.coordinator import routes
from tests.services.matching.hospital import FORM, Hospital, Open, at, ref, supporter

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def test_nothing_reaches_a_supporter_before_a_yes(hospital: Hospital) -> None:
    await hospital.offered("ann")
    assert hospital.requests() == []
    assert await hospital.rows_of("load") == []


async def test_a_yes_asks_the_proposed_supporter_and_takes_their_capacity(hospital: Hospital) -> None:
    await hospital.offered("ann")
    proposed = (await hospital.case()).proposed
    await hospital.answer(hospital.last("ann"), "accept", when="days")
    case = await hospital.case()
    assert (case.state, case.supporter) == ("accepted", proposed)
    assert hospital.asking().options == {"when": "days"}
    assert hospital.asking().step == "request-1"
    assert await hospital.loads() == {hospital.requests()[0]: (1, 0)}
    assert hospital.published[-1] == ("case_assigned", case.case_ref)


async def test_when_the_proposed_supporter_is_gone_the_next_best_is_asked(open_hospital: Open) -> None:
    hospital = open_hospital(supporters={"active_cases": 1})
    await hospital.staff(member("ann"), member("bob"), supporter("sue"), supporter("doc", profession="physician"))
    await hospital.incident("ann")
    await hospital.incident("bob")
    for name in ("ann", "bob"):
        await hospital.outcome(hospital.to(name)[0])
    assert {case.proposed for case in await hospital.cases()} == {ref("person sue")}
    await hospital.answer(hospital.to("ann")[0], "accept", when="hours")
    await hospital.answer(hospital.to("bob")[0], "accept", when="hours")
    assert hospital.requests() == ["sue", "doc"]


async def test_nobody_free_goes_to_the_coordinator_and_heals_by_itself(open_hospital: Open) -> None:
    hospital = open_hospital(supporters={"active_cases": 1, "cool_down": at(9) - at(8)})
    await hospital.staff(member("ann"), member("bob"), supporter("sue"))
    await hospital.start()
    await hospital.supported("ann")
    request = hospital.asking()
    offer = await hospital.offered("bob")
    await hospital.answer(offer, "accept", when="hours")
    bob = await hospital.case_of("bob")
    assert routes.case_json(bob)["reasons"] == ["no_supporter"]
    await hospital.answer(request, "close", **FORM)
    await hospital.forward(hours=3)
    assert hospital.requests() == ["sue", "sue"]
    assert (await hospital.case_of("bob")).state == "accepted"


async def test_two_yeses_in_one_batch_never_share_the_last_place(open_hospital: Open) -> None:
    hospital = open_hospital(supporters={"active_cases": 2})
    names = [f"p{n}" for n in range(9)]
    await hospital.staff(*(member(name) for name in names), supporter("sue"), supporter("tim", max_active=1))
    await hospital.incident(*names)
    offers = [hospital.last(name) for name in names]
    for offer in offers:
        await hospital.outcome(offer)
    from leeward.contracts import Answered

    await hospital.event(
        *(
            Answered(request_ref=o.request_ref, case_ref=o.case_ref, answer="accept", options={"when": "now"})
            for o in offers
        )
    )
    assert await hospital.loads() == {"sue": (2, 0), "tim": (1, 0)}
    states = [routes.case_json(case)["reasons"] for case in await hospital.cases()]
    assert sorted(states) == [[]] * 3 + [["no_supporter"]] * 6


async def test_confirming_introduces_and_only_then(hospital: Hospital) -> None:
    await hospital.accepted("ann")
    case = await hospital.case()
    ann, sue = ref("recipient ann"), hospital.asking().recipient_ref

    async def introduced(recipient: str) -> str:
        return await hospital.context.store.read(lambda conn: routes.other_side(conn, case.case_ref, recipient))

    for recipient in (ann, sue):
        with pytest.raises(Exception, match="no-introduction"):
            await introduced(recipient)
    await hospital.answer(hospital.asking(), "confirm")
    assert await introduced(sue) == ann
    assert await introduced(ann) == sue
    with pytest.raises(Exception, match="no-introduction"):
        await introduced(ref("recipient bob"))


async def test_a_routine_request_waits_four_hours_of_answer_hours(hospital: Hospital) -> None:
    await hospital.forward(hours=9)  # 18:00, two hours before the end of answer hours
    await hospital.accepted("ann")
    await hospital.forward(hours=15, minutes=59)  # 09:59
    assert len(hospital.requests()) == 1
    await hospital.forward(minutes=2)
    assert len(hospital.requests()) == 2
    first, second = hospital.requests()
    assert first != second


async def test_answer_hours_are_those_of_the_supporters_zone(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), supporter("sue", timezone="America/New_York"), supporter("tim", unit="ICU"))
    await hospital.accepted("ann")  # 04:00 in New York, whose answer hours begin at 13:00 UTC
    assert hospital.requests() == ["sue"]
    assert (await hospital.case()).confirm_by == at(17)


async def test_an_urgent_request_waits_half_an_hour(hospital: Hospital) -> None:
    await hospital.accepted("ann", when="now")
    assert hospital.asking().urgency == "urgent"
    await hospital.forward(minutes=29)
    assert len(hospital.requests()) == 1
    await hospital.forward(minutes=1)
    assert len(hospital.requests()) == 2


async def test_three_tries_then_the_coordinator(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), *(supporter(name) for name in ("sue", "tim", "una", "vic")))
    await hospital.accepted("ann", when="now")
    await hospital.answer(hospital.asking(), "pass")
    await hospital.outcome(hospital.asking(), "failed")
    assert len(set(hospital.requests())) == 3
    await hospital.forward(minutes=30)
    assert await hospital.state() == ("needs_attention", ["no_confirmation"])
    assert len(hospital.requests()) == 3
    assert all(active == 0 for active, _ in (await hospital.loads()).values())
    await hospital.as_coordinator(routes.reassign, (await hospital.case()).case_ref)
    assert len(set(hospital.requests())) == 4, "never the same supporter twice in a case"
    assert await hospital.state() == ("accepted", [])


async def test_who_has_passed_or_was_too_late_can_no_longer_confirm(hospital: Hospital) -> None:
    await hospital.accepted("ann")
    first = hospital.asking()
    await hospital.answer(first, "pass")
    assert first.request_ref in hospital.cancelled
    await hospital.answer(first, "confirm")
    assert (await hospital.case()).state == "accepted"
    await hospital.answer(hospital.asking(), "confirm")
    assert (await hospital.case()).state == "supported"


async def test_confirmed_support_is_not_taken_away_by_the_timer(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.forward(days=3)
    assert await hospital.state() == ("supported", [])
    assert len(set(hospital.requests())) == 1


@pytest.mark.long
async def test_first_contact_is_reminded_of_once_when_it_is_due(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.forward(hours=23, minutes=59)
    assert len(hospital.requests()) == 1
    await hospital.forward(days=20)
    assert hospital.requests() == [hospital.requests()[0]] * 2
    assert (hospital.asking().step, hospital.asking().options) == ("request-1-again-2", {"when": "hours"})
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert await hospital.state() == ("closed", []), "the new link is as good as the first"


@pytest.mark.long
async def test_no_contact_is_due_before_the_chosen_time_nor_after_the_end(hospital: Hospital) -> None:
    await hospital.accepted("ann", when="week")
    await hospital.answer(hospital.asking(), "confirm")
    await hospital.forward(days=7)
    assert len(hospital.requests()) == 1
    await hospital.answer(hospital.asking(), "close", **FORM)
    await hospital.forward(days=7)
    assert len(hospital.requests()) == 1


async def test_who_is_being_supported_and_would_like_to_talk_again_is_passed_on(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    await hospital.forward(days=3)
    check_in = hospital.last("ann")
    assert check_in.template == "check_in"
    asked = len(hospital.requests())
    await hospital.answer(check_in, "accept", when="now")
    assert len(hospital.requests()) == asked + 1
    assert len(set(hospital.requests())) == 1
    assert (hospital.asking().urgency, hospital.asking().options) == ("urgent", {"when": "now"})
    assert (await hospital.case()).state == "supported"
    await hospital.answer(check_in, "ended")
    assert await hospital.state() == ("ended", []), "from a yes on it can be withdrawn there"


@pytest.mark.parametrize("answer", ["not_contacted", "another"])
async def test_after_closing_somebody_else_can_still_be_asked_for(hospital: Hospital, answer: str) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    first = hospital.asking()
    await hospital.answer(first, "close", **FORM)
    assert await hospital.state() == ("following_up", [])
    await hospital.answer(offer, answer)
    assert await hospital.state() == ("accepted", [])
    assert hospital.asking().recipient_ref != first.recipient_ref


async def test_asking_while_only_check_ins_are_left_is_a_case_of_its_own(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    await hospital.answer(hospital.asking(), "close", **FORM)
    await hospital.ask("ann", "urgent")
    assert sorted(case.state for case in await hospital.cases()) == ["closed", "waiting"]
    assert [m.template for m in hospital.to("ann")] == ["offer", "follow_up", "offer"]
    await hospital.answer(hospital.last("ann"), "accept", when="now")
    assert hospital.asking().case_ref == hospital.last("ann").case_ref


@pytest.mark.long
async def test_support_without_an_end_is_shown_after_four_weeks(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.forward(days=28)
    assert await hospital.state() == ("needs_attention", ["not_closed"])
    await hospital.as_coordinator(routes.close, (await hospital.case()).case_ref)
    assert await hospital.state() == ("closed", [])
    assert hospital.last("ann").template == "follow_up"


@pytest.mark.long
async def test_somebody_different_is_never_the_same_again(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    first = hospital.requests()[0]
    await hospital.answer(offer, "another")
    assert hospital.requests()[1] != first
    assert (await hospital.loads())[first] == (0, 0)
    await hospital.answer(offer, "ended")
    await hospital.forward(days=20)
    for _ in range(3):
        await hospital.ask("ann")
        await hospital.answer(hospital.last("ann"), "accept", when="hours")
        assert hospital.requests()[-1] != first
        await hospital.answer(hospital.last("ann"), "ended")


async def test_somebody_different_can_be_asked_for_before_a_yes(hospital: Hospital) -> None:
    offer = await hospital.offered("ann")
    proposed = (await hospital.case()).proposed
    await hospital.answer(offer, "another")
    assert (await hospital.case()).state == "offered"
    await hospital.answer(offer, "accept", when="hours")
    assert (await hospital.case()).supporter != proposed


async def test_not_contacted_asks_somebody_else_at_once(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    first = hospital.asking()
    await hospital.answer(offer, "not_contacted")
    assert first.request_ref in hospital.cancelled
    assert hospital.asking().urgency == "urgent"
    assert len(set(hospital.requests())) == 2
    assert (await hospital.case()).state == "accepted"


async def test_a_supporter_who_is_affected_hands_over_and_rests(hospital: Hospital) -> None:
    await hospital.supported("ann")
    first = hospital.requests()[0]
    await hospital.answer(hospital.asking(), "hand_over")
    assert hospital.requests()[1] != first
    resting = {row.supporter_ref: row.rest_until for row in await hospital.rows_of("load")}
    assert resting[ref(f"person {first}")] == at(9, day=28)


async def test_withdrawing_frees_the_supporter_and_ends_their_link(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "ended")
    assert await hospital.state() == ("ended", [])
    assert hospital.cancelled == [hospital.asking().request_ref]
    assert [active for active, _ in (await hospital.loads()).values()] == [0]


async def test_help_that_nobody_acknowledged_stands_first(hospital: Hospital) -> None:
    offer = await hospital.accepted("ann")
    await hospital.answer(offer, "talk_now")
    assert await hospital.state() == ("accepted", [])
    await hospital.answer(offer, "talk_now", unacknowledged="yes")
    assert await hospital.state() == ("needs_attention", ["on_call_silent"])
    await hospital.answer(hospital.asking(), "confirm")
    assert await hospital.state() == ("needs_attention", ["on_call_silent"]), "until somebody has seen to it"
    await hospital.as_coordinator(routes.attend, offer.case_ref)
    assert await hospital.state() == ("supported", [])


async def test_seeing_to_an_alarm_leaves_the_other_reasons_where_they_are(hospital: Hospital) -> None:
    await hospital.staff(member("ann"))
    offer = await hospital.accepted("ann")
    await hospital.answer(offer, "talk_now", unacknowledged="yes")
    assert await hospital.state() == ("needs_attention", ["on_call_silent", "no_supporter"])
    await hospital.as_coordinator(routes.attend, offer.case_ref)
    assert await hospital.state() == ("needs_attention", ["no_supporter"])
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.forward(hours=1)
    assert hospital.requests() == ["sue"]


async def test_help_asked_for_from_a_forgotten_case_is_not_lost(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.answer(hospital.asking(), "close", **FORM)
    await hospital.answer(hospital.last("ann"), "talk_now", unacknowledged="yes")
    assert [row.kind for row in await hospital.rows_of("entry")] == ["on_call_silent"]


@pytest.mark.long
async def test_who_leaves_is_left_alone_and_whom_they_supported_is_not(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.offered("bob")
    gone = hospital.requests()[0]
    still_here = [m for m in hospital.members if m.display_name not in (gone, "bob")]
    await hospital.staff(*still_here)
    await hospital.forward(seconds=1)
    assert hospital.requests()[1] != gone
    assert sorted(case.state for case in await hospital.cases()) == ["accepted", "ended"]
    assert hospital.last("bob").request_ref in hospital.cancelled
    sent = len(hospital.to("bob"))
    await hospital.forward(days=20)
    assert len(hospital.to("bob")) == sent


async def test_a_supporter_who_pauses_gives_their_cases_on(hospital: Hospital) -> None:
    from dataclasses import replace

    await hospital.supported("ann")
    paused = hospital.requests()[0]
    await hospital.staff(*(replace(m, status="away") if m.display_name == paused else m for m in hospital.members))
    await hospital.forward(seconds=1)
    assert hospital.requests()[1] != paused


async def test_a_supporter_who_turns_out_to_have_been_there_is_relieved(hospital: Hospital) -> None:
    await hospital.accepted("ann")
    case = await hospital.case()
    (first,) = hospital.requests()
    assert case.incident_ref is not None
    await hospital.amend(case.incident_ref, first)
    assert sorted(case.state for case in await hospital.cases()) == ["accepted", "waiting"]
    assert [name for name in hospital.requests() if name != first] == hospital.requests()[1:]
    assert len(hospital.requests()) == 2

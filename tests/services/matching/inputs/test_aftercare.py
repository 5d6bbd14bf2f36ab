"""After the last talk: hours are booked, check-ins come to whoever asked for them, and it ends or begins again."""

from leeward.testing import member
from services.matching.coordinator import routes
from tests.services.matching.hospital import FORM, Hospital, Open, ref, supporter


async def test_closing_books_hours_rests_the_supporter_and_asks_how_it_was(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    request = hospital.asking()
    case_ref = offer.case_ref
    await hospital.answer(request, "close", **{**FORM, "duration": "45_90", "contacts": "3"})
    assert await hospital.state() == ("closed", [])
    assert await hospital.loads() == {hospital.requests()[0]: (0, 270)}
    follow_up = hospital.last("ann")
    assert (follow_up.template, follow_up.case_ref) == ("follow_up", case_ref)
    assert follow_up.options == {"suggest": "professional"}
    assert [kind for kind, _ in hospital.published][-2:] == ["case_closed", "case_erased"]
    assert {offer.request_ref, request.request_ref} <= set(hospital.cancelled)
    assert follow_up.request_ref not in hospital.cancelled


async def test_two_contacts_suggest_nothing(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert hospital.last("ann").options == {}


async def test_hours_of_a_month_and_the_cool_down_keep_a_supporter_free(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), member("bob"), member("cem"), supporter("sue"))
    await hospital.supported("ann")
    await hospital.answer(hospital.asking(), "close", **{**FORM, "duration": "over_90", "contacts": "2"})
    await hospital.accepted("bob")
    assert routes.case_json((await hospital.cases())[-1])["reasons"] == ["no_supporter"], "cooling down"
    await hospital.forward(days=8)
    await hospital.accepted("cem")
    assert routes.case_json((await hospital.cases())[-1])["reasons"] == ["no_supporter"], "four hours this month"
    await hospital.forward(days=3)
    await hospital.ask("cem")
    await hospital.as_coordinator(routes.reassign, (await hospital.cases())[-1].case_ref)
    assert hospital.requests() == ["sue", "sue"]


async def test_a_supporter_with_an_exposure_of_their_own_rests(open_hospital: Open) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.incident("sue")
    await hospital.accepted("ann")
    assert routes.case_json((await hospital.cases())[-1])["reasons"] == ["no_supporter"]


async def test_check_ins_come_only_when_asked_for(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.forward(days=8)
    assert [m.template for m in hospital.to("ann")] == ["offer"]
    await hospital.answer(offer, "check_ins")
    await hospital.forward(days=25)
    assert [m.step for m in hospital.to("ann")] == ["offer", "check_in_28d"]


async def test_check_ins_after_closing_then_the_end(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    await hospital.forward(days=4)
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert await hospital.state() == ("following_up", [])
    assert [active for active, _ in (await hospital.loads()).values()] == [0]
    await hospital.forward(days=25)
    assert [m.step for m in hospital.to("ann")] == ["offer", "check_in_72h", "check_in_7d", "check_in_28d"]
    await hospital.forward(days=7)
    assert await hospital.state() == ("closed", [])
    assert hospital.last("ann").template == "follow_up"


async def test_a_check_in_can_be_answered_with_talking_again_or_no_more(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    await hospital.forward(days=4)
    await hospital.answer(hospital.asking(), "close", **FORM)
    await hospital.answer(hospital.last("ann"), "accept", when="days")
    assert (await hospital.case()).state == "accepted"
    await hospital.answer(hospital.asking(), "confirm")
    await hospital.forward(days=4)
    assert hospital.last("ann").step == "check_in_7d"
    await hospital.answer(hospital.last("ann"), "ended")
    assert (await hospital.case()).state == "supported", "no more check-ins; the support goes on"
    sent = len(hospital.to("ann"))
    await hospital.forward(days=27)
    assert len(hospital.to("ann")) == sent


async def test_wanting_no_more_check_ins_leaves_a_supporter_asked_who_has_not_heard_yet(hospital: Hospital) -> None:
    offer = await hospital.supported("ann")
    await hospital.answer(offer, "check_ins")
    await hospital.forward(days=4)
    check_in = hospital.last("ann")
    await hospital.answer(offer, "another")
    request = hospital.asking()
    await hospital.answer(check_in, "ended")
    assert (await hospital.case()).supporter is not None
    assert request.request_ref not in hospital.cancelled
    await hospital.answer(request, "confirm")
    assert (await hospital.case()).state == "supported"


async def test_talking_again_after_the_end_is_a_case_of_its_own(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.answer(hospital.asking(), "close", **FORM)
    follow_up = hospital.last("ann")
    await hospital.answer(follow_up, "accept", when="week")
    closed, again = sorted(await hospital.cases(), key=lambda case: case.state, reverse=True)
    assert (closed.state, again.state) == ("closed", "accepted")
    assert (closed.person_ref, again.person_ref) == (None, ref("person ann"))
    assert hospital.asking().case_ref == again.case_ref
    await hospital.answer(follow_up, "ended")
    assert sorted(case.state for case in await hospital.cases()) == ["closed", "ended"]

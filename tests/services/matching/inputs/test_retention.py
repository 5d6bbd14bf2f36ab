"""What is forgotten, when; rehearsal; cover messages; monthly check-ins."""

from datetime import timedelta

from leeward.testing import member
from services.matching.inputs.cover import first_cover, next_cover
from tests.services.matching.hospital import FORM, Hospital, Open, at, ref, supporter


async def ties(hospital: Hospital, name: str) -> list[str]:
    found = {*await hospital.mentions(ref(f"person {name}")), *await hospital.mentions(ref(f"recipient {name}"))}
    return sorted(found)


async def test_an_offer_not_accepted_is_forgotten_fourteen_days_later(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "ended")
    await hospital.forward(days=13)
    assert await ties(hospital, "ann") == ["exposure", "request", "support_case"]
    await hospital.forward(days=1, hours=9)
    assert await ties(hospital, "ann") == []
    assert hospital.published[-1][0] == "case_erased"
    assert (await hospital.case()).state == "ended"


async def test_when_the_quiet_time_is_over_nothing_tells_that_there_was_one(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "ended")
    assert [row for row in await hospital.rows_of("person") if row.quiet_until]
    await hospital.forward(days=14, hours=9)
    assert [row for row in await hospital.rows_of("person") if row.quiet_until] == []


async def test_silence_is_forgotten_on_the_same_day(hospital: Hospital) -> None:
    await hospital.offered("ann")
    await hospital.forward(days=14, hours=9)
    assert await ties(hospital, "ann") == []


async def test_a_closed_case_forgets_at_once_but_for_the_question_how_it_was(hospital: Hospital) -> None:
    await hospital.supported("ann")
    supporting = hospital.requests()[0]
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert await ties(hospital, "ann") == ["request"]
    assert [row.case_ref for row in await hospital.rows_of("request")] == [None]
    assert await ties(hospital, supporting) == []
    await hospital.forward(days=15)
    assert await ties(hospital, "ann") == []


async def test_ninety_days_after_the_event_everything_is_forgotten(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.forward(days=89)
    assert "support_case" in await ties(hospital, "ann")
    await hospital.forward(days=1, hours=9)
    assert (await hospital.case()).state == "closed"
    assert await ties(hospital, "ann") == ["request"], "how it was, for two weeks"
    assert await hospital.rows_of("incident") == []
    await hospital.forward(days=15)
    assert await ties(hospital, "ann") == []


async def test_what_is_told_of_a_forgotten_case_brings_nobody_back(hospital: Hospital) -> None:
    """As late as a dead letter that is tried again."""
    message = await hospital.offered("ann")
    await hospital.forward(days=14, hours=9)
    said = len(hospital.published), len(hospital.sent)
    for answer in ("accept", "another", "not_now", "ended", "not_contacted", "check_ins"):
        await hospital.answer(message, answer)
    await hospital.outcome(message)
    assert await ties(hospital, "ann") == []
    assert (len(hospital.published), len(hospital.sent)) == said


async def test_who_has_left_and_asked_before_is_offered_nothing(hospital: Hospital) -> None:
    await hospital.staff(member("ann", status="left"), supporter("sue"))
    await hospital.ask("ann")
    assert (await hospital.cases(), hospital.sent) == ([], [])


async def test_an_outcome_that_comes_when_it_would_be_forgotten_has_no_effect(hospital: Hospital) -> None:
    await hospital.incident("ann", reviewers=["sue"], hours_ago=90 * 24)
    assert await ties(hospital, "ann") == await ties(hospital, "sue") == []
    assert (await hospital.rows_of("incident"), await hospital.rows_of("entry")) == ([], [])
    assert hospital.sent == []
    await hospital.incident("ann", hours_ago=90 * 24 - 1)
    assert hospital.last("ann").template == "offer"


async def test_who_was_around_in_their_quiet_time_is_forgotten_too(hospital: Hospital) -> None:
    await hospital.answer(await hospital.offered("ann"), "ended")
    await hospital.forward(days=13)
    await hospital.incident("ann")
    await hospital.forward(days=17)
    assert await ties(hospital, "ann") == []


async def test_a_reviewer_is_forgotten(hospital: Hospital) -> None:
    await hospital.incident("ann", reviewers=["bob"])
    assert await ties(hospital, "bob") == ["exposure"]
    await hospital.forward(days=16)
    assert await ties(hospital, "bob") == []


async def test_rehearsal_plays_everything_and_going_live_ends_it(open_hospital: Open) -> None:
    rehearsing = open_hospital(outreach={"mode": "rehearsal"})
    await rehearsing.staff(member("ann"), supporter("sue"))
    await rehearsing.start()
    await rehearsing.incident("ann")
    assert await rehearsing.state() == ("waiting", ["rehearsal"])
    await rehearsing.forward(days=3)
    assert await rehearsing.state() == ("waiting", ["rehearsal"]), "nothing was sent, so nothing is stuck"
    live = open_hospital()
    await live.start()
    assert await live.state() == ("ended", ["rehearsal"])
    assert live.cancelled == [rehearsing.last("ann").request_ref]
    live.names = rehearsing.names
    await live.incident("ann", category="assault")
    assert [case.state for case in await live.cases()] == ["ended", "waiting"]


async def test_live_cases_survive_a_restart(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.start()
    assert await hospital.state() == ("supported", [])


async def test_cover_messages_reach_everybody_on_a_day_of_their_own(open_hospital: Open) -> None:
    hospital = open_hospital(outreach={"cover_every": timedelta(days=91)})
    names = [f"p{n}" for n in range(12)]
    await hospital.staff(*(member(name) for name in names), member("lee", status="left"))
    await hospital.start()
    await hospital.forward(days=6, hours=23)
    assert hospital.sent == [], "nobody's first within a week"
    days: dict[str, set[int]] = {name: set() for name in names}
    for day in range(7, 7 + 91):
        before = len(hospital.sent)
        await hospital.forward(days=1)
        for message in hospital.sent[before:]:
            days[hospital.names[message.recipient_ref]].add(day)
    assert all(len(found) == 1 for found in days.values()), "each once a quarter"
    assert len({min(found) for found in days.values()}) > 5, "on days drawn for each"
    assert {m.template for m in hospital.sent} == {"cover"}
    assert len({m.case_ref for m in hospital.sent}) == len(names), "no case, and nothing in common"
    assert await hospital.cases() == []


def test_the_day_of_a_cover_message() -> None:
    every = timedelta(days=91)
    for name in ("a", "b", "c"):
        assert at(9) + timedelta(days=7) <= first_cover(b"key", name, at(9), every) < at(9) + timedelta(days=98)
    assert first_cover(b"key", "a", at(9), every) != first_cover(b"key", "b", at(9), every)
    assert next_cover(at(9), every, at(10)) == at(9) + every
    assert next_cover(at(9), every, at(9) + 3 * every) == at(9) + 4 * every


async def test_where_death_is_expected_nobody_is_written_to_after_one(open_hospital: Open) -> None:
    hospital = open_hospital(incident={"expected_units": ("Hospice",)})
    await hospital.staff(member("ann", unit="Hospice"), member("bob"), supporter("sue"))
    await hospital.start()
    assert [(m.template, hospital.names[m.recipient_ref]) for m in hospital.sent] == [("monthly_offer", "ann")]
    await hospital.incident("ann", unit="Hospice")
    assert len(hospital.sent) == 1
    assert await hospital.cases() == []
    assert await hospital.rows_of("entry") == []
    await hospital.incident("ann", unit="Hospice", category="assault")
    assert hospital.last("ann").template == "offer", "violence is never expected"


async def test_monthly_check_ins_are_opt_in_and_can_be_stopped(open_hospital: Open) -> None:
    hospital = open_hospital(incident={"expected_units": ("Hospice",)})
    await hospital.staff(member("ann", unit="Hospice"), member("dan", unit="Hospice"), supporter("sue"))
    await hospital.start()
    await hospital.answer(hospital.last("ann"), "check_ins")
    await hospital.answer(hospital.last("dan"), "ended")
    await hospital.forward(days=61)
    assert [m.step for m in hospital.to("ann")] == ["monthly_offer", "monthly-202612", "monthly-202701"]
    assert len(hospital.to("dan")) == 1
    await hospital.answer(hospital.last("ann"), "accept", when="week")
    assert hospital.requests() == ["sue"]
    assert hospital.asking().case_ref == hospital.last("ann").case_ref, "the page's question is the case's"
    await hospital.answer(hospital.last("ann"), "ended")
    await hospital.forward(days=40)
    assert len(hospital.to("ann")) == 3

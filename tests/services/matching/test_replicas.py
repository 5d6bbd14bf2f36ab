"""Several replicas of matching on one database: what one does on a view that another has overtaken comes to nothing."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from leeward.store import Unit
from leeward.store.timing import TimerLoop
from leeward.testing import member
from services.matching.cases.session import CaseSession
from services.matching.coordinator import routes
from services.matching.lifecycle.case import RequestMessage, Transition
from tests.replicas import behind
from tests.services.matching.hospital import Hospital, Open, supporter

pytestmark = pytest.mark.database("postgresql")
Replica = Callable[[Hospital], Hospital]


@pytest.fixture
def replica(open_hospital: Open) -> Replica:
    """`replica(hospital)`: another process on the same database."""

    def make(first: Hospital) -> Hospital:
        other = open_hospital()
        other.names, other.members = first.names, first.members
        other._incidents = itertools.count(100)
        return other

    return make


@pytest.fixture
def other(hospital: Hospital, replica: Replica) -> Hospital:
    return replica(hospital)


async def open_cases(hospital: Hospital) -> list[str | None]:
    return [case.person_ref for case in await hospital.cases() if not case.over]


async def test_one_open_case_a_person(hospital: Hospital, other: Hospital) -> None:
    await behind(other.context.store, lambda: other.incident("ann", "bob"), lambda: hospital.incident("ann"))
    assert len(await open_cases(hospital)) == len(set(await open_cases(hospital))) == 2
    await hospital.reload()
    assert [m.template for m in hospital.to("ann")] == ["offer"]
    assert [m.template for m in hospital.to("bob")] == ["offer"]


async def test_who_asks_while_an_outcome_comes_has_one_case(hospital: Hospital, other: Hospital) -> None:
    await behind(other.context.store, lambda: other.ask("ann"), lambda: hospital.incident("ann"))
    assert len(await open_cases(hospital)) == 1
    await hospital.reload()
    assert [m.step for m in hospital.to("ann")] == ["offer", "asked-2"]


async def test_the_last_place_is_taken_once(open_hospital: Open, replica: Replica) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), member("bob"), supporter("sue", max_active=1))
    await hospital.start()
    other = replica(hospital)
    to_ann, to_bob = await hospital.offered("ann"), await hospital.offered("bob")
    await behind(other.context.store, lambda: other.answer(to_bob, "accept"), lambda: hospital.answer(to_ann, "accept"))
    assert await hospital.loads() == {"sue": (1, 0)}
    states = sorted(routes.case_json(case)["state"] for case in await hospital.cases())
    assert states == ["accepted", "needs_attention"]


async def test_many_who_accept_at_once_never_pass_a_limit(open_hospital: Open, replica: Replica) -> None:
    hospital = open_hospital()
    people = [f"p{n}" for n in range(8)]
    await hospital.staff(*map(member, people), supporter("sue"), supporter("tim"))
    await hospital.start()
    offers = [await hospital.offered(name) for name in people]
    replicas = [hospital, replica(hospital), replica(hospital)]
    taken = [one.answer(offer, "accept") for one, offer in zip(itertools.cycle(replicas), offers, strict=False)]
    await asyncio.gather(*taken)
    assert await hospital.loads() == {"sue": (2, 0), "tim": (2, 0)}
    assert sum(case.attention == ("no_supporter",) for case in await hospital.cases()) == 4


async def test_two_steps_of_a_case_at_once_are_one_after_the_other(hospital: Hospital, other: Hospital) -> None:
    """Even where neither changes it: the second must see what the first has sent."""
    await hospital.offered("ann")
    case = await hospital.case()
    tried: list[str] = []

    def send(unit: Unit) -> None:
        session = CaseSession(unit, other.site)
        tried.append(f"note-{len(tried)}")
        session.load([case.case_ref])
        stored = session.case(case.case_ref)
        assert stored
        session.apply(Transition(stored, (RequestMessage(tried[-1], "check_in", "person"),)))
        session.write()

    store = other.context.store
    await behind(store, lambda: store.write(send), lambda: hospital.context.store.write(send))
    assert len(tried) == 3, "the late one was tried twice"


@pytest.mark.parametrize("late", ["yes", "name"])
async def test_a_supporter_who_is_named_while_somebody_accepts_is_not_theirs(
    hospital: Hospital, other: Hospital, late: str
) -> None:
    offer = await hospital.offered("ann")
    incident, proposed = await proposal(hospital)
    if late == "yes":
        store, steps = other.context.store, (other.answer(offer, "accept"), hospital.amend(incident, proposed))
    else:
        store, steps = other.context.store, (other.amend(incident, proposed), hospital.answer(offer, "accept"))
    await behind(store, lambda: steps[0], lambda: steps[1])
    [case] = [case for case in await hospital.cases() if case.stage == "accepted"]
    assert hospital.name(case.supporter) not in ("", proposed)


async def proposal(hospital: Hospital) -> tuple[str, str]:
    """Incident, and name of the proposed supporter, of the only case."""
    case = await hospital.case()
    return str(case.incident_ref), hospital.name(case.proposed)


async def test_a_reviewer_who_is_named_while_somebody_accepts_is_not_theirs(
    hospital: Hospital, other: Hospital
) -> None:
    offer = await hospital.offered("ann")
    incident, proposed = await proposal(hospital)
    reviewed = hospital.amend(incident, reviewers=[proposed])
    await behind(other.context.store, lambda: other.answer(offer, "accept"), lambda: reviewed)
    case = await hospital.case()
    assert case.stage == "accepted"
    assert hospital.name(case.supporter) not in ("", proposed)


async def test_of_two_outcomes_taken_back_at_once_neither_keeps_the_case(hospital: Hospital, other: Hospital) -> None:
    first = await hospital.incident("ann")
    second = await other.incident("ann")
    await behind(other.context.store, lambda: other.retract(first), lambda: hospital.retract(second))
    assert await open_cases(hospital) == []


async def test_another_outcome_while_one_is_taken_back_keeps_the_offer(hospital: Hospital, other: Hospital) -> None:
    first = await hospital.incident("ann")
    await behind(other.context.store, lambda: other.retract(first), lambda: hospital.incident("ann"))
    assert len(await open_cases(hospital)) == 1


async def test_one_taken_back_while_another_outcome_comes_leaves_an_offer(hospital: Hospital, other: Hospital) -> None:
    first = await hospital.incident("ann")
    await behind(other.context.store, lambda: other.incident("ann"), lambda: hospital.retract(first))
    assert len(await open_cases(hospital)) == 1


async def test_timers_fire_once(hospital: Hospital, other: Hospital) -> None:
    await hospital.offered("ann")
    await hospital.offered("bob")
    await hospital.clock.advance(hours=73)
    loops = [TimerLoop("matching", one.context.store, one.parts.timers) for one in (hospital, other)]
    await behind(other.context.store, loops[1].fire_due, loops[0].fire_due)
    await asyncio.gather(*(loop.fire_due() for loop in loops * 3))
    await hospital.reload()
    assert [m.step for m in hospital.to("ann")] == ["offer", "reminder"]
    assert [m.step for m in hospital.to("bob")] == ["offer", "reminder"]


async def test_a_confirm_in_the_last_moment_counts(hospital: Hospital, other: Hospital) -> None:
    await hospital.accepted("ann")
    asked = hospital.asking()
    await hospital.clock.advance(hours=30)
    loop = TimerLoop("matching", other.context.store, other.parts.timers)
    await behind(other.context.store, loop.fire_due, lambda: hospital.answer(asked, "confirm"))
    await hospital.reload()
    assert (await hospital.case()).stage == "supported"
    assert len(hospital.requests()) == 1


async def test_replicas_that_start_at_once_disturb_nobody(hospital: Hospital, replica: Replica) -> None:
    await hospital.offered("ann")
    others = [replica(hospital) for _ in range(3)]
    tasks = [task(asyncio.Event()) for one in others for task in one.parts.tasks]
    await asyncio.gather(*tasks)
    timers = [row.name for row in await hospital.rows_of("timer")]
    assert sorted(timers) == ["hourly", "reminder"]


async def test_going_live_by_several_ends_a_rehearsal_once(open_hospital: Open, replica: Replica) -> None:
    played = open_hospital(outreach={"mode": "rehearsal"})
    await played.staff(member("ann"), supporter("sue"))
    await played.start()
    await played.incident("ann")
    live = [replica(played) for _ in range(3)]
    await asyncio.gather(*(task(asyncio.Event()) for one in live for task in one.parts.tasks))
    await played.reload()
    assert [what for what, _ in played.published].count("case_erased") == 1


async def test_who_leaves_while_their_case_opens_is_left_alone_within_the_hour(
    hospital: Hospital, other: Hospital
) -> None:
    gone = [one for one in hospital.members if one.display_name != "ann"]

    async def leaves() -> None:
        await hospital.staff(*gone)
        await hospital.forward(seconds=1)

    await behind(other.context.store, lambda: other.incident("ann"), leaves)
    await hospital.forward(hours=2)
    assert await open_cases(hospital) == []
    assert await hospital.mentions(other.members[0].person_ref) == []


async def test_a_case_closed_by_two_coordinators_closes_once(hospital: Hospital, other: Hospital) -> None:
    await hospital.supported("ann")
    ref = (await hospital.case()).case_ref
    await behind(
        other.context.store,
        lambda: other.as_coordinator(routes.close, ref),
        lambda: hospital.as_coordinator(routes.close, ref),
    )
    await hospital.reload()
    assert hospital.published.count(("case_closed", ref)) == 1
    assert set((await hospital.loads()).values()) == {(0, 0)}

"""Whatever a transition asks for is carried out, and a batch's needs are solved together."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

import pytest

from leeward.contracts import Answered
from leeward.store import Unit
from leeward.testing import member
from services.matching.cases import repository
from services.matching.cases.session import CaseSession
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import (
    CancelRequests,
    Case,
    DropTimer,
    Effect,
    ForgetPerson,
    KeepQuiet,
    ListForCoordinator,
    NeedsSupporter,
    Publish,
    RecordRefusal,
    ReleaseSupporter,
    RequestMessage,
    SetTimer,
    Transition,
)
from tests.services.matching.hospital import Hospital, Open, ref, supporter

pytestmark = pytest.mark.database("sqlite", "postgresql")
SUE = ref("person sue")


def opening_with(monkeypatch: pytest.MonkeyPatch, effect: Effect, **changes: Any) -> None:
    """From now on a new case asks for this besides."""
    plain = transitions.opened

    def opened(case: Case, **given: Any) -> Transition:
        transition = plain(case, **given)
        return replace(transition, case=replace(transition.case, **changes)).then(effect)

    monkeypatch.setattr(transitions, "opened", opened)


async def test_a_timer_that_a_new_case_sets_is_there(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    opening_with(monkeypatch, SetTimer("reminder", hospital.clock.now() + timedelta(hours=5)))
    await hospital.incident("ann")
    [timer] = [row for row in await hospital.rows_of("timer") if row.name == "reminder"]
    assert (timer.key, timer.due_at) == ((await hospital.case()).case_ref, hospital.clock.now() + timedelta(hours=5))


EFFECTS: list[tuple[Effect, str]] = [
    (RequestMessage("note", "check_in", "person"), "to ann: offer, note"),
    (CancelRequests("unsent"), "cancelled: offer"),
    (DropTimer("reminder"), "no timer"),
    (Publish("assigned"), "published: case_opened, case_assigned"),
    (RecordRefusal(ref("person ann"), SUE), "refused: sue"),
    (ListForCoordinator("retracted_after_sending"), "listed: retracted_after_sending"),
    (ForgetPerson(ref("person ann")), "nobody around"),
    (NeedsSupporter("proposal"), "proposed"),
]


async def seen(hospital: Hospital, what: str) -> str:
    """What there is to see of an effect, in the words of EFFECTS."""
    if what.startswith("to ann"):
        return f"to ann: {', '.join(message.step for message in hospital.to('ann'))}"
    if what.startswith("cancelled"):
        return f"cancelled: {', '.join(m.step for m in hospital.sent if m.request_ref in hospital.cancelled)}"
    if what.startswith("published"):
        return f"published: {', '.join(name for name, _ in hospital.published)}"
    if what.startswith("refused"):
        return f"refused: {', '.join(hospital.name(row.supporter_ref) for row in await hospital.rows_of('refusal'))}"
    if what.startswith("listed"):
        return f"listed: {', '.join(row.kind for row in await hospital.rows_of('entry'))}"
    if what == "no timer":
        return what if [row.name for row in await hospital.rows_of("timer")] == ["hourly"] else ""
    if what == "nobody around":
        return what if await hospital.rows_of("exposure") == [] else ""
    return what if (await hospital.case()).proposed else ""


@pytest.mark.parametrize(("effect", "what"), EFFECTS, ids=[type(effect).__name__ for effect, _ in EFFECTS])
async def test_a_new_case_may_ask_for_anything(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, effect: Effect, what: str
) -> None:
    opening_with(monkeypatch, effect)
    await hospital.incident("ann")
    assert await seen(hospital, what) == what


async def test_a_new_case_may_begin_a_quiet_time(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    until = hospital.clock.now() + timedelta(days=3)
    opening_with(monkeypatch, KeepQuiet(ref("person ann"), until))
    await hospital.incident("ann")
    [ann] = [row for row in await hospital.rows_of("person") if row.person_ref == ref("person ann")]
    assert ann.quiet_until == until


async def test_a_new_case_may_give_a_place_back(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    await hospital.accepted("bob")
    [asked] = hospital.requests()
    opening_with(monkeypatch, ReleaseSupporter(ref(f"person {asked}")))
    await hospital.incident("ann")
    assert await hospital.loads() == {asked: (0, 0)}


async def test_a_new_case_may_need_a_supporter_who_is_asked(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening_with(monkeypatch, NeedsSupporter("request"), stage="accepted")
    await hospital.incident("ann")
    assert len(hospital.requests()) == 1
    assert (await hospital.case()).supporter


def test_every_effect_is_tried() -> None:
    tried = {type(effect) for effect, _ in EFFECTS} | {SetTimer, KeepQuiet, ReleaseSupporter}
    assert tried == set(get_args(Effect))


async def test_those_who_accept_in_one_batch_never_share_a_last_place(open_hospital: Open) -> None:
    hospital = open_hospital()
    people = [f"p{n}" for n in range(6)]
    await hospital.staff(*map(member, people), supporter("sue", max_active=1), supporter("tim"))
    await hospital.start()
    offers = [await hospital.offered(name) for name in people]
    await hospital.event(*(Answered(request_ref=o.request_ref, case_ref=o.case_ref, answer="accept") for o in offers))
    assert await hospital.loads() == {"sue": (1, 0), "tim": (2, 0)}
    assert sorted(hospital.requests()) == ["sue", "tim", "tim"]
    assert sum(case.attention == ("no_supporter",) for case in await hospital.cases()) == 3


async def test_two_answers_of_one_case_in_one_batch_are_one_after_the_other(hospital: Hospital) -> None:
    offer = await hospital.offered("ann")
    answers = [
        Answered(request_ref=offer.request_ref, case_ref=offer.case_ref, answer=answer)
        for answer in ("accept", "another", "ended")
    ]
    await hospital.event(*answers)
    first, second = hospital.requests()
    assert first != second
    assert [hospital.name(row.supporter_ref) for row in await hospital.rows_of("refusal")] == [first]
    assert set((await hospital.loads()).values()) == {(0, 0)}
    assert len(hospital.cancelled) == 2
    assert (await hospital.case()).stage == "ended"


async def test_where_a_place_is_gone_the_next_best_is_asked(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = await hospital.offered("ann")
    proposed = (await hospital.case()).proposed
    plain = repository.take_place

    def take_place(conn: Any, supporter_ref: str, most: int) -> bool:
        return supporter_ref != proposed and plain(conn, supporter_ref, most)

    monkeypatch.setattr(repository, "take_place", take_place)
    await hospital.answer(offer, "accept")
    [asked] = hospital.requests()
    assert asked != hospital.name(proposed)
    loads = await hospital.loads()
    assert loads.pop(hospital.name(proposed)) == (0, 0)
    assert loads == {asked: (1, 0)}


async def test_a_case_that_waits_for_a_supporter_is_read_again_before_it_changes(hospital: Hospital) -> None:
    await hospital.offered("ann")
    stored = await hospital.case()

    def change_twice(unit: Unit) -> None:
        session = CaseSession(unit, hospital.site)
        session.load([stored.case_ref])
        accepted = transitions.accept(stored, "hours", unit.now, session.rules)
        session.apply(accepted)
        with pytest.raises(RuntimeError):
            session.apply(transitions.end(accepted.case, unit.now))
        case = session.case(stored.case_ref)
        assert case
        assert case.supporter

    await hospital.context.store.write(change_twice)

"""All needs of a batch go in, all answers come out."""

from collections import Counter
from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from services.matching.pairing.batch import Need, solve
from services.matching.pairing.scoring import Caps, Pool, Profile, Proposal, Search, State, Supporter, Workload

TODAY = date(2026, 11, 21)
NAMES = tuple(f"s{n}" for n in range(6))
PROFILES = st.builds(
    Profile,
    st.sampled_from(["nurse", "physician", "porter"]),
    st.sampled_from(["ICU", "Surgery"]),
    st.sampled_from([("en",), ("de", "en")]),
)
SUPPORTERS = st.lists(st.tuples(PROFILES, st.none() | st.integers(0, 2)), min_size=len(NAMES), max_size=len(NAMES)).map(
    lambda given: [
        Supporter(name, profile, trained_on=date(2025, 1, 1), max_active=most)
        for name, (profile, most) in zip(NAMES, given, strict=True)
    ]
)
STATES = st.builds(
    State,
    st.just(TODAY),
    st.builds(Caps, st.integers(1, 3), st.just(240)),
    st.dictionaries(st.sampled_from(NAMES), st.builds(Workload, st.integers(0, 2), st.integers(0, 250), st.booleans())),
    st.frozensets(st.sampled_from(NAMES), max_size=2),
)
NEEDS = st.lists(
    st.tuples(
        PROFILES, st.frozensets(st.sampled_from(NAMES), max_size=4), st.none() | st.sampled_from(NAMES), st.booleans()
    ),
    max_size=10,
).map(
    lambda given: [
        Need(Search(f"case {n}", profile, barred), proposed, takes_place)
        for n, (profile, barred, proposed, takes_place) in enumerate(given)
    ]
)


@given(SUPPORTERS, NEEDS, STATES)
def test_each_need_has_an_answer_and_nobody_is_given_somebody_who_may_not(
    supporters: list[Supporter], needs: list[Need], state: State
) -> None:
    answers = solve(Pool(supporters), needs, state)
    assert len(answers) == len(needs)
    for need, answer in zip(needs, answers, strict=True):
        assert answer is None or answer.person_ref not in need.search.barred


@given(SUPPORTERS, NEEDS, STATES)
def test_the_same_needs_have_the_same_answers_and_the_state_stays(
    supporters: list[Supporter], needs: list[Need], state: State
) -> None:
    before = dict(state.loads)
    assert solve(Pool(supporters), needs, state) == solve(Pool(supporters), needs, state)
    assert state.loads == before


@given(SUPPORTERS, NEEDS, STATES)
def test_two_needs_never_share_a_last_place(supporters: list[Supporter], needs: list[Need], state: State) -> None:
    taken = places(needs, solve(Pool(supporters), needs, state))
    for supporter in supporters:
        if number := taken[supporter.person_ref]:
            load = state.loads.get(supporter.person_ref, Workload())
            assert load.active + number <= state.caps.most_active(supporter)
            assert not load.resting


@given(SUPPORTERS, NEEDS, STATES)
def test_nobody_goes_without_while_somebody_has_a_place(
    supporters: list[Supporter], needs: list[Need], state: State
) -> None:
    answers = solve(Pool(supporters), needs, state)
    taken = places(needs, answers)
    for need, answer in zip(needs, answers, strict=True):
        if answer is None:
            for supporter in supporters:
                load = state.loads.get(supporter.person_ref, Workload())
                after = Workload(load.active + taken[supporter.person_ref], load.minutes, load.resting)
                assert supporter.person_ref in need.search.barred or not state.caps.allow(supporter, after)


def places(needs: list[Need], answers: list[Proposal | None]) -> Counter[str]:
    """How many places of each supporter are taken."""
    return Counter(a.person_ref for need, a in zip(needs, answers, strict=True) if a and need.takes_place)


def peers(*names: str) -> Pool:
    return Pool([Supporter(name, Profile("nurse", "Surgery", ("en",)), trained_on=date(2025, 1, 1)) for name in names])


def need(key: str, proposed: str | None = None, *, takes_place: bool = True) -> Need:
    return Need(Search(key, Profile("nurse", "ICU", ("en",))), proposed, takes_place)


def test_who_was_proposed_is_kept_unless_their_last_place_is_gone() -> None:
    state = State(TODAY, Caps(1, 240))
    first, second = solve(peers("sue", "tim"), [need("a", "tim"), need("b", "tim")], state)
    assert first
    assert second
    assert (first.person_ref, second.person_ref) == ("tim", "sue")


def test_a_proposal_takes_no_place() -> None:
    state = State(TODAY, Caps(1, 240))
    answers = solve(peers("sue"), [need("a", takes_place=False), need("b", takes_place=False), need("c")], state)
    assert [answer.person_ref for answer in answers if answer] == ["sue"] * 3
    assert solve(peers("sue"), [need("a"), need("b", takes_place=False)], state)[1] is None

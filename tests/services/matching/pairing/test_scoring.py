"""Who may support whom, and who suits best."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeward.settings.policy import Supporters
from leeward.testing import member
from services.matching.pairing.batch import Need, solve
from services.matching.pairing.scoring import Caps, Pool, Profile, Search, State, Supporter, Workload, alike
from services.matching.roster.people import Colleague, People
from tests.services.matching.hospital import Hospital, Open, ref, supporter

TODAY = date(2026, 11, 21)
CAPS = Caps.of(Supporters())
ANN = Profile("nurse", "ICU", ("en", "de"))


def peer(name: str, profession: str = "nurse", unit: str = "Surgery", *languages: str) -> Supporter:
    return Supporter(name, Profile(profession, unit, languages or ("en",)), trained_on=date(2025, 1, 1))


def best(supporters: list[Supporter], state: State | None = None, barred: frozenset[str] = frozenset()) -> str | None:
    found = Pool(supporters).best(Search("case", ANN, barred), state or State(TODAY, CAPS))
    return found.person_ref if found else None


def proposal(key: str) -> Need:
    return Need(Search(key, ANN), None, takes_place=False)


def test_the_same_profession_of_another_unit_who_shares_a_language_suits_best() -> None:
    everybody = [
        peer("same unit", unit="ICU"),
        peer("no language", "nurse", "Surgery", "pl"),
        peer("right"),
        peer("other profession", "porter"),
        peer("similar", "midwife"),
    ]
    pool = Pool(everybody)
    order: list[str] = []
    while found := pool.best(Search("case", ANN, frozenset(order)), State(TODAY, CAPS)):
        order.append(found.person_ref)
    assert order == ["right", "similar", "no language", "same unit", "other profession"]


def test_reasons_are_codes() -> None:
    found = Pool([peer("right")]).best(Search("case", ANN), State(TODAY, CAPS))
    assert found
    assert found.reasons == ("same_profession", "other_unit", "first_language", "light_load")
    assert found.score == alike(ANN, peer("right").profile)[0]


@pytest.mark.parametrize(
    "changed",
    [
        {"trained_on": None, "training_ends": None},
        {"trained_on": date(2026, 12, 1)},
        {"trained_on": None, "training_ends": date(2026, 11, 20)},
        {"training_ends": date(2026, 11, 20)},
        {"ready": False},
        {"max_active": 0},
    ],
)
def test_hard_exclusions_of_the_roster(changed: dict[str, object]) -> None:
    assert best([replace(peer("sue"), **changed)]) is None  # type: ignore[arg-type]


def test_either_date_of_training_alone_is_enough() -> None:
    assert best([replace(peer("sue"), trained_on=None, training_ends=date(2027, 1, 1))]) == "sue"
    assert best([replace(peer("sue"), trained_on=date(2026, 1, 1), training_ends=None)]) == "sue"


def test_the_day_training_ends_still_counts() -> None:
    assert best([replace(peer("sue"), training_ends=TODAY)]) == "sue"


@pytest.mark.parametrize("load", [Workload(active=2), Workload(minutes=240), Workload(resting=True)])
def test_caps(load: Workload) -> None:
    assert best([peer("sue")], State(TODAY, CAPS, {"sue": load})) is None


def test_a_supporters_own_lower_limit_wins_over_the_sites() -> None:
    busy = State(TODAY, CAPS, {"sue": Workload(active=1)})
    assert best([replace(peer("sue"), max_active=1)], busy) is None
    assert best([replace(peer("sue"), max_active=9)], State(TODAY, CAPS, {"sue": Workload(active=2)})) is None


def test_light_load_is_preferred_among_equals_and_weighed_against_the_rest() -> None:
    busy = State(TODAY, CAPS, {"sue": Workload(active=1)})
    assert best([peer("sue"), peer("tim")], busy) == "tim"
    assert best([peer("sue"), peer("tim", "porter")], busy) == "sue"


def test_duty_for_support_is_preferred_among_equals() -> None:
    assert best([peer(name) for name in "abc"], State(TODAY, CAPS, on_duty=frozenset("c"))) == "c"


def test_ties_are_repeatable_and_even() -> None:
    pool = Pool([peer(f"s{n}") for n in range(10)])
    chosen = [pool.best(Search(f"case {n}", ANN), State(TODAY, CAPS)) for n in range(1000)]
    again = [pool.best(Search(f"case {n}", ANN), State(TODAY, CAPS)) for n in range(1000)]
    assert chosen == again
    counts = [sum(p is not None and p.person_ref == f"s{n}" for p in chosen) for n in range(10)]
    assert min(counts) > 60


def test_a_batch_spreads_equal_choices_and_leaves_nobody_without() -> None:
    pool = Pool([peer(f"s{n}") for n in range(5)])
    found = solve(pool, [proposal(f"case {n}") for n in range(20)], State(TODAY, CAPS))
    chosen = [p.person_ref for p in found if p]
    assert sorted(chosen.count(f"s{n}") for n in range(5)) == [4] * 5


PROFILES = st.builds(
    Profile,
    st.sampled_from(["nurse", "midwife", "physician", "porter"]),
    st.sampled_from(["ICU", "Surgery", "Ward 3"]),
    st.sampled_from([("en",), ("de", "en"), ("pl",)]),
)
LOADS = st.builds(Workload, st.integers(0, 3), st.integers(0, 300), st.booleans(), st.integers(0, 3))


@given(
    st.lists(PROFILES, min_size=1, max_size=12),
    PROFILES,
    st.dictionaries(st.integers(0, 11), LOADS),
    st.frozensets(st.integers(0, 11)),
    st.frozensets(st.integers(0, 11)),
)
def test_the_quick_search_finds_what_looking_at_everybody_finds(
    profiles: list[Profile],
    person: Profile,
    loads: dict[int, Workload],
    duty: frozenset[int],
    barred: frozenset[int],
) -> None:
    supporters = [Supporter(f"s{n}", profile, trained_on=date(2025, 1, 1)) for n, profile in enumerate(profiles)]
    state = State(TODAY, CAPS, {f"s{n}": load for n, load in loads.items()}, frozenset(f"s{n}" for n in duty))
    looked = Search("case", person, frozenset(f"s{n}" for n in barred))

    def score(one: Supporter) -> int:
        load = state.loads.get(one.person_ref, Workload())
        return alike(person, one.profile)[0] - load.cost + (8 if one.person_ref in state.on_duty else 0)

    may = [s for s in supporters if s.person_ref not in looked.barred and state.allows(s)]
    found = Pool(supporters).best(looked, state)
    assert (found.score if found else None) == max(map(score, may), default=None)


def test_line_managers_either_way_and_the_person_are_never_chosen() -> None:
    known = {name: Colleague(name, name, ANN, "UTC", "active", reachable=True) for name in ("ann", "boss")}
    related = {"ann": frozenset({"boss"}), "boss": frozenset({"ann"})}
    people = People("1", known, {}, related, Pool([]))
    assert people.barred_for("ann") == {"ann", "boss"}
    assert people.barred_for("boss") == {"ann", "boss"}


async def test_the_roster_bars_line_managers_reviewers_and_those_around(open_hospital: Open) -> None:
    hospital = open_hospital()
    lead = supporter("lead")
    student = supporter("student", line_managers=(ref("person ann"),))
    await hospital.staff(
        member("ann", line_managers=(lead.person_ref,)),
        lead,
        student,
        supporter("reviewer"),
        supporter("there"),
        supporter("away", status="away"),
        supporter("silent", email=""),
        supporter("untrained", training_completed=None, training_expires=None),
    )
    await hospital.incident("ann", "there", reviewers=["reviewer"])
    [ann] = [case for case in await hospital.cases() if case.person_ref == ref("person ann")]
    assert (ann.proposed, ann.attention) == (None, ("no_supporter",))
    await hospital.answer(hospital.last("ann"), "accept", when="now")
    assert hospital.requests() == []


async def test_who_was_around_stays_barred_after_being_forgotten(hospital: Hospital) -> None:
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.incident("ann", "sue")
    await hospital.outcome(hospital.last("sue"))
    await hospital.answer(hospital.last("ann"), "not_now", again="month")
    await hospital.forward(days=31)
    assert ref("person sue") not in str(await hospital.rows_of("exposure")), "sue's tie to the outcome is gone"
    await hospital.answer(hospital.last("ann"), "accept", when="days")
    assert hospital.requests() == []


async def test_an_import_from_another_process_is_noticed(hospital: Hospital) -> None:
    await hospital.staff(member("ann"), supporter("sue", training_expires=date(2026, 1, 1)))
    await hospital.accepted("ann")
    assert hospital.requests() == []
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.forward(hours=2)
    assert hospital.requests() == ["sue"]


async def test_a_supporter_nobody_reaches_is_asked_nothing(hospital: Hospital) -> None:
    for name in ("sue", "tim", "una"):
        await hospital.reachable(name, yes=name == "una")
    await hospital.accepted("ann")
    assert hospital.requests() == ["una"]

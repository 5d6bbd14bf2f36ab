"""What a report says, and that nobody's answer can be worked out from it."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.feedback import reports
from services.feedback.reports import CAPPED, GROUP_OF, GROUPS, ITEMS, TAGS, Rating

RATINGS = st.builds(
    Rating,
    st.tuples(*(st.integers(0, 5) for _ in ITEMS)),
    st.sets(st.sampled_from(TAGS)).map(lambda chosen: tuple(tag for tag in TAGS if tag in chosen)),
)
COUNTS = st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(lambda counts: sum(counts) >= 10)


def alike(count: int, answer: int = 5) -> list[Rating]:
    return [Rating((answer,) * len(ITEMS))] * count


def test_nine_say_nothing() -> None:
    assert reports.figures(alike(9)) is None


def test_ten_of_one_mind_are_only_said_to_be_most() -> None:
    found = reports.figures(alike(10))
    assert found is not None
    assert found["n"] == 10
    assert found["items"]["heard"] == {"agree": CAPPED, "neither": None, "disagree": None, "no_answer": None}


def test_nine_of_ten_read_the_same_as_ten_of_ten() -> None:
    one_other = [*alike(9), Rating((1,) * len(ITEMS))]
    assert reports.figures(one_other) == reports.figures(alike(10))


def test_a_small_group_takes_its_neighbours_with_it() -> None:
    two_unhappy = [*alike(8), *alike(2, 1)]
    found = reports.figures(two_unhappy)
    assert found is not None
    assert set(found["items"]["soon"].values()) == {None}, "80 % would tell that exactly two did not agree"


def test_larger_groups_are_shown() -> None:
    found = reports.figures([*alike(6), *alike(6, 3), *alike(4, 2), *alike(4, 0)])
    assert found is not None
    assert found["items"]["again"] == {"agree": "30 %", "neither": "30 %", "disagree": "20 %", "no_answer": "20 %"}


def test_a_tag_is_shown_only_with_enough_people_on_both_sides() -> None:
    tagged, bare = Rating((4,) * len(ITEMS), ("too_short",)), Rating((4,) * len(ITEMS))
    shown = {count: reports.figures([tagged] * count + [bare] * (20 - count)) for count in (0, 2, 3, 17, 18, 20)}
    said = {count: found and found["tags"]["too_short"] for count, found in shown.items()}
    assert said == {0: None, 2: None, 3: "15 %", 17: "85 %", 18: CAPPED, 20: CAPPED}


@given(COUNTS)
def test_what_is_withheld_cannot_be_subtracted_back(counts: list[int]) -> None:
    groups = dict(zip(GROUPS, counts, strict=True))
    said = reports.shares(groups)
    withheld = [group for group, share in said.items() if share is None]
    if CAPPED in said.values():
        assert [share for share in said.values() if share] == [CAPPED]
        return
    assert all(groups[group] >= 3 for group, share in said.items() if share)
    if withheld and len(withheld) < len(groups):
        assert len(withheld) >= 2
        assert sum(groups[group] for group in withheld) >= 3


@given(COUNTS)
def test_a_share_says_ninety_per_cent_exactly_when_it_is_that_or_more(counts: list[int]) -> None:
    groups = dict(zip(GROUPS, counts, strict=True))
    for group, share in reports.shares(groups).items():
        assert (share == CAPPED) == (groups[group] >= 0.9 * sum(counts))


@given(st.lists(RATINGS, max_size=40), st.randoms(use_true_random=False))
def test_order_says_nothing(ratings: list[Rating], chance: random.Random) -> None:
    mixed = list(ratings)
    chance.shuffle(mixed)
    assert reports.figures(mixed) == reports.figures(ratings)


@given(st.lists(RATINGS, max_size=40))
def test_no_figure_without_ten_people(ratings: list[Rating]) -> None:
    found = reports.figures(ratings)
    assert (found is None) == (len(ratings) < 10)
    if found:
        for place, item in enumerate(ITEMS):
            counts = Counter(GROUP_OF[rating.answers[place]] for rating in ratings)
            shown = [group for group, share in found["items"][item].items() if share]
            assert all(counts[group] >= 3 for group in shown)


@given(RATINGS)
def test_every_rating_has_one_size_and_comes_back(rating: Rating) -> None:
    text = reports.payload(rating)
    assert len(text) == reports.PAYLOAD
    assert reports.parse(text) == rating


def changed(**parts: object) -> bytes:
    whole = json.loads(reports.payload(Rating((5,) * len(ITEMS))))
    return json.dumps({**whole, **parts}).ljust(reports.PAYLOAD).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}".ljust(256),
        b"[" * 256,
        b"\xff" * 256,
        changed(free="text of somebody's own"),
        changed(tags=["no_such_tag"]),
        changed(tags=["practical", "practical"]),
        changed(items={"easy": 5}),
        changed(items=dict.fromkeys(ITEMS, 6)),
        changed(items=dict.fromkeys(ITEMS, True)),
        changed(items=dict.fromkeys(ITEMS, "5")),
        reports.payload(Rating((5,) * len(ITEMS))) + b" ",
    ],
)
def test_what_is_no_rating_is_not_read(text: bytes) -> None:
    with pytest.raises(reports.UnreadableRating):
        reports.parse(text)

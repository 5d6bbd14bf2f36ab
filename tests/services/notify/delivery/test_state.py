"""What can be answered when, and what becomes of a delivery."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeward.contracts import Answered
from services.notify.channels import ChannelEntry, Result
from services.notify.channels.email import EMAIL
from services.notify.channels.registry import CHANNELS
from services.notify.delivery.state import NEXT, DeliveryState, Waiting, after_attempt, look_at
from services.notify.questions.question import (
    ANSWERS,
    FIELDS,
    UNDO,
    Impossible,
    Incomplete,
    Question,
    alive,
    decide,
    possible,
)
from services.notify.recipients.names import first_name

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
LATER = NOW + timedelta(days=14)
ALL_ANSWERS = sorted({a for states in ANSWERS.values() for answers in states.values() for a in answers})
FILLED = {name: values[0] for fields in FIELDS.values() for name, values in fields.items()}


def question(template: str = "offer") -> Question:
    return Question(template=template, expires_at=LATER)


@given(st.sampled_from(sorted(ANSWERS)), st.lists(st.sampled_from(ALL_ANSWERS), max_size=12))
def test_whatever_is_tapped_in_whatever_order_every_state_has_a_page_and_a_way_out(
    template: str, taps: list[str]
) -> None:
    now, asked = NOW, question(template)
    for tap in taps:
        now += timedelta(hours=1)
        try:
            decision = decide(asked, tap, FILLED, now)
        except Impossible:
            assert tap not in possible(asked, now)
            continue
        asked = decision.question
        assert asked.answered
        if decision.publish is not None:
            told = Answered(
                request_ref="00000000-0000-4000-8000-000000000000",
                case_ref="00000000-0000-4000-8000-000000000000",
                answer=decision.publish,
                options=dict(decision.options),
            )
            assert told.answer not in ("no_thanks", "withdraw", "undo", "keep")
        assert "how" not in decision.options
    if template in ("offer", "check_in", "follow_up", "monthly_offer"):
        assert possible(asked, now)[-1] == "talk_now"


@pytest.mark.parametrize("answer", sorted(FIELDS))
def test_an_answer_with_fields_missing_or_made_up_names_them(answer: str) -> None:
    asked = question("supporter_request" if answer == "close" else "offer")
    if answer == "close":
        asked = decide(asked, "confirm", {}, NOW).question
    for name in FIELDS[answer]:
        for wrong in ({**FILLED, name: "made-up"}, {k: v for k, v in FILLED.items() if k != name}):
            with pytest.raises(Incomplete) as fault:
                decide(asked, answer, wrong, NOW)
            assert fault.value.fields == (name,)


def test_a_no_a_withdrawal_and_never_look_the_same_from_outside() -> None:
    accepted = decide(question(), "accept", FILLED, NOW).question
    assert decide(question(), "no_thanks", {}, NOW).publish == "ended"
    assert decide(accepted, "withdraw", {}, NOW).publish == "ended"
    never = decide(question(), "not_now", {"again": "never"}, NOW)
    assert never.question.state == "declined"


def test_undo_is_there_for_a_day() -> None:
    declined = decide(question(), "no_thanks", {}, NOW).question
    assert "undo" in possible(declined, NOW + UNDO - timedelta(seconds=1))
    assert "undo" not in possible(declined, NOW + UNDO)


def test_a_link_lives_as_long_as_its_question() -> None:
    assert alive(question(), LATER - timedelta(seconds=1))
    assert not alive(question(), LATER)
    assert alive(decide(question(), "accept", FILLED, NOW).question, LATER + timedelta(days=60))
    late = decide(question(), "no_thanks", {}, LATER - timedelta(hours=1)).question
    assert alive(late, LATER + timedelta(hours=22))
    assert not alive(late, LATER + timedelta(hours=23))


results = st.sampled_from(list(Result))


@given(st.sampled_from(CHANNELS), st.lists(results, min_size=1, max_size=60))
def test_a_delivery_moves_along_its_states_and_ends(entry: ChannelEntry[Any], reports: list[Result]) -> None:
    attempts = doubts = 0
    for report in reports:
        progress = after_attempt(report, attempts, doubts, entry.repeats_in_doubt, NOW)
        assert progress.state in NEXT[DeliveryState.SENDING]
        assert progress.due_at >= NOW
        attempts, doubts = progress.attempts, progress.doubts
        if progress.state is not DeliveryState.QUEUED:
            return


def test_mail_in_doubt_is_repeated_once() -> None:
    once = EMAIL.repeats_in_doubt
    first = after_attempt(Result.UNSURE, 0, 0, once, NOW)
    assert first.state is DeliveryState.QUEUED
    assert after_attempt(Result.UNSURE, first.attempts, first.doubts, once, NOW).state is DeliveryState.UNKNOWN


def test_what_never_reached_the_other_side_is_tried_for_ever() -> None:
    attempts = 0
    for _ in range(1000):
        progress = after_attempt(Result.NOT_TRIED, attempts, 0, 1, NOW)
        assert progress.state is DeliveryState.QUEUED
        attempts = progress.attempts


def waiting(**given_values: object) -> Waiting:
    values: dict[str, object] = {
        "answered": False,
        "gone": False,
        "rehearsal": False,
        "due_at": NOW,
        "opens_at": NOW,
        "hold_deadline": None,
        "expires_at": LATER,
    }
    return Waiting(**{**values, **given_values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given_values", "state"),
    [
        ({}, "sending"),
        ({"answered": True}, "cancelled"),
        ({"gone": True}, "cancelled"),
        ({"rehearsal": True}, "rehearsed"),
        ({"expires_at": NOW}, "expired"),
        ({"due_at": NOW + timedelta(minutes=1)}, "queued"),
        ({"opens_at": NOW + timedelta(hours=9)}, "queued"),
        ({"opens_at": NOW + timedelta(hours=9), "hold_deadline": NOW}, "held_too_long"),
        ({"opens_at": NOW + timedelta(hours=9), "hold_deadline": NOW + timedelta(hours=1)}, "queued"),
        ({"hold_deadline": NOW}, "sending"),
        ({"hold_deadline": NOW - timedelta(minutes=1)}, "held_too_long"),
    ],
)
def test_a_queued_delivery_is_looked_at_before_it_leaves(given_values: dict[str, object], state: str) -> None:
    assert look_at(waiting(**given_values), NOW) == state


@pytest.mark.parametrize(
    ("shown", "called"),
    [
        ("Anna Weber", "Anna"),
        ("Dr. med. Anna Weber", "Anna"),
        ("Weber, Anna", "Anna"),
        ("Prof. Dr. Weber, Dr. Anna Maria", "Anna"),
        ("Anna", "Anna"),
        ("Dr.", "Dr."),
        ("Jean-Luc Picard", "Jean-Luc"),
        ("", ""),
    ],
)
def test_first_names(shown: str, called: str) -> None:
    assert first_name(shown) == called

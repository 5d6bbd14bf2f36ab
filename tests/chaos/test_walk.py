"""Random lives keep every rule of the pure state machine, and a rule that is broken is seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from services.matching.lifecycle.case import STAGES, Attention, CancelRequests, ReleaseSupporter, SetTimer, Transition
from services.notify.delivery.state import DeliveryState
from tests.chaos.points import resolve
from tests.chaos.walk import walk
from tests.chaos.ward import Lost

LIVES, SEED = 2_000, 20261121
_LIFECYCLE = "services.matching.lifecycle"
Around = Callable[[Any], Any]


def test_two_thousand_lives_keep_every_rule_and_see_every_stage_and_reason() -> None:
    seen = walk(LIVES, SEED)
    assert seen.lives >= LIVES
    assert {stage for stage, *_ in seen.shapes} == set(STAGES)
    # what the hold's end gives up is never `expired` under these rules: it comes first
    assert {reason for _, reasons, *_ in seen.shapes for reason in reasons} >= {*get_args(Attention)} - {"expired"}


def without(kind: type[Any], name: str = "") -> Around:
    """The same transitions, one effect of theirs left out."""

    def around(function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Transition:
            made: Transition = function(*given, **named)
            kept = (one for one in made.effects if type(one) is not kind or name not in repr(one))
            return Transition(made.case, tuple(kept))

        return call

    return around


def nothing(_function: Any) -> Any:
    """An input that is not heard."""
    return lambda case, *_given, **_named: case if isinstance(case, Transition) else Transition(case)


def by_one_name(function: Any) -> Any:
    def offer(transition: Transition, name: str, *given: Any) -> Transition:
        made: Transition = function(Transition(replace(transition.case, offers=0), transition.effects), name, *given)
        return made

    return offer


def never_given_up(function: Any) -> Any:
    def look(*given: Any) -> DeliveryState:
        state: DeliveryState = function(*given)
        ends = (DeliveryState.EXPIRED, DeliveryState.HELD_TOO_LONG, DeliveryState.CANCELLED)
        return DeliveryState.QUEUED if state in ends else state

    return look


BUGS: list[tuple[str, Around, str]] = [
    (f"{_LIFECYCLE}.transitions:let_go", without(ReleaseSupporter), "carry"),
    (f"{_LIFECYCLE}.transitions:let_go", without(CancelRequests), "links to supporters"),
    (f"{_LIFECYCLE}.steps:stuck", nothing, "accepted, with neither"),
    (f"{_LIFECYCLE}.transitions:stuck", nothing, "accepted, with neither"),
    (f"{_LIFECYCLE}.transitions:supporter_found", without(SetTimer), "accepted, with neither"),
    (f"{_LIFECYCLE}.transitions:confirm", without(SetTimer, "not_closed"), "supported, without"),
    (f"{_LIFECYCLE}.transitions:next_check_in", without(SetTimer), "following up, without"),
    (f"{_LIFECYCLE}.transitions:lapse", nothing, "for longer than it should"),
    (f"{_LIFECYCLE}.transitions:limit", nothing, "90 days"),
    (f"{_LIFECYCLE}.transitions:attended", nothing, "on_call_silent stays"),
    (f"{_LIFECYCLE}.transitions:seen", nothing, "never_reached stays"),
    (f"{_LIFECYCLE}.transitions:reassign", nothing, "stays whatever is done"),
    (f"{_LIFECYCLE}.transitions:coordinator_close", nothing, "not_closed stays"),
    (f"{_LIFECYCLE}.transitions:offer", by_one_name, "used twice"),
    ("tests.chaos.ward:look_at", never_given_up, "no end"),
]


@pytest.mark.parametrize(("place", "around", "says"), BUGS, ids=[f"{place}-{says}" for place, _, says in BUGS])
def test_a_broken_rule_is_seen(place: str, around: Around, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, function = resolve(place)
    monkeypatch.setattr(owner, name, around(function))
    with pytest.raises(Lost, match=says):
        walk(LIVES, SEED)

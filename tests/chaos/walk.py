"""A walk over random lives of the pure state machine: cases, the messages they ask for, and the pages those lead to.

Nothing is stored and nothing is sent: `services.matching.lifecycle`, `services.notify.delivery.state` and
`services.notify.questions.question` are fed with whatever may come next, drawn from a seed, until nothing is left.
"""

import concurrent.futures
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Attention
from services.notify.channels import Result
from tests.chaos.ward import LIVE, REHEARSED, Lost, Ward

LIVES: Final = 100_000
PEOPLE: Final = 3  # lives of a ward, which compete for its supporters
STEPS: Final = 15
TO_THE_END: Final = 8  # one ward in so many is left alone until all is over
WAITS: Final = tuple(timedelta(minutes=m) for m in (0, 1, 10, 40, 60, 300, 720, 1440, 4320, 11520, 21600))
RESULTS: Final = (
    *[Result.TAKEN] * 7,
    Result.REFUSED,
    Result.BOUNCED,
    Result.NOT_TRIED,
    Result.ILL,
    Result.UNSURE,
    Result.LATER,
)
_STUCK: Final[tuple[Attention | None, ...]] = (None, None, None, None, "unreachable", "held_too_long")
# a relay that takes everything, one that is never there, and one of which nobody knows
RELAYS: Final = (Result.TAKEN, Result.NOT_TRIED, Result.ILL, Result.UNSURE)


@dataclass
class Walk:
    """What a walk has seen: how many lives, and every shape that a case has had."""

    lives: int = 0
    steps: int = 0
    shapes: set[tuple[Any, ...]] = field(default_factory=set)


def live(number: int, walk: Walk) -> None:
    """The lives of one ward, drawn from its number.

    Raises:
        Lost: where a rule is broken; it says with which number.
    """
    chance = random.Random(number)
    ward = Ward(chance, REHEARSED if number % 20 == 0 else LIVE)
    try:
        for person in "abc"[:PEOPLE]:
            not_before = chance.choice((None, ward.now + timedelta(hours=8)))
            case = ward.open(person)
            ward.apply(transitions.opened(case, not_before=not_before, stuck=chance.choice(_STUCK)))
        for _ in range(STEPS):
            step(ward, walk)
        if number % TO_THE_END == 0:
            ward.run_out(lambda: chance.choice(RESULTS))
    except Lost as fault:
        raise Lost(f"{fault} (ward {number})") from fault
    walk.lives += PEOPLE


def step(ward: Ward, walk: Walk) -> None:
    """One thing happens; what has not been seen before is looked into for its ways out."""
    chance = ward.chance
    ward.pass_time(chance.choice(WAITS), lambda: chance.choice(RESULTS))
    chance.choice(HAPPENS)(ward)
    walk.steps += 1
    touched, ward.touched = ward.touched, set()
    for ref in sorted(touched):
        if (shape := ward.shape(ward.cases[ref])) not in walk.shapes:
            walk.shapes.add(shape)
            ward.settle(ref)
            for result in RELAYS:
                ward.copy().run_out(lambda result=result: result)  # type: ignore[misc]


def _answer(ward: Ward) -> None:
    ward.answer()


def _ask(ward: Ward) -> None:
    ward.ask(ward.chance.choice("abc"[:PEOPLE]))


def _attend(ward: Ward) -> None:
    listed = [(case, reason) for case in ward.cases.values() for reason in case.attention]
    if listed:
        ward.attend(*ward.chance.choice(listed))


def _interfere(ward: Ward) -> None:
    ward.interfere(ward.chance.choice(list(ward.cases.values())))


def _bounce(ward: Ward) -> None:
    ward.bounce()


HAPPENS: Final[tuple[Callable[[Ward], None], ...]] = (*[_answer] * 24, _ask, _attend, _attend, _interfere, _bounce)


def walk(lives: int, seed: int) -> Walk:
    """Walk over so many lives in this process, the first ward being the one of the seed.

    Raises:
        Lost: at the first rule that is broken.
    """
    seen = Walk()
    for number in range(seed, seed + -(-lives // PEOPLE)):
        live(number, seen)
    return seen


def walk_far(lives: int, seed: int) -> Walk:
    """The same on all cores.

    Raises:
        Lost: at the first rule that is broken.
    """
    parts = os.cpu_count() or 1
    each = -(-lives // parts)
    whole = Walk()
    with concurrent.futures.ProcessPoolExecutor(parts, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(walk, [each] * parts, [seed + n * each for n in range(parts)]):
            whole.lives, whole.steps = whole.lives + part.lives, whole.steps + part.steps
            whole.shapes |= part.shapes
    return whole


def report(lives: int, seed: int) -> bool:
    """Walk far and say in one line how it was; whether every rule held."""
    began = time.monotonic()
    try:
        seen = walk_far(lives, seed)
    except Lost as fault:
        print(f"walk: BROKEN: {fault}", flush=True)
        return False
    spent = time.monotonic() - began
    print(f"walk: {seen.lives} lives, {seen.steps} steps, {len(seen.shapes)} states, {spent:.1f} s: kept", flush=True)
    return True

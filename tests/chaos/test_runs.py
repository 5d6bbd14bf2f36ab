"""Short chaos: a run of each mode keeps every promise, and the checker sees what is broken when it is."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.chaos import hospital
from tests.chaos.__main__ import with_bug
from tests.chaos.books import Books
from tests.chaos.bugs import BREAKS
from tests.chaos.evidence import AtRest, Evidence
from tests.chaos.hours import RATE
from tests.chaos.many import Many
from tests.chaos.outside import Arrival
from tests.chaos.people import Given
from tests.chaos.plan import plan
from tests.chaos.promises import broken
from tests.chaos.run import carry_out
from tests.chaos.times import WINDOW
from tests.chaos.watch import overburdened
from tests.chaos.worlds import Embedded, surroundings

SEED = 20261121
QUICK = ("acknowledge_before_commit", "no_inbox")  # the others take longer: `make chaos` plants them all


def without_an_offer(evidence: Evidence) -> None:
    """One person's messages never came."""
    evidence.arrivals = [one for one in evidence.arrivals if one.to != _offered(evidence)]


def under_another_id(evidence: Evidence) -> None:
    """A message came a second time, under a key of its own."""
    first = next(one for one in evidence.arrivals if one.to == _offered(evidence))
    evidence.arrivals.append(replace(first, key="0" * 32))


def at_night(evidence: Evidence) -> None:
    """Everything came an hour earlier."""
    hour = 3600 / RATE
    evidence.arrivals = [replace(one, begun=one.begun - hour, at=one.at - hour) for one in evidence.arrivals]


def after_an_answer(evidence: Evidence) -> None:
    """A message came again long after it had been answered."""
    answer = next(one for one in evidence.given if one.fate == "taken" and one.key)
    message = next(one for one in evidence.arrivals if one.key == answer.key)
    late = answer.at + WINDOW + 1
    evidence.arrivals.append(replace(message, begun=late, at=late))


def left_as_sending(evidence: Evidence) -> None:
    evidence.at_rest.rows("notify", "delivery")[0]["state"] = "sending"


def one_event_not_taken(evidence: Evidence) -> None:
    evidence.at_rest.rows("matching", "inbox").pop()


def parked(evidence: Evidence) -> None:
    evidence.at_rest.rows("notify", "parked").append({"fault": "ValueError", "place": "here:1"})


def overburdened_by_one(evidence: Evidence) -> None:
    """A supporter carries one more than their cases say."""
    loads = evidence.at_rest.rows("matching", "load")
    loads[0]["active"] += 1


def an_answer_forgotten(evidence: Evidence) -> None:
    for question in evidence.at_rest.rows("notify", "question"):
        question["said"] = ""


def for_another_outcome(evidence: Evidence) -> None:
    """Somebody was offered somebody, for an outcome that they were not around."""
    books, to = Books(evidence), _offered(evidence)
    for case in books.cases_of[books.persons[to]]:
        case["incident_ref"] = "another"


def nobody_was_paged(evidence: Evidence) -> None:
    evidence.arrivals = [one for one in evidence.arrivals if one.to != hospital.PROFESSIONAL]


def without_timers(evidence: Evidence) -> None:
    evidence.at_rest.rows("matching", "timer").clear()


def long_after(evidence: Evidence) -> None:
    """Somebody's offer came a minute late."""
    first = next(one for one in evidence.arrivals if one.to == _offered(evidence))
    evidence.arrivals = [
        replace(one, begun=one.begun + 60) if one.key == first.key else one for one in evidence.arrivals
    ]


def before_it_was_called_for(evidence: Evidence) -> None:
    """A supporter was asked before anybody had answered."""
    books = Books(evidence)
    first = next(one for one in evidence.arrivals if books.step(one) == "request-1")
    evidence.arrivals.append(replace(first, begun=min(evidence.sent.values()), at=first.at))
    evidence.arrivals.sort(key=lambda one: one.begun)


def timers_for_months(evidence: Evidence) -> None:
    for row in evidence.at_rest.rows("matching", "timer"):
        row["due_at"] += timedelta(days=100)


def the_second_first(evidence: Evidence) -> None:
    """What came as a request to a supporter had been the offer, and what came as the offer a reminder of it."""
    books = Books(evidence)
    offers = {books.deliveries[one.key]["case_ref"]: one for one in evidence.arrivals if books.step(one) == "offer"}
    requests = (one for one in evidence.arrivals if books.step(one) == "request-1")
    request = next(one for one in requests if books.deliveries[one.key]["case_ref"] in offers)
    offer = offers[books.deliveries[request.key]["case_ref"]]
    books.deliveries[offer.key]["step"], books.deliveries[request.key]["step"] = "reminder", "offer"


def paged_again(evidence: Evidence) -> None:
    """A page came after somebody had said that they are there."""
    page = next(one for one in evidence.arrivals if one.to == hospital.PROFESSIONAL)
    evidence.given.append(Given(page.to, page.key, "acknowledge", "taken", page.begun - WINDOW - 1))


def merged_into_two(evidence: Evidence) -> None:
    rows = evidence.at_rest.rows("incident", "incident")
    rows.append({**rows[0], "incident_ref": "another"})


def asked_to_review_and_to_help(evidence: Evidence) -> None:
    """A supporter who looks into a death got a message of its case."""
    books = Books(evidence)
    for death in (one for one in evidence.plan.deaths if one.reviewers):
        cases = {ref for ref, row in books.cases.items() if row["incident_ref"] in books.incidents_of[death.number]}
        came = [one for one in evidence.arrivals if any(_in(books, one, ref) for ref in cases)]
        if came:
            evidence.arrivals.append(replace(came[0], to=hospital.contacts()[death.reviewers[-1]]))
            return


def after_leaving(evidence: Evidence) -> None:
    evidence.left = {_offered(evidence): (0.0, 0.0)}


def carrying_too_much(evidence: Evidence) -> None:
    loads = evidence.at_rest.rows("matching", "load")
    loads[0]["active"] = hospital.CAPACITY + 1
    evidence.held = overburdened(evidence.at_rest, one_moment=False)


TAMPERING: list[tuple[Callable[[Evidence], None], str]] = [
    (without_an_offer, "lost"),
    (an_answer_forgotten, "lost"),
    (under_another_id, "twice"),
    (at_night, "early"),
    (after_an_answer, "after an answer"),
    (left_as_sending, "half-applied"),
    (one_event_not_taken, "half-applied"),
    (parked, "half-applied"),
    (overburdened_by_one, "half-applied"),
    (for_another_outcome, "lost"),
    (nobody_was_paged, "lost"),
    (without_timers, "lost"),
    (long_after, "late"),
    (before_it_was_called_for, "early"),
    (timers_for_months, "late"),
    (the_second_first, "out of order"),
    (paged_again, "after an answer"),
    (merged_into_two, "twice"),
    (asked_to_review_and_to_help, "wrong person"),
    (after_leaving, "wrong person"),
    (carrying_too_much, "half-applied: a supporter carries"),
]


def _in(books: Books, arrival: Arrival, case_ref: str) -> bool:
    return arrival.key in books.deliveries and books.deliveries[arrival.key]["case_ref"] == case_ref


def _offered(evidence: Evidence) -> str:
    """Somebody whom an outcome that stands has reached."""
    came = {one.to for one in evidence.arrivals}
    standing = [death for death in evidence.plan.deaths if death.retracted_after is None]
    contacts = (hospital.contacts()[who] for death in standing for who in death.around)
    return next(contact for contact in contacts if contact in came)


def _copy(evidence: Evidence) -> Evidence:
    rest = evidence.at_rest
    tables = {
        service: {name: [dict(row) for row in rows] for name, rows in found.items()}
        for service, found in rest.tables.items()
    }
    arrivals, given = list(evidence.arrivals), list(evidence.given)
    return replace(evidence, arrivals=arrivals, given=given, at_rest=AtRest(tables, rest.published))


async def test_embedded_every_promise_is_kept_and_the_checker_would_have_seen(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        world = Embedded(around)
        await world.prepare()
        outcome = await carry_out(world, plan(SEED, "embedded"), tmp_path / "run")
        await world.close()
    assert outcome.breaches == [], outcome.line()
    assert len(outcome.evidence.struck) >= 3, outcome.line()
    for tamper, promise in TAMPERING:
        evidence = _copy(outcome.evidence)
        tamper(evidence)
        assert [line for line in broken(evidence) if line.startswith(promise)], tamper.__name__


async def test_distributed_every_promise_is_kept(tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        world = Many(around)
        try:
            await world.prepare()
            outcome = await carry_out(world, plan(SEED, "distributed"), tmp_path / "run")
        finally:
            await world.close()
    assert outcome.breaches == [], outcome.line()
    assert len(outcome.evidence.struck) >= 3, outcome.line()


@pytest.mark.parametrize("bug", QUICK)
async def test_embedded_a_planted_bug_is_caught(bug: str, tmp_path: Path) -> None:
    async with surroundings(tmp_path) as around:
        world = Embedded(around)
        await world.prepare()
        outcome = await with_bug(world, bug)
        await world.close()
    assert [line for line in outcome.breaches if line.startswith(BREAKS[bug])], (outcome.line(), outcome.breaches)

"""The promises about time: nothing comes later or earlier than it may, nothing out of order, all with a way on.

A message is late by the seconds for which everything was there and it did not come: what is down for a moment may hold
it up for that moment.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from services.matching.lifecycle.case import OF_THE_SEARCH, OVER
from services.matching.lifecycle.steps import CHECK_INS
from services.matching.lifecycle.transitions import AGAIN, FIRST_CONTACT, LATER, LONGEST_SUPPORT
from services.notify.delivery.sender import STALE_SECONDS
from services.notify.delivery.state import RETRIES
from services.notify.on_call import EVERY
from tests.chaos import hospital
from tests.chaos.books import CALLS_FOR_ONE, Books, Row
from tests.chaos.hours import RATE
from tests.chaos.outside import Arrival
from tests.chaos.plan import Mode

# seconds; a member of a consumer group that is stuck takes 30
LATE: Final[Mapping[Mode, float]] = {"embedded": 8.0, "distributed": 45.0}
# a hand-off that had begun before the acknowledgement was committed may still go on
WINDOW: Final = STALE_SECONDS + 0.5
SLACK: Final = 0.05
LEAP: Final = timedelta(days=2)  # from here on a clock is not believed
_BACK_OFF: Final = tuple(wait.total_seconds() / RATE for wait in RETRIES)
_RUNS: Final[Mapping[str, tuple[timedelta, ...]]] = {
    "reminder": (hospital.REMINDER,),
    "again": tuple(AGAIN.values()),
    "confirm": (hospital.CONFIRM,),
    "contact": (LATER, *FIRST_CONTACT.values()),
    "check_in": (*(after for _, after in CHECK_INS), CHECK_INS[-1][1] + timedelta(days=7)),
    "not_closed": (LONGEST_SUPPORT,),
    "on_call": (EVERY,),
    "hourly": (timedelta(hours=1),),
}


class Cause(NamedTuple):
    """What calls for a message: it may leave from `earliest` on, and should by `latest` (the machine's clock)."""

    earliest: float
    latest: float


def nothing_late(books: Books) -> Iterator[str]:
    """Whatever is called for comes while it is wanted: each kind of message, codes and pages."""
    evidence = books.evidence
    for arrival in _first(books):
        row = books.deliveries[arrival.key]
        if _wrong_clock(books) and row["kind"] != "message":
            continue
        causes = [one for one in causes_of(books, arrival, row) if one.earliest <= arrival.begun]
        if not causes:
            continue
        waited = min(evidence.up_between(one.latest, arrival.begun) for one in causes)
        allowed = LATE[evidence.plan.mode] + sum(_BACK_OFF[: row["attempts"]])
        if waited > allowed:
            yield f"{arrival.to} got {row['step'] or row['kind']} {waited:.1f} s after it was called for"


def nothing_too_early(books: Books) -> Iterator[str]:
    """Nothing comes before what calls for it, nor before its time is over: a reminder, the next page of a call.

    A timer that was set while a clock was wrong by less than two days stays as it is.
    """
    if _wrong_clock(books):
        return
    for arrival in _first(books):
        row = books.deliveries[arrival.key]
        causes = causes_of(books, arrival, row)
        if causes and arrival.begun < min(one.earliest for one in causes):
            early = min(one.earliest for one in causes) - arrival.begun
            yield f"{arrival.to} got {row['step'] or row['kind']} {early:.1f} s too early"


def _wrong_clock(books: Books) -> bool:
    """Whether times that were stored may be those of a wrong clock."""
    return any(blow.wrong for chain in books.evidence.plan.chains.values() for blow in chain)


def _first(books: Books) -> list[Arrival]:
    """The first arrival under each key that notify knows."""
    first: dict[str, Arrival] = {}
    for arrival in books.evidence.arrivals:
        if arrival.key in books.deliveries:
            first.setdefault(arrival.key, arrival)
    return list(first.values())


# --- what calls for what ---


def causes_of(books: Books, arrival: Arrival, row: Row) -> list[Cause]:
    """Everything that may have called for a message; nothing where it is not one of those that are timed here."""
    if row["kind"] != "message":
        return _of_call(books, row) if row["kind"] == "call" else [_since(books, row["accepted_at"])]
    name, _, _ = row["step"].partition("-")
    if "-again" in row["step"]:
        return []
    finders = {"offer": _of_offer, "asked": _of_asking, "reminder": _of_reminder, "request": _of_request}
    if name in finders:
        return finders[name](books, arrival, row)
    return _of_answers(books, row, "close", "no_thanks", "withdraw") if name == "follow_up" else []


def _of_offer(books: Books, arrival: Arrival, _row: Row) -> list[Cause]:
    evidence, contacts = books.evidence, hospital.contacts()
    return [
        Cause(evidence.sent[death.number], _awake(books, arrival.to, evidence.acknowledged[death.number]))
        for death in evidence.plan.deaths
        if death.number in evidence.acknowledged and arrival.to in {contacts[who] for who in death.around}
    ]


def _of_asking(books: Books, arrival: Arrival, _row: Row) -> list[Cause]:
    asked = books.evidence.asked.get(arrival.to)
    heard = [one.at for one in books.given("ask") if one.contact == arrival.to]
    return [Cause(asked, _awake(books, arrival.to, max(heard, default=asked)))] if asked is not None else []


def _of_reminder(books: Books, arrival: Arrival, row: Row) -> list[Cause]:
    offers = [one for one in books.offers(arrival.to) if books.deliveries[one.key]["case_ref"] == row["case_ref"]]
    if not offers:
        return []
    # by the hospital's clock, which may have leapt since
    time = books.evidence.time
    dues = [time.when(time.at(one.at) + hospital.REMINDER) for one in offers]
    return [Cause(min(dues), _awake(books, arrival.to, max(dues)))]


def _of_request(books: Books, _arrival: Arrival, row: Row) -> list[Cause]:
    """Whoever the case was of may have said so on the page of an earlier one."""
    whose = books.whose(row["case_ref"])
    given = (one for one in books.given(*CALLS_FOR_ONE) if one.key in books.deliveries)
    mine = [one for one in given if books.whose(books.deliveries[one.key]["case_ref"]) == whose]
    # whoever a supporter leaves behind is given somebody else
    return [Cause(one.began, one.at) for one in mine] + [Cause(*span) for span in set(books.evidence.left.values())]


def _of_answers(books: Books, row: Row, *answers: str) -> list[Cause]:
    given = (one for one in books.given(*answers) if one.key in books.deliveries)
    return [Cause(one.began, one.at) for one in given if books.deliveries[one.key]["case_ref"] == row["case_ref"]]


def _of_call(books: Books, row: Row) -> list[Cause]:
    """Round n comes five minutes after the one before it."""
    call = next((one for one in books.rest.rows("notify", "call") if one["call_ref"] == row["case_ref"]), None)
    _, number, _ = row["step"].split("-")
    return [_since(books, call["accepted_at"] + (int(number) - 1) * EVERY, (int(number) - 1))] if call else []


def _since(books: Books, moment: datetime, rounds: int = 0) -> Cause:
    """From a moment of the hospital's clock on; each round may begin as late as the one before it was."""
    at = books.evidence.time.when(moment)
    return Cause(at - SLACK, at + rounds * 2.0)


def _awake(books: Books, contact: str, moment: float) -> float:
    """That moment, or the morning for those who sleep or rest until then."""
    morning = books.evidence.time.when(hospital.MORNING + hospital.DAWN)
    zones = {hospital.contact(one): one.columns.get("timezone", "UTC") for one in hospital.everybody()}
    rests = contact in {hospital.contact(one) for one in hospital.on_shift()}
    asleep = hospital.asleep(books.evidence.time.at(moment), zones[contact])
    return max(moment, morning) if rests or asleep else moment


# --- pages ---


def calls_reach_somebody(books: Books) -> Iterator[str]:
    """Who wanted to talk now has paged the professional, or the coordinator knows that nobody is there."""
    came = {
        books.deliveries[one.key]["case_ref"]
        for one in books.came_to.get(hospital.PROFESSIONAL, ())
        if one.key in books.deliveries
    }
    calls = {row["question_ref"]: row["call_ref"] for row in books.rest.rows("notify", "call")}
    listed = {row["about"] for row in books.rest.rows("matching", "entry") if row["kind"] == "on_call_silent"}
    for one in books.given("talk_now", "urgent_help"):
        row = books.deliveries.get(one.key)
        if row is None or one.fate != "taken":
            continue
        case = books.cases.get(row["case_ref"])
        known = row["case_ref"] in listed or (case is not None and "on_call_silent" in case["attention"])
        call = calls.get(row["question_ref"])
        if not known and (call not in came if call else not came):
            yield f"{one.contact} pressed {one.answer}, and nobody was paged"


def no_page_after_the_acknowledgement(books: Books) -> Iterator[str]:
    """Once a professional has said that they are there, nobody is paged for the same call."""
    there: dict[str, float] = {}
    for one in books.given("acknowledge"):
        if one.fate == "taken" and one.key in books.deliveries:
            call = books.deliveries[one.key]["case_ref"]
            there[call] = min(one.at, there.get(call, one.at))
    for arrival in _first(books):
        row = books.deliveries[arrival.key]
        since = there.get(row["case_ref"]) if row["kind"] == "call" else None
        if since is not None and arrival.begun > since + WINDOW:
            yield f"{arrival.to} was paged {arrival.begun - since:.1f} s after the acknowledgement"


# --- cases ---


def every_case_has_a_way_on(books: Books) -> Iterator[str]:
    """In each stage there is a supporter with a timer, or a reason on the coordinator's list; else time ends it."""
    timers: defaultdict[str, set[str]] = defaultdict(set)
    for row in books.rest.rows("matching", "timer"):
        timers[row["key"]].add(row["name"])
    for ref, case in books.cases.items():
        stage, reasons, there = case["stage"], set(case["attention"].split()), timers[ref]
        ways = {
            "accepted": bool(reasons & OF_THE_SEARCH) or (case["supporter"] and "confirm" in there),
            "supported": case["supporter"] and bool({"not_closed"} & (reasons | there)),
            "following_up": "check_in" in there,
        }
        if not ways.get(stage, True):
            yield f"a case is {stage}, with supporter {bool(case['supporter'])}, {sorted(there)} and {sorted(reasons)}"
        if stage in OVER and there - {"hourly"}:
            yield f"a case is {stage}, and {sorted(there)} still run"


def timers_run_as_long_as_they_should(books: Books) -> Iterator[str]:
    """Each timer was set during the run, for one of the times that its name has.

    One that was set under a clock that was wrong by days is put right when the clock is.
    """
    time, evidence = books.evidence.time, books.evidence
    blows = (blow for chain in evidence.plan.chains.values() for blow in chain)
    off = max((abs(blow.wrong) for blow in blows if abs(blow.wrong) < LEAP), default=timedelta())
    begin, end = time.start - timedelta(minutes=1) - off, time.at(evidence.ended) + timedelta(minutes=1) + off
    for service in ("matching", "notify"):
        for row in books.rest.rows(service, "timer"):
            lengths = _RUNS.get(row["name"], ())
            if lengths and not any(begin <= row["due_at"] - length <= end for length in lengths):
                yield f"timer {row['name']} is due at {row['due_at']:%d %b %H:%M}, and cannot have been set for that"


def in_order(books: Books) -> Iterator[str]:
    """Within a case: requests by their number, a reminder after its offer, the question how it was at the end."""
    by_case: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for arrival in _first(books):
        row = books.deliveries[arrival.key]
        if row["kind"] == "message":
            by_case[row["case_ref"]].setdefault(row["step"], arrival.begun)
    for steps in by_case.values():
        came = sorted(steps, key=steps.__getitem__)
        requests = [int(step.split("-")[1]) for step in came if step.startswith("request-") and "again" not in step]
        if requests != sorted(requests):
            yield f"requests to supporters came in the order {requests}"
        if "reminder" in came and came.index("reminder") < min(
            map(came.index, set(came) & {"offer", "asked"}), default=0
        ):
            yield "a reminder came before what it reminds of"
        if "follow_up" in came and any(steps[one] > steps["follow_up"] for one in came if one.startswith("request")):
            yield "a supporter was asked after the person had been asked how it was"


def capacity_is_kept_over_time(books: Books) -> Iterator[str]:
    """At no moment that was looked at did a supporter carry more than they may, or other than the cases said."""
    yield from books.evidence.held

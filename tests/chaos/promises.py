"""The checker: what DESIGN §8 promises, held against the evidence of a run. Each promise gives one line a breach."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from services.matching.lifecycle.case import OVER
from services.notify.delivery.state import OUTCOMES, DeliveryState
from tests.chaos import hospital, times
from tests.chaos.books import CALLS_FOR_ONE, SAID, Books, Row
from tests.chaos.evidence import Evidence
from tests.chaos.people import Given
from tests.chaos.times import WINDOW

# seconds in which whoever has left may still be written to: a replica learns of it by a timer
LEFT: Final = {"embedded": WINDOW, "distributed": WINDOW + 5.0}
_OUTREACH: Final = ("offer", "reminder")


def broken(evidence: Evidence) -> list[str]:
    """One line for each breach of a promise; nothing where all were kept."""
    books = Books(evidence)
    return [*evidence.troubles, *(f"{name}: {line}" for name, check in PROMISES for line in check(books))]


# --- zero lost ---


def deaths_reach_their_people(books: Books) -> Iterator[str]:
    """Every acknowledged death reaches each of its people for that death, or stands on the list with a reason.

    Who was around two deaths is reached for one of them, which is not one that was taken back.
    """
    evidence, contacts = books.evidence, hospital.contacts()
    standing: defaultdict[str, list[int]] = defaultdict(list)
    for death in evidence.plan.deaths:
        if death.number not in evidence.acknowledged:
            yield f"death {death.number} was not acknowledged by the end"
        elif death.retracted_after is None:
            for who in death.around:
                standing[who].append(death.number)
    for who, deaths in standing.items():
        if contacts[who] in evidence.left:
            continue
        if not books.reached(contacts[who], deaths) and not books.attention(contacts[who]):
            yield f"{who} of the acknowledged deaths {deaths} was not reached for them, and nobody is told"


def asks_are_answered(books: Books) -> Iterator[str]:
    """Whoever saw that their asking went through has a message for it."""
    for one in books.given("ask"):
        if one.fate == "taken" and not books.offers(one.contact) and not books.attention(one.contact):
            yield f"{one.contact} asked and heard nothing"
    for who in (given for given in books.evidence.given if given.fate == "too_late"):
        yield f"{who.contact} was still trying to {who.answer} at the end"


def answers_stay(books: Books) -> Iterator[str]:
    """An answer that somebody saw go through is the one that stands, here and with matching."""
    last: dict[tuple[str, str], Given] = {}
    for one in books.evidence.given:
        if one.fate in SAID and one.answer != "ask":
            last[one.contact, one.key] = one
    questions = {row["question_ref"]: row for row in books.rest.rows("notify", "question")}
    for one in last.values():
        delivery = books.deliveries.get(one.key)
        question = questions.get(delivery["question_ref"]) if delivery else None
        if one.fate == "taken" and question is not None:
            if question["said"] != one.answer:
                yield f"{one.contact} saw {one.answer} taken, and {question['said'] or 'nothing'} stands"
            elif delivery and (fault := _not_followed(books, one, delivery)):
                yield f"{one.contact} saw {one.answer} taken, and their case is {fault}"


_FOLLOWS: Final[dict[str, frozenset[str]]] = {
    "accept": frozenset({"accepted", "supported", "following_up", "closed"}),
    "no_thanks": OVER,
    "withdraw": OVER,
    "not_now": frozenset({"waiting", "ended", "closed"}),
    "confirm": frozenset({"supported", "following_up", "closed", "ended"}),
    "close": frozenset({"following_up", "closed", "ended"}),
}


def _not_followed(books: Books, one: Given, delivery: Row) -> str:
    """The stage of a case that has not heard of an answer; "" where it has, or something else came first."""
    wanted, case = _FOLLOWS.get(one.answer), books.cases.get(delivery["case_ref"])
    if case is None or wanted is None or "retracted" in case["notes"] or case["person_ref"] is None:
        return ""
    if delivery["request_ref"] in books.ended:
        return ""
    return "" if case["stage"] in wanted else str(case["stage"])


# --- zero twice ---


def one_message_a_step(books: Books) -> Iterator[str]:
    """No person gets two keys for the same step of a case; repeated attempts under one key are allowed."""
    keys: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for arrival in books.evidence.arrivals:
        row = books.deliveries.get(arrival.key)
        if row is None:
            yield f"{arrival.to} got a message that notify knows nothing of"
        else:
            keys[arrival.to, row["case_ref"], row["step"]].add(arrival.key)
    for (to, _, step), found in keys.items():
        if len(found) > 1:
            yield f"{to} got step {step} under {len(found)} keys"


def one_offer_a_person(books: Books) -> Iterator[str]:
    """One offer and one reminder, however many deaths; one more each time somebody asks.

    Somebody whose case is over by their own word is offered somebody again at the next death.
    """
    asks = Counter(one.contact for one in books.given("ask"))
    over = Counter(one.contact for one in books.given("no_thanks", "withdraw"))
    accepted = Counter(one.contact for one in books.given("accept"))
    for contact in books.came_to:
        offers = 1 + books.taken_back[contact] + over[contact]
        most = {"offer": offers, "asked": asks[contact], "reminder": offers + asks[contact]}
        most["follow_up"] = max(1, accepted[contact])
        keys = {arrival.key: books.step(arrival) for arrival in books.came_to[contact]}
        for step, count in Counter(step.partition("-")[0] for step in keys.values()).items():
            if count > most.get(step, count):
                yield f"{contact} got {count} messages of step {step}, {most[step]} at most are due"


def one_request_an_answer(books: Books) -> Iterator[str]:
    """Supporters are asked as often as somebody's answer makes it necessary, be it on the page of an earlier case."""
    due: Counter[str] = Counter()
    for one in books.given(*CALLS_FOR_ONE):
        if one.key in books.deliveries:
            due[books.whose(books.deliveries[one.key]["case_ref"])] += one.presses
    requests = [row for row in books.deliveries.values() if row["step"].startswith("request-")]
    steps = {(row["case_ref"], row["step"]) for row in requests}
    gone = {books.recipients.get(contact, "") for contact in books.evidence.left}
    # whoever a supporter leaves behind is given somebody else
    due.update(books.whose(row["case_ref"]) for row in requests if row["recipient_ref"] in gone)
    for whose, sent in Counter(books.whose(case_ref) for case_ref, _ in steps).items():
        if sent > due[whose]:
            yield f"{sent} requests to supporters for somebody {due[whose]} of whose answers call for one"


def nobody_else(books: Books) -> Iterator[str]:
    """Only those around an outcome, those who asked, and supporters hear anything."""
    contacts, plan = hospital.contacts(), books.evidence.plan
    around = {contacts[who] for death in plan.deaths for who in death.around}
    asking = {contacts[ask.who] for ask in plan.asks}
    if books.given("talk_now", "urgent_help"):
        asking.add(hospital.PROFESSIONAL)
    helping = {hospital.contact(member) for member in hospital.helping()}
    yield from (f"{to} got a message without a reason" for to in books.came_to.keys() - around - asking - helping)


def one_incident_a_death(books: Books) -> Iterator[str]:
    """However often a death is sent, and under whichever number of its patient, it is one incident."""
    found, sent = len(books.rest.rows("incident", "incident")), len(books.evidence.acknowledged)
    if found != sent:
        yield f"{found} incidents were made of {sent} deaths"


def reviewers_stay_out_of_it(books: Books) -> Iterator[str]:
    """Whoever looks into an event supports nobody who was around it (that they hear nothing: `nobody_else`)."""
    contacts = hospital.contacts()
    for death in books.evidence.plan.deaths:
        reviewers = {contacts[who] for who in death.reviewers}
        incidents = books.incidents_of[death.number]
        for arrival in books.evidence.arrivals:
            row = books.deliveries.get(arrival.key)
            case = books.cases.get(row["case_ref"]) if row else None
            if case and arrival.to in reviewers and case["incident_ref"] in incidents:
                yield f"{arrival.to} reviews death {death.number} and got {books.step(arrival)} of it"


def nothing_after_leaving(books: Books) -> Iterator[str]:
    """Once the roster says that somebody has left, nothing is sent to them."""
    for arrival in books.evidence.arrivals:
        _, left = books.evidence.left.get(arrival.to, (0.0, arrival.begun))
        if arrival.begun > left + LEFT[books.evidence.plan.mode]:
            yield f"{arrival.to} got {books.step(arrival)} {arrival.begun - left:.1f} s after they had left"


# --- zero early ---


def nothing_early(books: Books) -> Iterator[str]:
    """Nothing that is not urgent reaches anybody in their quiet hours, or before they have rested from a shift."""
    zones = {hospital.contact(one): one.columns.get("timezone", "UTC") for one in hospital.everybody()}
    rested = {hospital.contact(one): hospital.MORNING for one in hospital.on_shift()}
    for arrival in books.evidence.arrivals:
        row = books.deliveries.get(arrival.key)
        if row and not row["urgent"] and arrival.to in zones:
            begun = books.evidence.time.at(arrival.begun)
            if hospital.asleep(begun, zones[arrival.to]) or begun < rested.get(arrival.to, begun):
                yield f"{arrival.to} got {row['step']} at {begun:%H:%M:%S} UTC"


# --- zero sent after an answer ---


def nothing_after_an_answer(books: Books) -> Iterator[str]:
    """Once somebody has answered, neither the same message nor a reminder of it is sent; see WINDOW."""
    yield from (line for late, line in _after_answers(books) if late > WINDOW)


def in_the_window(books: Books) -> int:
    """How many messages began to be handed over a moment after an answer."""
    return sum(late <= WINDOW for late, _ in _after_answers(books))


def _after_answers(books: Books) -> Iterator[tuple[float, str]]:
    first: dict[tuple[str, str], Given] = {}
    for one in books.evidence.given:
        if one.fate == "taken" and one.answer != "ask" and one.key in books.deliveries:
            first.setdefault((one.contact, books.deliveries[one.key]["case_ref"]), one)
    for arrival in books.evidence.arrivals:
        row = books.deliveries.get(arrival.key)
        answer = first.get((arrival.to, row["case_ref"])) if row else None
        same = answer is not None and (arrival.key == answer.key or books.step(arrival).startswith(_OUTREACH))
        if answer and same and arrival.begun > answer.at:
            late = arrival.begun - answer.at
            yield late, f"{arrival.to} got {books.step(arrival)} {late:.1f} s after they had answered {answer.answer}"


# --- zero half-applied ---


def everything_came_to_rest(books: Books) -> Iterator[str]:
    """Nothing waits that is due, nothing is set aside, every event was taken by everybody who listens for it."""
    rest = books.rest
    yield from (f"{count} {kind} published and never taken" for kind, count in Counter(rest.not_applied()).items())
    if rest.unsent:
        yield f"{rest.unsent} events left in an outbox"
    for service in rest.tables:
        if parked := rest.rows(service, "parked"):
            yield f"{service} has {len(parked)} parked events: {parked[0]['fault']} at {parked[0]['place']}"
    for row in books.deliveries.values():
        if row["state"] == DeliveryState.SENDING:
            yield f"a delivery of step {row['step']} is left as sending"


def what_arrived_is_known(books: Books) -> Iterator[str]:
    """A message that arrived is recorded as handed off or in doubt, with matching too; one that did not, is not.

    What was in doubt when somebody answered the same question counts as handed off.
    """
    came = {arrival.key for arrival in books.evidence.arrivals}
    outcomes = {row["request_ref"]: row["outcome"] for row in books.rest.rows("matching", "request")}
    for key, row in books.deliveries.items():
        if key in came and row["state"] not in (DeliveryState.HANDED_OFF, DeliveryState.UNKNOWN):
            yield f"step {row['step']} arrived and is recorded as {row['state']}"
        sure = not row["doubts"] or row["case_ref"] not in books.answered
        if key not in came and row["state"] in (DeliveryState.HANDED_OFF, DeliveryState.DELIVERED) and sure:
            yield f"step {row['step']} is recorded as {row['state']} and never arrived"
        told = outcomes.get(row["request_ref"], row["state"])
        if row["state"] in OUTCOMES and told != row["state"]:
            yield f"step {row['step']} is {row['state']}, and matching was told {told}"


def what_was_asked_was_planned(books: Books) -> Iterator[str]:
    """Each incident is known to matching, each request to notify."""
    known = {row["incident_ref"]: row for row in books.rest.rows("matching", "incident")}
    for row in books.rest.rows("incident", "incident"):
        there = known.get(row["incident_ref"])
        if row["state"] == "recorded" and there is None:
            yield "an incident is recorded, and matching does not know it"
        if row["state"] == "retracted" and there is not None and not there["retracted"]:
            yield "an incident was taken back, and matching goes on"
    planned = {row["request_ref"] for row in books.deliveries.values()}
    for row in books.rest.rows("matching", "request"):
        waits = row["outcome"] is None and not row["ended"]
        if waits and row["request_ref"] not in planned and _not_overtaken(books, row):
            yield f"matching asked for step {row['step']}, and notify does not know it"


def _not_overtaken(books: Books, request: Row) -> bool:
    """Whether it is anything but a reminder of a question that was answered, or went, meanwhile."""
    if not request["step"].startswith(("reminder", "offer_again")):
        return True
    questions = books.rest.rows("notify", "question")
    mine = (row for row in questions if row["case_ref"] == request["case_ref"] and row["template"] == "offer")
    return any(row["answered_at"] is None for row in mine)


def one_open_case_a_person(books: Books) -> Iterator[str]:
    for cases in books.cases_of.values():
        if (count := sum(row["stage"] not in OVER for row in cases)) > 1:
            yield f"somebody has {count} open cases"


def capacity_is_kept(books: Books) -> Iterator[str]:
    """Supporters carry what the cases say, and never more than they may."""
    held = Counter(row["supporter"] for row in books.cases.values() if row["supporter"])
    loads = {row["supporter_ref"]: row["active"] for row in books.rest.rows("matching", "load")}
    for who in held.keys() | loads.keys():
        if held[who] > hospital.CAPACITY:
            yield f"a supporter has {held[who]} cases"
        if loads.get(who, 0) != held[who]:
            yield f"a supporter carries {loads.get(who, 0)} cases by the books and has {held[who]}"


def retractions_are_told(books: Books) -> Iterator[str]:
    """The coordinator hears of what had left already when an incident was taken back, and of nothing else."""
    told = {row["about"] for row in books.rest.rows("matching", "entry") if row["kind"] == "retracted_after_sending"}
    sent = {books.deliveries[one.key]["case_ref"] for one in books.evidence.arrivals if one.key in books.deliveries}
    for row in books.cases.values():
        notes = row["notes"].split()
        if "retracted" in notes and row["case_ref"] in sent and "retracted_after_sending" not in notes:
            yield "an incident was taken back after its message had left, and nobody is told"
        if "retracted_after_sending" in notes and row["incident_ref"] and row["incident_ref"] not in told:
            yield "a case was taken back after sending, and it is not on the list"


Check = Callable[[Books], Iterable[str]]
PROMISES: Final[tuple[tuple[str, Check], ...]] = (
    ("lost", deaths_reach_their_people),
    ("lost", asks_are_answered),
    ("lost", answers_stay),
    ("twice", one_message_a_step),
    ("twice", one_offer_a_person),
    ("twice", one_request_an_answer),
    ("twice", nobody_else),
    ("twice", one_incident_a_death),
    ("wrong person", reviewers_stay_out_of_it),
    ("wrong person", nothing_after_leaving),
    ("lost", times.calls_reach_somebody),
    ("lost", times.every_case_has_a_way_on),
    ("early", nothing_early),
    ("early", times.nothing_too_early),
    ("late", times.nothing_late),
    ("late", times.timers_run_as_long_as_they_should),
    ("out of order", times.in_order),
    ("after an answer", nothing_after_an_answer),
    ("after an answer", times.no_page_after_the_acknowledgement),
    ("half-applied", everything_came_to_rest),
    ("half-applied", what_arrived_is_known),
    ("half-applied", what_was_asked_was_planned),
    ("half-applied", one_open_case_a_person),
    ("half-applied", capacity_is_kept),
    ("half-applied", times.capacity_is_kept_over_time),
    ("half-applied", retractions_are_told),
)


def due(books: Books, now: datetime) -> Iterator[str]:
    """What would still happen if everything ran on: not yet at rest."""
    if now < hospital.MORNING + hospital.DAWN:
        yield "some are still asleep"
    if missing := books.rest.not_applied():
        yield f"{len(missing)} events not taken"
    if books.rest.unsent:
        yield f"{books.rest.unsent} events not sent"
    for row in books.deliveries.values():
        if row["state"] == DeliveryState.SENDING or (row["state"] == DeliveryState.QUEUED and row["wake_at"] <= now):
            yield f"step {row['step']} is {row['state']}"
    for service, found in books.rest.tables.items():
        yield from (f"timer {row['name']} of {service}" for row in found["timer"] if row["due_at"] <= now)

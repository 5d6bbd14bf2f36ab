"""What people and supporters choose, and who asks by themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from leeward.contracts import Answered, Asked, Event
from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases.repository import REQUEST
from services.matching.cases.repository import Asked as Request
from services.matching.cases.session import PERSON, Desk
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, Publish, Step
from services.matching.site import Office

MONTH: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class _Said:
    """One answer with the request it belongs to."""

    event: Event
    data: Answered
    request: Request

    def option(self, name: str, default: str) -> str:
        return self.data.options.get(name, default)


def answered(unit: Unit, events: Sequence[Event], office: Office) -> None:
    """Apply answers in their order; those about what we have forgotten change nothing."""
    desk = Desk(unit, office)
    known = desk.requests([event.data.request_ref for event in events if isinstance(event.data, Answered)])
    for event in events:
        if not isinstance(event.data, Answered):
            continue
        request = known.get(event.data.request_ref)
        if _unacknowledged(event.data):
            _on_call_silent(desk, event.data, request)
        elif request:
            _apply(desk, _Said(event, event.data, request))
    desk.write()


def asked(unit: Unit, events: Sequence[Event], office: Office) -> None:
    """Somebody asked, for themselves or a colleague: an offer leaves at once, whatever was sent before."""
    desk = Desk(unit, office)
    for event in events:
        if not isinstance(event.data, Asked):
            continue
        person_ref = desk.people.by_recipient.get(event.data.recipient_ref, "")
        if person_ref and desk.people.known[person_ref].here:
            case = _open_for_asking(desk, person_ref) or open_new(desk, person_ref, event)
            desk.take(transitions.asked(case, event.data.urgency, unit.now, office.rules), event.accepted_at)
    desk.write()


def _open_for_asking(desk: Desk, person_ref: str) -> Case | None:
    """The open case that an asked-for offer belongs to; one in which only check-ins are left closes first."""
    case = desk.open_case(person_ref)
    if case is None or case.stage != "following_up":
        return case
    desk.take(transitions.asked_again(case, desk.now))
    return desk.open_case(person_ref)


def open_new(desk: Desk, person_ref: str, event: Event, case_ref: str | None = None) -> Case:
    """A case without an outcome: somebody asked."""
    rules, now = desk.rules, desk.now
    case = Case(
        case_ref=case_ref or new_ref(),
        person_ref=person_ref,
        notes=("rehearsal",) if rules.rehearsal else (),
        opened_at=now,
        occurred_at=now,
        ends_at=now + rules.longest_hold + rules.coalesce,
    )
    desk.add(case)
    return desk.take(Step(case, (Publish("opened"),)), event.accepted_at)


def _unacknowledged(data: Answered) -> bool:
    return data.answer in ("talk_now", "urgent_help") and data.options.get("unacknowledged") == "yes"


def _on_call_silent(desk: Desk, data: Answered, request: Request | None) -> None:
    """Nobody answered the page: the coordinator hears of it even where the case is forgotten."""
    case = desk.cases.get(request.case_ref or "") if request else None
    if case:
        desk.take(transitions.on_call_silent(case))
    else:
        desk.tell("on_call_silent", data.case_ref)


def _apply(desk: Desk, said: _Said) -> None:
    case = desk.cases.get(said.request.case_ref or "")
    if case is None:
        _loose(desk, said)
        return
    if said.request.template != "supporter_request" and case.over and case.person_ref:
        # a page of an ended case, and another is open meanwhile: nobody has two, so it is about that one
        case = desk.open_case(case.person_ref) or case
    if said.data.answer == "ended" and said.request.step.startswith("monthly") and case.person_ref:
        _no_more_monthly(desk, case.person_ref)
    by_template = {"supporter_request": _supporter, "check_in": _checked_in}
    step = by_template.get(said.request.template, _person)(desk, said, case)
    desk.take(step, said.event.accepted_at)


def _person(desk: Desk, said: _Said, case: Case) -> Step:
    now, rules, find = desk.now, desk.rules, desk.find
    choices: dict[str, Callable[[], Step]] = {
        "accept": lambda: transitions.accept(case, said.option("when", "hours"), now, rules, find),
        "another": lambda: transitions.another(case, now, rules, find),
        "not_now": lambda: transitions.not_now(case, said.option("again", "never"), now, rules),
        "ended": lambda: transitions.end(case, now),
        "not_contacted": lambda: transitions.not_contacted(case, now, rules, find),
        "check_ins": lambda: transitions.want_check_ins(case, now),
        "talk_now": lambda: transitions.talked(case),
    }
    return choices.get(said.data.answer, lambda: Step(case))()


def _supporter(desk: Desk, said: _Said, case: Case) -> Step:
    now, rules, find, step = desk.now, desk.rules, desk.find, said.request.step
    choices: dict[str, Callable[[], Step]] = {
        "confirm": lambda: transitions.confirm(case, step, now),
        "pass": lambda: transitions.passed(case, step, now, rules, find),
        "hand_over": lambda: transitions.hand_over(case, step, now, rules, find),
        "close": lambda: transitions.close(case, step, said.data.options, now, rules),
    }
    return choices.get(said.data.answer, lambda: Step(case))()


def _checked_in(desk: Desk, said: _Said, case: Case) -> Step:
    if said.data.answer == "ended":
        return transitions.no_more_check_ins(case, desk.now)
    if said.data.answer == "accept":
        _speaks_for(desk, said, case)
    return _person(desk, said, case)


def _loose(desk: Desk, said: _Said) -> None:
    """An answer to a question that belongs to no case: after closing, or monthly."""
    person_ref = desk.people.by_recipient.get(said.request.recipient_ref, "")
    if not person_ref or not desk.people.known[person_ref].here:
        return
    if said.data.answer == "accept":
        _talk_again(desk, said, person_ref)
    elif said.request.template == "monthly_offer" and said.data.answer == "check_ins":
        _monthly(desk, person_ref, "yes")
        desk.unit.set_timer("monthly", person_ref, desk.now + MONTH)
    elif said.request.template in ("monthly_offer", "check_in") and said.data.answer == "ended":
        _no_more_monthly(desk, person_ref)


def _talk_again(desk: Desk, said: _Said, person_ref: str) -> None:
    """A new case that begins with its acceptance. A closed case's reference is never tied to the person again."""
    closed = said.request.template == "follow_up"
    case = desk.open_case(person_ref)
    if case is None:
        case = open_new(desk, person_ref, said.event, None if closed else said.data.case_ref)
    wanted = said.option("when", "hours")
    case = desk.take(transitions.accept(case, wanted, desk.now, desk.rules, desk.find), said.event.accepted_at)
    _speaks_for(desk, said, case)


def _speaks_for(desk: Desk, said: _Said, case: Case) -> None:
    """From its yes on a page offers what the page of an offer does: somebody different, or to stop."""
    mine = REQUEST.c.request_ref == said.request.request_ref
    desk.unit.conn.execute(REQUEST.update().where(mine).values(case_ref=case.case_ref, template="offer"))


Monthly = Literal["none", "offered", "yes", "no"]


def _monthly(desk: Desk, person_ref: str, answer: Monthly) -> None:
    desk.unit.conn.execute(PERSON.update().where(PERSON.c.person_ref == person_ref).values(monthly=answer))


def _no_more_monthly(desk: Desk, person_ref: str) -> None:
    _monthly(desk, person_ref, "no")
    desk.unit.cancel_timer("monthly", person_ref)

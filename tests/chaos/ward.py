"""A few people and their supporters in memory: the pure parts of matching and notify, with all that carries them out.

The rules that hold after every input are in `Ward.check`, the ways out of a state in `run_out` and `settle`.
"""

import random
from collections import Counter
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from leeward.settings.policy import Outreach, Supporters
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import (
    ACTIONS,
    OF_THE_SEARCH,
    OVER,
    UNANSWERED,
    Attention,
    CancelRequests,
    Case,
    ChosenSupporter,
    DropTimer,
    NeedsSupporter,
    Publish,
    RecordRefusal,
    ReleaseSupporter,
    RequestMessage,
    Rules,
    SetTimer,
    Transition,
)
from services.matching.lifecycle.steps import LIMIT
from services.notify.channels import Result
from services.notify.delivery.state import (
    NEXT,
    OUTCOMES,
    DeliveryState,
    Waiting,
    after_attempt,
    look_at,
    overtaken,
    wake_at,
    when_in_doubt,
)
from services.notify.questions.question import FIELDS, STARTS_AGAIN, Question, alive, decide, is_timely, possible

START: Final = datetime(2026, 11, 21, 9, tzinfo=UTC)
CAPS: Final = {"sue": 1, "tim": 1, "una": 2}
REPEATS_IN_DOUBT: Final = 1
HOUR: Final = timedelta(hours=1)
STRIDE: Final = timedelta(hours=6)
_NOT_ARRIVED: Final[dict[str, Any]] = {
    "failed": "unreachable",
    "unknown": "delivery_unknown",
    "held_too_long": "held_too_long",
    "expired": "expired",
}
_ON_THEIR_WAY: Final = (DeliveryState.HANDED_OFF, DeliveryState.DELIVERED)
_MAY_BE_THERE: Final = (*_ON_THEIR_WAY, DeliveryState.UNKNOWN)
LIVE: Final = Rules.of(Outreach(mode="live"), Supporters())
REHEARSED: Final = replace(LIVE, rehearsal=True)
# the buttons by which a case comes further; most people press these
ONWARD: Final = ("accept", "check_ins", "confirm", "close")
Key = tuple[str, str, str]
Relay = Callable[[], Result]


class Lost(Exception):
    """A rule that every life keeps was broken; the text says which."""


@dataclass(slots=True)
class Mail:
    """One message: as matching has its request (`case`, `template`, `told`, `ended`), and as notify has it."""

    case: str
    template: str
    name: str
    to: str
    question: Key
    asked_after: int
    due: datetime
    hold_deadline: datetime
    expires_at: datetime
    told: str = ""
    ended: bool = False
    linked: bool = True
    state: DeliveryState = DeliveryState.QUEUED
    attempts: int = 0
    doubts: int = 0

    @property
    def asks_supporter(self) -> bool:
        """Whether it is the first message of a request to a supporter, not one about it."""
        return self.template == "supporter_request" and "-again-" not in self.name


@dataclass
class Ward:
    """A few people, the supporters they share, their messages and pages, and the time."""

    chance: random.Random
    rules: Rules = LIVE
    now: datetime = START
    cases: dict[str, Case] = field(default_factory=dict)
    timers: dict[tuple[str, str], datetime] = field(default_factory=dict)
    mails: list[Mail] = field(default_factory=list)
    questions: dict[Key, Question] = field(default_factory=dict)
    answers: Counter[Key] = field(default_factory=Counter)
    active: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAPS, 0))
    barred: set[tuple[str, str]] = field(default_factory=set)
    away: set[str] = field(default_factory=set)
    names: set[tuple[str, str]] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    round_at: datetime = START + HOUR

    def copy(self) -> "Ward":
        """The same ward, to see what would become of it."""
        return Ward(
            random.Random(0),
            self.rules,
            self.now,
            dict(self.cases),
            dict(self.timers),
            [copy(mail) for mail in self.mails],
            dict(self.questions),
            Counter(self.answers),
            dict(self.active),
            set(self.barred),
            set(self.away),
            set(self.names),
        )

    # --- carrying out what the machine asks for ---

    def open(self, person: str, *, incident: str | None = "incident") -> Case:
        """A new case of somebody, of which nothing is known yet."""
        ref = f"{person}{sum(one.startswith(person) for one in self.cases)}"
        ends = self.now + self.rules.longest_hold + self.rules.coalesce
        notes: tuple[Any, ...] = ("rehearsal",) if self.rules.rehearsal else ()
        case = Case(
            case_ref=ref,
            person_ref=person,
            incident_ref=incident,
            notes=notes,
            opened_at=self.now,
            occurred_at=self.now,
            ends_at=ends,
        )
        self.cases[ref] = case
        return case

    def apply(self, transition: Transition) -> Case:
        """Carry a transition out, answer what it needs, and hold the case after it against the rules."""
        if not transition.effects and transition.case is self.cases[transition.case.case_ref]:
            return transition.case
        case = self._carry_out(transition)
        while any(isinstance(effect, NeedsSupporter) for effect in transition.effects):
            (need,) = (effect for effect in transition.effects if isinstance(effect, NeedsSupporter))
            transition = self._search(case, need)
            case = self._carry_out(transition)
        self.check(case)
        return case

    def _carry_out(self, transition: Transition) -> Case:
        before = self.cases[transition.case.case_ref]
        self.cases[before.case_ref] = transition.case
        self.touched.add(before.case_ref)
        for effect in transition.effects:
            if (work := _EFFECTS.get(type(effect))) is not None:
                work(self, effect, before, transition.case)
        return transition.case

    def _search(self, case: Case, need: NeedsSupporter) -> Transition:
        for name, most in CAPS.items():
            barred = {(case.person_ref, name), (case.case_ref, name)} & self.barred
            if self.active[name] < most and name not in self.away and not barred:
                if need.purpose == "request":
                    self.active[name] += 1
                    self.barred.add((case.case_ref, name))
                return transitions.supporter_found(case, ChosenSupporter(name, "UTC"), self.now, self.rules)
        return transitions.nobody_free(case)

    def request(self, message: RequestMessage, before: Case, after: Case) -> None:
        to = before.person_ref if message.to == "person" else after.supporter
        if to is None:
            return
        if after.stage == "ended" or (after.stage == "closed" and message.template != "follow_up"):
            raise Lost(f"{message.message_name} leaves though the case is {after.stage}")
        if message.to == "supporter" and after.accepted_at is None:
            raise Lost("a supporter hears of somebody who has not said yes")
        self._once(after.case_ref, message)
        ends = max(after.ends_at, self.now + self.rules.coalesce)
        expires = self.now + LIMIT if message.to == "supporter" else ends
        key = (after.case_ref, to, message.template)
        question = self.questions.get(key)
        if question and not is_timely(message.message_name, question.state, question.answered_at):
            return
        ref = "" if message.loose else after.case_ref
        due, hold = message.not_before or self.now, self.now + self.rules.longest_hold
        named = (ref, message.template, message.message_name, to, key)
        self.mails.append(Mail(*named, self.answers[key], due, hold, expires))
        if question is None:
            self.questions[key] = Question(template=message.template, expires_at=expires)
        elif question.state in STARTS_AGAIN:
            self.questions[key] = replace(question, state="open", answered_at=None, expires_at=expires)
        else:
            self.questions[key] = replace(question, expires_at=max(question.expires_at, expires))

    def _once(self, ref: str, message: RequestMessage) -> None:
        name = (ref, message.message_name)
        if name in self.names and message.message_name != "reminder":
            raise Lost(f"the name {message.message_name} is used twice")
        self.names.add(name)

    def cancel(self, effect: CancelRequests, before: Case) -> None:
        for mail in self.mails:
            if mail.case != before.case_ref or mail.ended:
                continue
            asks_supporter = mail.template == "supporter_request"
            sent = effect.which == "unsent" and (mail.told or asks_supporter)
            others = effect.which == "supporter" and not asks_supporter
            if not sent and not others:
                mail.ended, mail.linked = True, False

    def erase(self, ref: str) -> None:
        """notify drops what it holds of a case; what is asked for after that stays."""
        for mail in self.mails:
            if mail.question[0] == ref:
                mail.linked = False
                self.questions.pop(mail.question, None)

    def release(self, supporter: str) -> None:
        """A place is given back."""
        self.active[supporter] -= 1

    # --- what must hold after every input ---

    def check(self, case: Case) -> None:
        """Every state has a supporter with a timer, or a reason; capacity is held by cases alone.

        Raises:
            Lost: where it is not so.
        """
        ref, stage = case.case_ref, case.stage
        timers = [name for owner, name in self.timers if owner == ref]
        if stage == "accepted" and OF_THE_SEARCH.isdisjoint(case.attention):
            _must("confirm" in timers and case.supporter, "accepted, with neither supporter, timer nor reason")
        if stage == "supported":
            _must(case.supporter, "supported by nobody")
            _must("not_closed" in timers or "not_closed" in case.attention, "supported, without timer or reason")
        if stage == "following_up":
            _must("check_in" in timers, "following up, without a timer")
        if stage in OVER:
            _must(not timers and not case.supporter, f"{stage}, with {timers or case.supporter} left")
        if stage == "closed":
            _must(case.person_ref is None, "closed, and not forgotten")
        held = dict.fromkeys(CAPS, 0)
        for one in self.cases.values():
            if one.supporter:
                held[one.supporter] += 1
        _must(held == self.active, f"supporters have {held} cases and carry {self.active}")
        _must(all(held[name] <= most for name, most in CAPS.items()), f"supporters have {held} cases")
        asked = [m.name for m in self.mails if m.case == ref and m.asks_supporter and not m.ended]
        _must(asked == ([case.request_name] if case.supporter else []), f"links to supporters: {asked}")

    # --- time ---

    def pass_time(self, span: timedelta, relay: Relay) -> None:
        """Timers fire in their order, messages leave or are given up, and the hourly round is made."""
        self.now += span
        for mail in list(self.mails):
            if mail.state is DeliveryState.QUEUED and self._wakes(mail) <= self.now:
                self._look_at(mail, relay)
        fired = sorted((due, key) for key, due in self.timers.items() if due <= self.now)
        for due, key in fired:
            if self.timers.get(key) == due:
                del self.timers[key]
                self.apply(_TIMERS[key[1]](self, self.cases[key[0]]))
        if self.now >= self.round_at:
            self.round_at = self.now + HOUR
            for ref in [ref for ref, case in self.cases.items() if case.person_ref is not None]:
                self._hourly(ref)

    def _wakes(self, mail: Mail) -> datetime:
        return mail.due if not mail.linked else wake_at(mail.due, mail.hold_deadline, mail.expires_at)

    def _hourly(self, ref: str) -> None:
        """What `inputs/hourly` does with a case that may be due."""
        case, now = self.cases[ref], self.now
        old = case.occurred_at + LIMIT <= now
        ends = case.stage in (*UNANSWERED, "ended") and case.ends_at <= now + self.rules.coalesce
        if not old and not ends and "no_supporter" not in case.attention:
            return
        reached = any(m.told in _ON_THEIR_WAY for m in self.mails if m.case == ref and m.template == "offer")
        case = self.apply(transitions.lapse(case, now, reached=reached))
        case = self.apply(transitions.limit(case, now))
        case = self.apply(transitions.not_sent(case) if case.ends_at <= now + self.rules.coalesce else Transition(case))
        case = self.apply(transitions.find_again(case) if case.person_ref else Transition(case))
        if case.person_ref and case.stage in UNANSWERED:
            _must(case.ends_at > now, f"{case.stage} for longer than it should")
        _must(not old or not case.person_ref, "tied to a person after 90 days")

    # --- messages ---

    def _look_at(self, mail: Mail, relay: Relay) -> None:
        question = self.questions.get(mail.question)
        answered = question is not None and overtaken(self.answers[mail.question], mail.asked_after)
        waiting = Waiting(
            answered=answered,
            gone=not mail.linked,
            rehearsal=self.rules.rehearsal,
            due_at=mail.due,
            opens_at=self.now,
            hold_deadline=mail.hold_deadline,
            expires_at=mail.expires_at,
        )
        state = look_at(waiting, self.now)
        state = when_in_doubt(state, answered=answered) if mail.doubts else state
        if state is DeliveryState.SENDING:
            self._move(mail, state)
            progress = after_attempt(relay(), mail.attempts, mail.doubts, REPEATS_IN_DOUBT, self.now)
            mail.attempts, mail.doubts, mail.due = progress.attempts, progress.doubts, progress.due_at
            state = progress.state
        if state is not mail.state:
            self._move(mail, state)
        if mail.state in OUTCOMES:
            self.tell(mail, mail.state)

    def _move(self, mail: Mail, state: DeliveryState) -> None:
        legal = state in NEXT.get(mail.state, ()) or state in (DeliveryState.REHEARSED, DeliveryState.UNKNOWN)
        _must(legal or mail.doubts, f"a delivery goes from {mail.state} to {state}")
        mail.state = state

    def tell(self, mail: Mail, state: DeliveryState) -> None:
        """What became of a message is told to matching, as `inputs/deliveries` takes it."""
        mail.told = state
        case = self.cases.get(mail.case)
        if case is None or (mail.ended and state not in _MAY_BE_THERE):
            return
        if mail.template == "supporter_request":
            if state not in _ON_THEIR_WAY:
                self.apply(transitions.passed(case, mail.name, self.rules))
        elif mail.template == "offer":
            self.apply(self._after(case, mail, state))

    def _after(self, case: Case, mail: Mail, state: DeliveryState) -> Transition:
        if state is DeliveryState.UNKNOWN and mail.ended:
            return transitions.perhaps_sent(case)
        if state is DeliveryState.HANDED_OFF:
            return transitions.handed_off(case, mail.name, self.now, self.rules, overtaken=mail.ended)
        if state is DeliveryState.DELIVERED:
            return transitions.delivered(case, mail.name, self.now, self.rules, overtaken=mail.ended)
        return transitions.undelivered(case, _NOT_ARRIVED[state])

    # --- people ---

    def answer(self) -> None:
        """Somebody who may have a message presses one of the buttons of its page."""
        mails = [m for m in self.mails if m.linked and m.state in _MAY_BE_THERE and m.question in self.questions]
        if not mails:
            return
        mail = self.chance.choice(mails)
        question = self.questions[mail.question]
        answers = possible(question, self.now) if alive(question, self.now) else ()
        if not answers:
            return
        onward = [one for one in answers if one in ONWARD]
        answer = self.chance.choice(onward if onward and self.chance.random() < 0.6 else answers)
        fields = {name: self.chance.choice(values) for name, values in FIELDS.get(answer, {}).items()}
        decision = decide(question, answer, fields, self.now)
        self.questions[mail.question] = decision.question
        self.answers[mail.question] += 1
        if decision.publish is not None:
            self.hear(mail, decision.publish, dict(decision.options))

    def hear(self, mail: Mail, answer: str, options: dict[str, str]) -> None:
        """An answer comes to matching, as `inputs/answers` takes it."""
        case = self.cases.get(mail.case)
        if answer in ("talk_now", "urgent_help") and self.chance.random() < 0.3:
            if case:
                self.apply(transitions.on_call_silent(case))
            return
        if case is None:
            if answer == "accept":
                self._accept_loose(mail, options)
            return
        if mail.template == "supporter_request":
            self._by_supporter(case, mail, answer, options)
            return
        if case.over and case.person_ref:
            case = self._open_of(case.person_ref) or case
        if mail.template == "check_in" and answer == "ended":
            self.apply(transitions.no_more_check_ins(case, self.now))
            return
        if mail.template == "check_in" and answer == "accept":
            mail.case, mail.template = case.case_ref, "offer"
        self._by_person(case, answer, options)

    def _by_person(self, case: Case, answer: str, options: dict[str, str]) -> None:
        now, rules = self.now, self.rules
        choices: dict[str, Callable[[], Transition]] = {
            "accept": lambda: transitions.accept(case, options.get("when", "hours"), now, rules),
            "another": lambda: transitions.another(case, rules),
            "not_now": lambda: transitions.not_now(case, options.get("again", "never"), now, rules),
            "ended": lambda: transitions.end(case, now),
            "not_contacted": lambda: transitions.not_contacted(case, rules),
            "check_ins": lambda: transitions.want_check_ins(case, now),
            "talk_now": lambda: transitions.talked(case),
        }
        if choice := choices.get(answer):
            self.apply(choice())

    def _by_supporter(self, case: Case, mail: Mail, answer: str, options: dict[str, str]) -> None:
        now, rules, name = self.now, self.rules, mail.name
        choices: dict[str, Callable[[], Transition]] = {
            "confirm": lambda: transitions.confirm(case, name, now),
            "pass": lambda: transitions.passed(case, name, rules),
            "hand_over": lambda: transitions.hand_over(case, name, now, rules),
            "close": lambda: transitions.close(case, name, options, now, rules),
        }
        if choice := choices.get(answer):
            self.apply(choice())

    def _open_of(self, person: str) -> Case | None:
        return next((one for one in self.cases.values() if one.person_ref == person and not one.over), None)

    def _accept_loose(self, mail: Mail, options: dict[str, str]) -> None:
        """Yes on the page that asks how it was: a case that begins with its acceptance."""
        case = self._open_of(mail.to) or self.open(mail.to, incident=None)
        self.apply(transitions.accept(case, options.get("when", "hours"), self.now, self.rules))
        mail.case, mail.template = case.case_ref, "offer"

    def ask(self, person: str) -> None:
        """Somebody asks by themselves."""
        case = self._open_of(person)
        if case and case.stage == "following_up":
            self.apply(transitions.asked_again(case, self.now))
            case = None
        case = case or self.open(person, incident=None)
        urgency: Any = self.chance.choice(("routine", "routine", "urgent"))
        self.apply(transitions.asked(case, urgency, self.now, self.rules))

    def attend(self, case: Case, reason: Attention) -> None:
        """The coordinator does the one thing there is for a reason."""
        now, rules = self.now, self.rules
        choices: dict[str, Callable[[], Transition]] = {
            "reassign": lambda: transitions.reassign(case, now, rules),
            "close": lambda: transitions.coordinator_close(case, now, rules),
            "attended": lambda: transitions.attended(case),
            "seen": lambda: transitions.seen(case),
        }
        self.apply(choices[ACTIONS[reason]]())

    def interfere(self, case: Case) -> None:
        """Roster, source or coordinator do something to a case, whether it helps or not."""
        what = self.chance.choice(("retract", "gone", "supporter", "close", "reassign", "moved", "late"))
        now, rules = self.now, self.rules
        if what == "supporter" and case.supporter:
            self.away.add(case.supporter)
        sent = any(m.told in _MAY_BE_THERE for m in self.mails if m.case == case.case_ref and m.template == "offer")
        choices: dict[str, Callable[[], Transition]] = {
            "retract": lambda: transitions.retract(case, now, sent=sent),
            "gone": lambda: transitions.gone(case, now),
            "supporter": lambda: transitions.supporter_gone(case, rules),
            "close": lambda: transitions.coordinator_close(case, now, rules),
            "reassign": lambda: transitions.reassign(case, now, rules),
            "moved": lambda: transitions.moved(case, "another") if not case.over else Transition(case),
            "late": lambda: transitions.undelivered(case, "delivery_unknown"),
        }
        self.apply(choices[what]())

    def bounce(self) -> None:
        """What was handed off turns out to have been delivered, or not."""
        left = [mail for mail in self.mails if mail.state is DeliveryState.HANDED_OFF]
        if left:
            mail = self.chance.choice(left)
            self._move(mail, self.chance.choice((DeliveryState.DELIVERED, DeliveryState.FAILED)))
            self.tell(mail, mail.state)

    # --- ways out ---

    def shape(self, case: Case) -> tuple[Any, ...]:
        """What decides a case's future, times apart."""
        mine = [m for m in self.mails if m.case == case.case_ref and m.linked]
        pending = frozenset(m.template for m in mine if m.state is DeliveryState.QUEUED)
        timers = frozenset(name for owner, name in self.timers if owner == case.case_ref)
        flags = (case.supporter is None, case.person_ref is None, case.check_ins, case.supported)
        return case.stage, case.attention, case.notes, flags, timers, pending

    def run_out(self, relay: Relay) -> None:
        """Nobody does anything any more: by time alone everything ends, or stands on the coordinator's list.

        Raises:
            Lost: where something does neither.
        """
        for _ in range(700):
            if not (ahead := self._ahead()):
                break
            self.pass_time(max(min(ahead) - self.now, STRIDE), relay)
        else:
            raise Lost(f"no end: {self._ahead()[:2]}")
        _must(all(one.person_ref is None for one in self.cases.values()), "somebody is never forgotten")
        _must(not any(self.active.values()), f"places never given back: {self.active}")
        waiting = [m.name for m in self.mails if m.state in (DeliveryState.QUEUED, DeliveryState.SENDING)]
        _must(not waiting, f"messages without an end: {waiting}")

    def _ahead(self) -> list[datetime]:
        ahead = [*self.timers.values()]
        ahead += [self._wakes(mail) for mail in self.mails if mail.state is DeliveryState.QUEUED]
        for case in self.cases.values():
            if case.person_ref is not None:
                lapses = case.stage in (*UNANSWERED, "ended")
                ahead.append(min(case.ends_at, case.occurred_at + LIMIT) if lapses else case.occurred_at + LIMIT)
        return ahead

    def settle(self, ref: str) -> None:
        """Each reason on the list goes by the one thing that the coordinator can do about it.

        Raises:
            Lost: where one stays.
        """
        case = self.cases[ref]
        for reason in case.attention:
            alone = Ward(random.Random(0), self.rules, self.now, {ref: case}, dict(self.timers), names=set(self.names))
            alone.mails = [copy(mail) for mail in self.mails if mail.case == ref]
            if case.supporter:
                alone.active[case.supporter] = 1
            alone.attend(case, reason)
            _must(reason not in alone.cases[ref].attention, f"{case.stage}: {reason} stays whatever is done")


def _must(holds: object, else_: str) -> None:
    if not holds:
        raise Lost(else_)


_EFFECTS: Final[dict[type[Any], Callable[[Ward, Any, Case, Case], object]]] = {
    RequestMessage: lambda ward, effect, before, after: ward.request(effect, before, after),
    CancelRequests: lambda ward, effect, before, _: ward.cancel(effect, before),
    SetTimer: lambda ward, effect, before, _: ward.timers.update({(before.case_ref, effect.name): effect.due_at}),
    DropTimer: lambda ward, effect, before, _: ward.timers.pop((before.case_ref, effect.name), None),
    ReleaseSupporter: lambda ward, effect, _, __: ward.release(effect.supporter),
    RecordRefusal: lambda ward, effect, _, __: ward.barred.add((effect.person, effect.supporter)),
    Publish: lambda ward, effect, before, _: ward.erase(before.case_ref) if effect.what == "erased" else None,
}
_TIMERS: Final[dict[str, Callable[[Ward, Case], Transition]]] = {
    "reminder": lambda _, case: transitions.remind(case, None),
    "again": lambda _, case: transitions.offer_again(case, None),
    "confirm": lambda ward, case: transitions.unconfirmed(case, ward.now, ward.rules),
    "contact": lambda _, case: transitions.contact_due(case),
    "check_in": lambda ward, case: transitions.check_in(case, ward.now),
    "not_closed": lambda _, case: transitions.not_closed(case),
}

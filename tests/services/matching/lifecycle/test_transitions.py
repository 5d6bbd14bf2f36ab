"""Whatever happens in whatever order, a case keeps its promises (hypothesis plays all sides)."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from leeward.settings.policy import Outreach, Supporters
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import (
    ACTIONS,
    OF_THE_SEARCH,
    OVER,
    URGENCY,
    CancelRequests,
    Case,
    ChosenSupporter,
    DropTimer,
    ForgetPerson,
    KeepQuiet,
    NeedsSupporter,
    ReleaseSupporter,
    RequestMessage,
    Rules,
    SetTimer,
    Transition,
)
from services.matching.lifecycle.steps import LIMIT

START = datetime(2026, 11, 21, 9, tzinfo=UTC)
RULES = Rules.of(Outreach(mode="live"), Supporters())
CAPS = {"sue": 1, "tim": 2, "una": 1}
FORM = {"duration": "15_45", "contacts": "1"}


@dataclass
class Session:
    """Capacity, timers and questions as the service keeps them, in memory."""

    active: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CAPS, 0))
    asked: dict[str, set[str]] = field(default_factory=dict)
    timers: dict[tuple[str, str], datetime] = field(default_factory=dict)
    sent: list[tuple[str, RequestMessage]] = field(default_factory=list)
    live: dict[tuple[str, str], str] = field(default_factory=dict)

    def find(self, case: Case, need: NeedsSupporter) -> ChosenSupporter | None:
        for name, most in CAPS.items():
            if self.active[name] < most and name not in self.asked.setdefault(case.case_ref, set()):
                self.active[name] += need.purpose == "request"
                self.asked[case.case_ref].add(name)
                return ChosenSupporter(name, "UTC")
        return None

    def apply(self, transition: Transition, now: datetime) -> Case:
        """Carry effects out, and answer a need as the next input; gives the case after that."""
        case = transition.case
        for effect in transition.effects:
            self._carry_out(case.case_ref, effect)
        for need in transition.effects:
            if isinstance(need, NeedsSupporter):
                chosen = self.find(case, need)
                found = chosen and transitions.supporter_found(case, chosen, now, RULES)
                return self.apply(found or transitions.nobody_free(case), now)
        return case

    def _carry_out(self, ref: str, effect: Any) -> None:
        if isinstance(effect, ReleaseSupporter):
            self.active[effect.supporter] -= 1
        elif isinstance(effect, SetTimer):
            self.timers[effect.name, ref] = effect.due_at
        elif isinstance(effect, DropTimer):
            self.timers.pop((effect.name, ref), None)
        elif isinstance(effect, RequestMessage):
            self.sent.append((ref, effect))
            if not effect.loose:
                self.live[ref, effect.message_name] = effect.template
        elif isinstance(effect, CancelRequests) and effect.which != "unsent":
            gone = [key for key, template in self.live.items() if key[0] == ref]
            for key in gone:
                if effect.which == "all" or self.live[key] == "supporter_request":
                    del self.live[key]


def new_case(name: str, now: datetime) -> Case:
    return Case(
        case_ref=name,
        person_ref=f"person {name}",
        incident_ref="incident",
        proposed="sue",
        opened_at=now,
        occurred_at=now,
        ends_at=now + RULES.longest_hold + RULES.coalesce,
    )


REFS = st.sampled_from(["a", "b", "c"])
STATES = st.sampled_from(["unreachable", "delivery_unknown", "held_too_long", "expired"])


class Cases(RuleBasedStateMachine):
    """Three people, three supporters with four places, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.session = Session()
        self.cases: dict[str, Case] = {}
        self.reached: set[str] = set()

    @initialize()
    def open_them(self) -> None:
        for name in ("a", "b", "c"):
            case = new_case(name, self.now)
            self.cases[name] = case
            self.apply(transitions.opened(case, not_before=None, stuck=None))

    def apply(self, transition: Transition) -> None:
        before = self.cases[transition.case.case_ref]
        sent = len(self.session.sent)
        after = self.session.apply(transition, self.now)
        self.cases[after.case_ref] = after
        messages = [message for _, message in self.session.sent[sent:]]
        self.check_silence(before, after, messages)

    def check_silence(self, before: Case, after: Case, messages: list[RequestMessage]) -> None:
        """Nothing leaves for a case that is over, but the question how it was; a person may take a no back."""
        if after.stage == "closed":
            allowed = before.stage not in OVER and before.supported
            assert [m.template for m in messages] in ([], ["follow_up"] if allowed else [])
        if after.stage == "ended":
            assert messages == []
        for message in messages:
            if message.to == "supporter":
                assert before.accepted_at or after.stage == "accepted", "a supporter hears of nobody before a yes"

    @rule(ref=REFS, name=st.sampled_from(["offer", "reminder", "asked"]))
    def handed_off(self, ref: str, name: str) -> None:
        self.reached.add(ref)
        self.apply(transitions.handed_off(self.cases[ref], name, self.now, RULES))

    @rule(ref=REFS, reason=STATES)
    def undelivered(self, ref: str, reason: Any) -> None:
        self.apply(transitions.undelivered(self.cases[ref], reason))

    @rule(ref=REFS, when=st.sampled_from(["now", "hours", "days", "week"]))
    def accept(self, ref: str, when: str) -> None:
        self.apply(transitions.accept(self.cases[ref], when, self.now, RULES))

    @rule(ref=REFS)
    def another(self, ref: str) -> None:
        self.apply(transitions.another(self.cases[ref], RULES))

    @rule(ref=REFS, again=st.sampled_from(["week", "month", "never", "nonsense"]))
    def not_now(self, ref: str, again: str) -> None:
        self.apply(transitions.not_now(self.cases[ref], again, self.now, RULES))

    @rule(ref=REFS)
    def end(self, ref: str) -> None:
        self.apply(transitions.end(self.cases[ref], self.now))

    @rule(ref=REFS)
    def want_check_ins(self, ref: str) -> None:
        self.apply(transitions.want_check_ins(self.cases[ref], self.now))

    @rule(ref=REFS)
    def no_more_check_ins(self, ref: str) -> None:
        self.apply(transitions.no_more_check_ins(self.cases[ref], self.now))

    @rule(ref=REFS)
    def not_contacted(self, ref: str) -> None:
        self.apply(transitions.not_contacted(self.cases[ref], RULES))

    @rule(ref=REFS)
    def silent(self, ref: str) -> None:
        self.apply(transitions.on_call_silent(self.cases[ref]))

    @rule(ref=REFS, late=st.booleans(), answer=st.sampled_from(["confirm", "pass", "hand_over", "close"]))
    def supporter(self, ref: str, late: bool, answer: str) -> None:
        case = self.cases[ref]
        name = "request-1" if late else case.request_name
        choices = {
            "confirm": lambda: transitions.confirm(case, name, self.now),
            "pass": lambda: transitions.passed(case, name, RULES),
            "hand_over": lambda: transitions.hand_over(case, name, self.now, RULES),
            "close": lambda: transitions.close(case, name, FORM, self.now, RULES),
        }
        self.apply(choices[answer]())

    @rule(ref=REFS, action=st.sampled_from(["reassign", "close", "attended", "seen", "retract", "gone", "again"]))
    def others(self, ref: str, action: str) -> None:
        case = self.cases[ref]
        choices = {
            "reassign": lambda: transitions.reassign(case, self.now, RULES),
            "close": lambda: transitions.coordinator_close(case, self.now, RULES),
            "attended": lambda: transitions.attended(case),
            "seen": lambda: transitions.seen(case),
            "retract": lambda: transitions.retract(case, self.now),
            "gone": lambda: transitions.supporter_gone(case, RULES),
            "again": lambda: transitions.find_again(case),
        }
        self.apply(choices[action]())

    @rule(hours=st.integers(1, 24 * 20))
    def time_passes(self, hours: int) -> None:
        self.now += timedelta(hours=hours)
        for (name, ref), due in sorted(self.session.timers.items(), key=lambda item: item[1]):
            if due <= self.now and (name, ref) in self.session.timers:
                del self.session.timers[name, ref]
                self.fire(name, self.cases[ref])
        for ref in self.cases:
            self.apply(transitions.lapse(self.cases[ref], self.now, reached=ref in self.reached))
            self.apply(transitions.limit(self.cases[ref], self.now))
            self.apply(transitions.not_sent(self.cases[ref]) if self.overdue(ref) else Transition(self.cases[ref]))

    def overdue(self, ref: str) -> bool:
        return self.cases[ref].ends_at <= self.now + RULES.coalesce

    def fire(self, name: str, case: Case) -> None:
        choices = {
            "reminder": lambda: transitions.remind(case, None),
            "again": lambda: transitions.offer_again(case, None),
            "confirm": lambda: transitions.unconfirmed(case, self.now, RULES),
            "contact": lambda: transitions.contact_due(case),
            "check_in": lambda: transitions.check_in(case, self.now),
            "not_closed": lambda: transitions.not_closed(case),
        }
        self.apply(choices[name]())

    @precondition(lambda self: self.cases)
    @invariant()
    def one_supporter_at_a_time(self) -> None:
        holding = [case.supporter for case in self.cases.values() if case.supporter]
        assert self.session.active == {name: holding.count(name) for name in CAPS}, "capacity is held by cases alone"
        assert all(self.session.active[name] <= most for name, most in CAPS.items())
        for ref, case in self.cases.items():
            questions = [
                name
                for (owner, name), kind in self.session.live.items()
                if (owner, kind) == (ref, "supporter_request") and "-again-" not in name
            ]
            assert questions == ([case.request_name] if case.supporter else []), "one live link to a supporter"

    @invariant()
    def what_is_stuck_is_shown_with_an_action_a_reason(self) -> None:
        for case in self.cases.values():
            assert (case.state == "needs_attention") == bool(case.attention)
            assert case.attention == tuple(reason for reason in URGENCY if reason in case.attention)
            assert all(reason in ACTIONS for reason in case.attention)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Every open case has a timer, an end or the coordinator ahead of it."""
        for ref, case in self.cases.items():
            timers = {name for name, owner in self.session.timers if owner == ref}
            if case.stage == "accepted":
                searched = not OF_THE_SEARCH.isdisjoint(case.attention)
                assert searched or ("confirm" in timers and case.supporter)
            if case.stage == "supported":
                assert "not_closed" in case.attention or "not_closed" in timers
            if case.stage == "following_up":
                assert "check_in" in timers
            if case.stage in OVER:
                assert timers == set()
                assert case.supporter is None

    @invariant()
    def forgetting(self) -> None:
        for case in self.cases.values():
            assert case.stage != "closed" or case.person_ref is None
            if case.person_ref:
                assert case.occurred_at + LIMIT > self.now

    @invariant()
    def a_message_name_is_used_once(self) -> None:
        sent = [(ref, m.message_name, m.to) for ref, m in self.session.sent if m.message_name not in REPEATS]
        assert len(sent) == len(set(sent))


# the reminder follows each offer that has left; check-ins are counted, follow-up comes once
REPEATS = frozenset({"reminder"})
Cases.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCases = Cases.TestCase


def test_a_no_looks_like_silence() -> None:
    offered = transitions.handed_off(new_case("a", START), "offer", START, RULES).case
    later = START + RULES.coalesce
    said_no = transitions.lapse(transitions.end(offered, START + timedelta(hours=1)).case, later, reached=True)
    said_nothing = transitions.lapse(offered, later, reached=True)
    assert said_no.case.state == said_nothing.case.state == "ended"
    assert said_no.case.reasons == said_nothing.case.reasons == []
    assert said_no.case.person_ref is said_nothing.case.person_ref is None


def test_silence_forgets_after_fourteen_days_and_not_before() -> None:
    offered = transitions.handed_off(new_case("a", START), "offer", START, RULES).case
    assert transitions.lapse(offered, START + timedelta(days=13, hours=23), reached=True).case == offered
    forgotten = transitions.lapse(offered, START + timedelta(days=14), reached=True)
    assert any(isinstance(effect, ForgetPerson) for effect in forgotten.effects)


def test_the_quiet_time_is_the_same_whatever_the_stage() -> None:
    case = new_case("a", START)
    quiet = [e for e in transitions.handed_off(case, "offer", START, RULES).effects if isinstance(e, KeepQuiet)]
    assert quiet == [KeepQuiet("person a", START + timedelta(days=14))]


def test_each_reason_ends_in_its_own_way() -> None:
    stuck = new_case("a", START)
    stuck = transitions.nobody_free(stuck).case
    stuck = transitions.undelivered(stuck, "unreachable").case
    stuck = transitions.on_call_silent(stuck).case
    assert stuck.reasons == ["on_call_silent", "no_supporter", "unreachable"]
    sent = transitions.handed_off(stuck, "offer", START, RULES).case
    assert sent.reasons == ["on_call_silent", "no_supporter"], "an offer that leaves finds nobody a supporter"
    assert transitions.attended(sent).case.reasons == ["no_supporter"]
    found = transitions.supporter_found(sent, ChosenSupporter("sue", "UTC"), START, RULES).case
    assert found.reasons == ["on_call_silent"]


def test_trying_again_tries_all_that_failed() -> None:
    unreachable = transitions.undelivered(transitions.nobody_free(new_case("a", START)).case, "unreachable").case
    again = transitions.reassign(unreachable, START, RULES)
    assert {type(effect) for effect in again.effects} >= {NeedsSupporter, RequestMessage}


def test_who_was_never_reached_does_not_end_like_a_no() -> None:
    late = START + RULES.longest_hold + RULES.coalesce
    lapsed = transitions.lapse(new_case("a", START), late, reached=False)
    assert any(isinstance(effect, ForgetPerson) for effect in lapsed.effects)
    assert (lapsed.case.stage, lapsed.case.person_ref, lapsed.case.reasons) == ("ended", None, ["never_reached"])
    assert transitions.seen(lapsed.case).case.reasons == []


def test_who_said_yes_and_was_given_nobody_stays_on_the_list_after_ninety_days() -> None:
    alone = transitions.accept(new_case("a", START), "hours", START, RULES).case
    over = transitions.limit(transitions.nobody_free(alone).case, START + LIMIT)
    assert (over.case.stage, over.case.person_ref, over.case.reasons) == ("closed", None, ["never_reached"])


def test_no_reason_is_a_part_of_another_so_that_a_query_finds_one_by_its_name() -> None:
    assert [(one, other) for one in ACTIONS for other in ACTIONS if one != other and one in other] == []

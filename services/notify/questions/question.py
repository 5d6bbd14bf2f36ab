"""What a question may be answered with, and what an answer changes: values only, no I/O (DESIGN §5.6)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from services.notify.channels import WAYS

UNDO: Final = timedelta(hours=24)
LONGEST: Final = timedelta(days=90)
QuestionState = Literal[
    "open", "accepted", "later", "declined", "withdrawn", "confirmed", "passed", "handed_over", "closed"
]
ALWAYS_OPEN: Final[frozenset[QuestionState]] = frozenset({"accepted", "confirmed"})
STARTS_AGAIN: Final = frozenset({"later", "declined", "withdrawn", "passed", "handed_over", "closed"})
# an answer may come while matching still asks: in which states of the question such a message leaves all the same
LEAVES_IN: Final[Mapping[str, frozenset[str]]] = {
    "reminder": frozenset({"open"}),
    "offer_again": frozenset({"open", "later"}),
}
LAST_PAGE: Final = timedelta(hours=1)
# What a page asks in each state, in the order of its buttons. `undo` is there for a day only, talk_now always last.
ANSWERS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "offer": {
        "open": ("accept", "another", "not_now", "no_thanks", "talk_now"),
        "later": ("accept", "no_thanks", "talk_now"),
        "declined": ("undo", "talk_now"),
        "withdrawn": ("undo", "talk_now"),
        "accepted": ("another", "not_contacted", "check_ins", "withdraw", "talk_now"),
    },
    "supporter_request": {
        "open": ("confirm", "pass"),
        "confirmed": ("close", "hand_over", "urgent_help"),
        "handed_over": ("urgent_help",),
    },
    "check_in": {
        "open": ("accept", "no_thanks", "talk_now"),
        "accepted": ("another", "not_contacted", "withdraw", "talk_now"),
        "declined": ("talk_now",),
        "withdrawn": ("talk_now",),
    },
    "monthly_offer": {
        "open": ("check_ins", "no_thanks", "talk_now"),
        "accepted": ("no_thanks", "talk_now"),
        "declined": ("undo", "talk_now"),
    },
    "follow_up": {
        "open": ("keep", "accept", "no_thanks", "talk_now"),
        "accepted": ("keep", "another", "not_contacted", "withdraw", "talk_now"),
        "declined": ("keep", "undo", "talk_now"),
        "withdrawn": ("keep", "talk_now"),
    },
    "cover": {},
}
FIELDS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "accept": {"when": ("now", "hours", "days", "week"), "how": WAYS},
    "not_now": {"again": ("week", "month", "never")},
    "close": {
        "channel": ("in_person", "phone", "video", "text", "group"),
        "duration": ("under_15", "15_45", "45_90", "over_90"),
        "contacts": ("1", "2", "3", "more"),
        "referral": ("none", "professional", "eap", "crisis", "other"),
        "strain": ("1", "2", "3", "4", "5"),
    },
}
_AFTER: Final[Mapping[str, QuestionState]] = {
    "accept": "accepted",
    "not_now": "later",
    "no_thanks": "declined",
    "withdraw": "withdrawn",
    "undo": "open",
    "confirm": "confirmed",
    "pass": "passed",
    "hand_over": "handed_over",
    "close": "closed",
}
# answers that this service keeps to itself; `no_thanks` and `withdraw` are published as one
_UNPUBLISHED: Final = frozenset({"undo", "keep"})
_PUBLISHED_AS: Final[Mapping[str, str]] = {"no_thanks": "ended", "withdraw": "ended"}
_KEPT_HERE: Final = frozenset({"how"})
_CALLS: Final = frozenset({"talk_now", "urgent_help"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question to one recipient, as its row has it.

    `said` is the last answer; `wanted` (when) and `how` are those of `accept`, `again` that of `not_now`.
    """

    template: str
    state: QuestionState = "open"
    expires_at: datetime
    answered_at: datetime | None = None
    said: str = ""
    wanted: str = ""
    how: str = ""
    again: str = ""
    check_ins: bool = False

    @property
    def answered(self) -> bool:
        return self.answered_at is not None


@dataclass(frozen=True, slots=True)
class AnswerDecision:
    """What an answer changes: the question after it, and who hears of it.

    publish: the answer for the bus, with its `options`; None where it stays here. calls: whether the professional on
    duty is called.
    """

    question: Question
    publish: str | None
    options: Mapping[str, str]
    calls: bool


class Impossible(Exception):
    """The question cannot be answered like this now: it was answered before, or has ended."""


class Incomplete(Exception):
    """Fields of the answer are missing or hold something else than what is offered; `fields` names them."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        super().__init__(", ".join(fields))
        self.fields = fields


def alive(question: Question, now: datetime) -> bool:
    """A link lives as long as its question: until it expires unanswered, or a day after an answer that ends it."""
    if question.state in ALWAYS_OPEN:
        return True
    last = question.expires_at
    if question.answered_at is not None:
        last = max(last, question.answered_at + UNDO)
    return now < last


def possible(question: Question, now: datetime) -> tuple[str, ...]:
    """The answers the page offers now, in the order of its buttons."""
    answers = ANSWERS[question.template].get(question.state, ())
    late = question.answered_at is None or now >= question.answered_at + UNDO
    dropped = {"undo"} if late else set()
    if question.template == "offer" and question.check_ins:
        dropped.add("check_ins")
    return tuple(answer for answer in answers if answer not in dropped)


def decide(question: Question, answer: str, fields: Mapping[str, str], now: datetime) -> AnswerDecision:
    """Apply an answer. `never` is a no like any other; a monthly offer's state says whether the check-ins run.

    Raises:
        Impossible: when the page does not offer it now.
        Incomplete: when its fields are not as offered.
    """
    if answer not in possible(question, now):
        raise Impossible
    offered = FIELDS.get(answer, {})
    if wrong := tuple(name for name, values in offered.items() if fields.get(name) not in values):
        raise Incomplete(wrong)
    given = {name: fields[name] for name in offered}
    state = _AFTER.get(answer, question.state)
    if given.get("again") == "never":
        state = "declined"
    if answer == "check_ins" and question.template == "monthly_offer":
        state = "accepted"
    after = replace(
        question,
        state=state,
        answered_at=now,
        said=answer,
        wanted=given.get("when", question.wanted),
        how=given.get("how", question.how),
        again=given.get("again", question.again),
        check_ins=question.check_ins or answer == "check_ins",
    )
    published = None if answer in _UNPUBLISHED else _PUBLISHED_AS.get(answer, answer)
    options = {name: value for name, value in given.items() if name not in _KEPT_HERE}
    return AnswerDecision(after, published, options, answer in _CALLS)


def is_timely(step: str, state: str, answered_at: datetime | None) -> bool:
    """False for a message of this step that an answer to its question has overtaken."""
    name, _, _ = step.partition("-")
    if name not in LEAVES_IN:
        return True
    # who asked for somebody else, or to talk now, has not ended the question, and needs no reminder of it
    return state in LEAVES_IN[name] and (name != "reminder" or answered_at is None)


def on_last_page(template: str, state: str, answered_at: datetime | None, now: datetime) -> bool:
    """Whether the page of the answer that ended a question may still be open.

    Never so for an offer whose case is erased: a person's no can be taken back for a day, and it is not erased before.
    """
    if template == "offer" or state not in STARTS_AGAIN or answered_at is None:
        return False
    return now < answered_at + LAST_PAGE

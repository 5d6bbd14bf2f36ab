"""What a case is, and what a transition of it asks for: values only, no I/O."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from typing import Final, Literal

from leeward.settings.policy import Outreach, Supporters

Stage = Literal["waiting", "offered", "accepted", "supported", "following_up", "closed", "ended"]
State = Literal["waiting", "offered", "accepted", "supported", "following_up", "closed", "ended", "needs_attention"]
Urgency = Literal["routine", "urgent"]
Attention = Literal[
    "no_supporter",
    "no_confirmation",
    "unreachable",
    "delivery_unknown",
    "held_too_long",
    "expired",
    "not_sent",
    "not_closed",
    "on_call_silent",
    "never_reached",
]
Note = Literal["retracted", "retracted_after_sending", "rehearsal"]
Action = Literal["reassign", "close", "attended", "seen"]
Template = Literal["offer", "supporter_request", "check_in", "monthly_offer", "follow_up", "cover"]

STAGES: Final[tuple[Stage, ...]] = (
    "waiting",
    "offered",
    "accepted",
    "supported",
    "following_up",
    "closed",
    "ended",
)
OVER: Final[frozenset[Stage]] = frozenset({"closed", "ended"})
UNANSWERED: Final[frozenset[Stage]] = frozenset({"waiting", "offered"})
# settled when an offer leaves, or when the person answers
OF_THE_OFFER: Final[frozenset[Attention]] = frozenset(
    {"unreachable", "delivery_unknown", "held_too_long", "expired", "not_sent"}
)
# settled when a supporter is found
OF_THE_SEARCH: Final[frozenset[Attention]] = frozenset({"no_supporter", "no_confirmation"})
# what the coordinator can do about each reason, exactly one thing
ACTIONS: Final[dict[Attention, Action]] = {
    "no_supporter": "reassign",
    "no_confirmation": "reassign",
    "unreachable": "reassign",
    "delivery_unknown": "reassign",
    "held_too_long": "reassign",
    "expired": "reassign",
    "not_sent": "reassign",
    "not_closed": "close",
    "on_call_silent": "attended",
    "never_reached": "seen",
}
# most urgent first: the order of the board
URGENCY: Final[tuple[Attention, ...]] = (
    "on_call_silent",
    "no_confirmation",
    "no_supporter",
    "unreachable",
    "never_reached",
    "held_too_long",
    "delivery_unknown",
    "not_sent",
    "expired",
    "not_closed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One person's case; the fields are the columns of its row.

    `stage` is how far it has come, `attention` every reason for which it is stuck, in the order of URGENCY; what
    others see is `state`. `supporter` holds capacity from acceptance on, `proposed` holds none. `ends_at` is when an
    unanswered offer ends and an ended case forgets.
    """

    case_ref: str
    person_ref: str | None
    incident_ref: str | None = None
    stage: Stage = "waiting"
    attention: tuple[Attention, ...] = ()
    notes: tuple[Note, ...] = ()
    urgency: Urgency = "routine"
    proposed: str | None = None
    supporter: str | None = None
    tries: int = 0
    requests: int = 0
    offers: int = 0
    wanted: str = "hours"
    check_ins: bool = False
    checked: int = 0
    supported: bool = False
    professional: bool = False
    opened_at: datetime
    occurred_at: datetime
    ends_at: datetime
    accepted_at: datetime | None = None
    confirm_by: datetime | None = None

    @property
    def state(self) -> State:
        return "needs_attention" if self.attention else self.stage

    @property
    def over(self) -> bool:
        return self.stage in OVER

    @property
    def reasons(self) -> list[str]:
        """Codes for the coordinator; why a case ended is nobody's business."""
        return [*self.attention, *self.notes]

    def with_reason(self, reason: Attention) -> "Case":
        """The same case, on the coordinator's list for this as well."""
        return replace(self, attention=tuple(one for one in URGENCY if one == reason or one in self.attention))

    def without(self, reasons: Collection[Attention]) -> "Case":
        """The same case, these reasons settled; every other one stays."""
        left = tuple(one for one in self.attention if one not in reasons)
        return replace(self, attention=left) if left != self.attention else self

    @property
    def request_name(self) -> str:
        """The name of the message by which the present supporter was asked."""
        return f"request-{self.requests}"

    @property
    def pressing(self) -> bool:
        return self.urgency == "urgent" or self.wanted == "now"


@dataclass(frozen=True, slots=True)
class ChosenSupporter:
    """A supporter who was found for a case."""

    person_ref: str
    timezone: str


@dataclass(frozen=True, slots=True)
class RequestMessage:
    """Request one message to the person or the present supporter; `loose` ones are no longer tied to the case."""

    message_name: str
    template: Template
    to: Literal["person", "supporter"]
    urgency: Urgency = "routine"
    not_before: datetime | None = None
    options: dict[str, str] = field(default_factory=dict)
    loose: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequests:
    """End questions: the person's that have not left yet, the supporter's, or all of the case."""

    which: Literal["unsent", "supporter", "all"]


@dataclass(frozen=True, slots=True)
class SetTimer:
    name: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class DropTimer:
    name: str


@dataclass(frozen=True, slots=True)
class Publish:
    what: Literal["opened", "assigned", "closed", "erased"]


@dataclass(frozen=True, slots=True)
class ReleaseSupporter:
    """Give a supporter's place back; book minutes; let them rest until then."""

    supporter: str
    minutes: int = 0
    rest_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RecordRefusal:
    """This person is never offered that supporter again."""

    person: str
    supporter: str


@dataclass(frozen=True, slots=True)
class KeepQuiet:
    """No further outreach to the person until then."""

    person: str
    until: datetime


@dataclass(frozen=True, slots=True)
class ListForCoordinator:
    """One entry on the coordinator's list that is no case of its own."""

    kind: Literal["retracted_after_sending"]


@dataclass(frozen=True, slots=True)
class ForgetPerson:
    """Delete what ties the person to the case and to its incident."""

    person: str


@dataclass(frozen=True, slots=True)
class NeedsSupporter:
    """Look for a supporter; `supporter_found` or `nobody_free` is the next input of this case.

    A proposal takes no place of anybody; a request takes one in the same transaction.
    """

    purpose: Literal["proposal", "request"]


Effect = (
    RequestMessage
    | CancelRequests
    | SetTimer
    | DropTimer
    | Publish
    | ReleaseSupporter
    | RecordRefusal
    | KeepQuiet
    | ListForCoordinator
    | ForgetPerson
    | NeedsSupporter
)


@dataclass(frozen=True, slots=True)
class Transition:
    """The case after an input, and what is to be done about it, in this order."""

    case: Case
    effects: tuple[Effect, ...] = ()

    def then(self, *effects: Effect) -> "Transition":
        return Transition(self.case, (*self.effects, *effects))


@dataclass(frozen=True, slots=True)
class Rules:
    """Times and numbers a site decides (CONTRACT §Settings); `of` takes them from its policy."""

    reminder_after: timedelta
    longest_hold: timedelta
    coalesce: timedelta
    answer_hours: tuple[time, time] | None
    confirm_urgent: timedelta
    confirm_routine: timedelta
    attempts: int
    cool_down: timedelta
    rehearsal: bool

    @classmethod
    def of(cls, outreach: Outreach, supporters: Supporters) -> "Rules":
        """The rules of a policy's sections [outreach] and [supporters]."""
        hours = supporters.answer_hours
        return cls(
            reminder_after=outreach.reminder_after,
            longest_hold=outreach.longest_hold,
            coalesce=outreach.coalesce,
            answer_hours=(hours.start, hours.end) if hours else None,
            confirm_urgent=supporters.confirm_urgent,
            confirm_routine=supporters.confirm_routine,
            attempts=supporters.attempts,
            cool_down=supporters.cool_down,
            rehearsal=outreach.mode == "rehearsal",
        )

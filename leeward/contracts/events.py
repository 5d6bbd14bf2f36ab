"""Event bodies, one model a type. References are UUIDv4 as text; times are 15-minute buckets.

A consumer ignores keys it does not know, so that a producer may be newer; removing or changing one is a new `.vN`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from leeward.contracts.buckets import Bucketed

UUID4 = r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
Ref = Annotated[str, Field(pattern=UUID4)]
Code = Annotated[str, Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$")]
Options = Annotated[dict[Code, Code], Field(max_length=16)]
Urgency = Literal["routine", "urgent"]
Level = Literal["death", "severe", "moderate", "mild", "none", "unknown"]
Template = Literal["offer", "supporter_request", "check_in", "monthly_offer", "follow_up", "cover"]
Answer = Literal[
    "accept",
    "another",
    "not_now",
    "ended",
    "talk_now",
    "not_contacted",
    "check_ins",
    "confirm",
    "pass",
    "hand_over",
    "urgent_help",
    "close",
]
DeliveryState = Literal["handed_off", "delivered", "failed", "unknown", "expired", "held_too_long"]


class Body(BaseModel):
    """What every part of an event has in common."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class EventData(Body):
    """The data of one event; `type` is the CloudEvents type, `key` orders events of the same thing."""

    type: ClassVar[str]

    @property
    def key(self) -> str:
        """The incident's or case's reference, or the recipient's where there is neither."""
        for name in ("case_ref", "incident_ref", "request_ref", "recipient_ref"):
            if value := getattr(self, name, None):
                return str(value)
        raise TypeError(f"{self.type} has no key")


class Severity(Body):
    """A harm scale's own code beside the normalised level: VA SAC 3 is worst, WA SAC 1 is worst."""

    scheme: Code
    code: Code
    level: Level


class Involved(Body):
    """A member of staff listed around an outcome; a reviewer is never offered nor offering support for it."""

    person_ref: Ref
    role: Literal["involved"] = "involved"
    reviewer: bool = False


class IncidentRecorded(EventData):
    """An outcome that leads to offers."""

    type: ClassVar[str] = "leeward.incident.recorded.v1"
    incident_ref: Ref
    category: Code
    severity: Severity
    unit: Annotated[str, Field(max_length=200)]
    occurred_at: Bucketed
    urgency: Urgency = "routine"
    involved: tuple[Involved, ...] = ()


class IncidentAmended(EventData):
    """People who became known later."""

    type: ClassVar[str] = "leeward.incident.amended.v1"
    incident_ref: Ref
    involved: tuple[Involved, ...]


class IncidentRetracted(EventData):
    """The source took its evidence back."""

    type: ClassVar[str] = "leeward.incident.retracted.v1"
    incident_ref: Ref


class CaseEvent(EventData):
    """A step in a case's life."""

    case_ref: Ref


class CaseOpened(CaseEvent):
    type: ClassVar[str] = "leeward.matching.case_opened.v1"


class CaseAssigned(CaseEvent):
    type: ClassVar[str] = "leeward.matching.case_assigned.v1"


class CaseClosed(CaseEvent):
    type: ClassVar[str] = "leeward.matching.case_closed.v1"


class CaseErased(CaseEvent):
    type: ClassVar[str] = "leeward.matching.case_erased.v1"


class MessageRequested(EventData):
    """Ask notify for one neutral message; `template` says which question its link opens."""

    type: ClassVar[str] = "leeward.matching.message_requested.v1"
    request_ref: Ref
    case_ref: Ref
    step: Code
    recipient_ref: Ref
    template: Template
    options: Options = {}
    urgency: Urgency = "routine"
    not_before: Bucketed | None = None
    hold_deadline: Bucketed | None = None
    expires_at: Bucketed


class MessageCancelled(EventData):
    """The question of a request has ended: nothing more is sent for it and its links are dead."""

    type: ClassVar[str] = "leeward.matching.message_cancelled.v1"
    request_ref: Ref


class Answered(EventData):
    """What a person or supporter chose; `no_thanks`, silence and `withdraw` are all `ended`."""

    type: ClassVar[str] = "leeward.notify.answered.v1"
    request_ref: Ref
    case_ref: Ref
    answer: Answer
    options: Options = {}


class HelpRequested(EventData):
    """Somebody asked for themselves, or a colleague for them; which of the two is nobody's business."""

    model_config = ConfigDict(title="Asked")  # as published
    type: ClassVar[str] = "leeward.notify.asked.v1"
    recipient_ref: Ref
    urgency: Urgency = "routine"


class DeliveryOutcome(EventData):
    """What became of a message."""

    model_config = ConfigDict(title="Outcome")  # as published
    type: ClassVar[str] = "leeward.notify.outcome.v1"
    request_ref: Ref
    state: DeliveryState
    # `cancelled` beside `expired`: it was called off, or an answer had come, before anything left
    cause: Code | None = None


class ReachabilityChanged(EventData):
    """Whether any channel reaches a recipient."""

    type: ClassVar[str] = "leeward.notify.reachability_changed.v1"
    recipient_ref: Ref
    reachable: bool


class AttentionEvent(EventData):
    """Whether something of a service stands on the coordinator's list; nothing says what it is about."""

    kind: Literal["dead_letter"]
    standing: Literal["yes", "no"]

    @property
    def key(self) -> str:
        """What keeps the order of what is said of one kind: there is no reference."""
        return self.kind


class IncidentAttention(AttentionEvent):
    type: ClassVar[str] = "leeward.incident.attention.v1"


class NotifyAttention(AttentionEvent):
    type: ClassVar[str] = "leeward.notify.attention.v1"


EVENTS: Final[Mapping[str, type[EventData]]] = MappingProxyType(
    {
        model.type: model
        for model in (
            IncidentRecorded,
            IncidentAmended,
            IncidentRetracted,
            CaseOpened,
            CaseAssigned,
            CaseClosed,
            CaseErased,
            MessageRequested,
            MessageCancelled,
            Answered,
            HelpRequested,
            DeliveryOutcome,
            ReachabilityChanged,
            IncidentAttention,
            NotifyAttention,
        )
    }
)

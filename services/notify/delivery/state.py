"""The life of a delivery: what it is, and what becomes of it. Values only, no I/O (DESIGN §6, §8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from services.notify.channels import Contact, Kind, Result


class DeliveryState(StrEnum):
    """The states of one hand-off (DESIGN §6)."""

    QUEUED = "queued"
    SENDING = "sending"
    HANDED_OFF = "handed_off"
    DELIVERED = "delivered"
    FAILED = "failed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    HELD_TOO_LONG = "held_too_long"
    REHEARSED = "rehearsed"
    CANCELLED = "cancelled"


OUTCOMES: Final = frozenset(
    {
        DeliveryState.HANDED_OFF,
        DeliveryState.DELIVERED,
        DeliveryState.FAILED,
        DeliveryState.UNKNOWN,
        DeliveryState.EXPIRED,
        DeliveryState.HELD_TOO_LONG,
    }
)
NEXT: Final[Mapping[DeliveryState, frozenset[DeliveryState]]] = {
    DeliveryState.QUEUED: frozenset(
        {
            DeliveryState.SENDING,
            DeliveryState.CANCELLED,
            DeliveryState.EXPIRED,
            DeliveryState.HELD_TOO_LONG,
            DeliveryState.FAILED,
        }
    ),
    DeliveryState.SENDING: frozenset(
        {DeliveryState.QUEUED, DeliveryState.HANDED_OFF, DeliveryState.FAILED, DeliveryState.UNKNOWN}
    ),
    DeliveryState.HANDED_OFF: frozenset({DeliveryState.DELIVERED, DeliveryState.FAILED}),
}
RETRIES: Final = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 1800, 3600, 7200))


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One message to one contact by one channel, from when it is asked for until its end is recorded.

    key: of its row, and the idempotency key of all its attempts; empty, like `channel`, until it has been addressed.
    asked_after: how many answers its question had then.
    request_ref: empty where no other service asked for it. again_at: set where the channel was found away, or
    the other side said when it wants the letter again.
    """

    kind: Kind
    case_ref: str
    step: str
    contact: Contact
    expires_at: datetime
    accepted_at: datetime
    request_ref: str = ""
    recipient_ref: str = ""
    question_ref: str = ""
    urgent: bool = False
    not_before: datetime | None = None
    hold_deadline: datetime | None = None
    key: str = ""
    channel: str = ""
    attempts: int = 0
    doubts: int = 0
    asked_after: int = 0
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """A delivery after an attempt: its state, how often it was tried and left in doubt, and when it is due again."""

    state: DeliveryState
    attempts: int
    doubts: int
    due_at: datetime


def after_attempt(result: Result, attempts: int, doubts: int, repeats_in_doubt: int, now: datetime) -> Progress:
    """What follows an attempt.

    A temporary refusal is tried again, later each time, until the hold's end or the message's; an attempt whose outcome
    nobody knows is repeated under the same key, as often as `repeats_in_doubt` of its channel says; one that says
    something of the channel alone does not count.
    """
    tried = attempts + 1
    if result is Result.TAKEN:
        return Progress(DeliveryState.HANDED_OFF, tried, doubts, now)
    if result in (Result.REFUSED, Result.BOUNCED):
        return Progress(DeliveryState.FAILED, tried, doubts, now)
    if result in (Result.NOT_TRIED, Result.ILL):
        return Progress(DeliveryState.QUEUED, attempts, doubts, now + RETRIES[0])
    if result is Result.UNSURE and doubts >= repeats_in_doubt:
        return Progress(DeliveryState.UNKNOWN, tried, doubts + 1, now)
    pause = RETRIES[min(attempts, len(RETRIES) - 1)]
    return Progress(DeliveryState.QUEUED, tried, doubts + (result is Result.UNSURE), now + pause)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queued delivery whose time to be looked at has come.

    `opens_at` is the end of the quiet hours it is in, else now.
    """

    answered: bool
    gone: bool
    rehearsal: bool
    due_at: datetime
    opens_at: datetime
    hold_deadline: datetime | None
    expires_at: datetime


def look_at(waiting: Waiting, now: datetime) -> DeliveryState:
    """What becomes of it now; queued again where it must wait for its time or for the morning."""
    if waiting.answered or waiting.gone:
        return DeliveryState.CANCELLED
    if waiting.rehearsal:
        return DeliveryState.REHEARSED
    if waiting.expires_at <= now:
        return DeliveryState.EXPIRED
    leaves = max(waiting.due_at, waiting.opens_at)
    if leaves <= now and (waiting.hold_deadline is None or now <= waiting.hold_deadline):
        return DeliveryState.SENDING
    held = waiting.hold_deadline is not None and now >= waiting.hold_deadline
    return DeliveryState.HELD_TOO_LONG if held else DeliveryState.QUEUED


def when_in_doubt(state: DeliveryState, *, answered: bool) -> DeliveryState:
    """What a delivery in doubt becomes where a new one would be given up: an answer shows that it arrived."""
    if state is DeliveryState.CANCELLED and answered:
        return DeliveryState.HANDED_OFF
    given_up = (DeliveryState.CANCELLED, DeliveryState.EXPIRED, DeliveryState.HELD_TOO_LONG)
    return DeliveryState.UNKNOWN if state in given_up else state


def overtaken(answers: int | None, asked_after: int) -> bool:
    """Whether an answer, of whatever kind, came after a message was asked for: then there is nothing left to say.

    By the number of answers: the clocks of two machines, or one that was set back, would call a wanted message off.
    """
    return answers is not None and answers > asked_after


def nothing_to_say(kind: str, answers: int | None, asked_after: int, *, linked: bool) -> bool:
    """Whether a message was cancelled, which takes its link away, or an answer has come since it was asked for.

    A call is over as soon as one of the professionals has acknowledged: `linked` says whether nobody has.
    """
    if kind == "call":
        return not linked
    return kind == "message" and (not linked or overtaken(answers, asked_after))


def wake_at(due: datetime, hold_deadline: datetime | None, expires_at: datetime) -> datetime:
    """When a queued delivery must be looked at next: to leave, or to be given up."""
    return min(due, hold_deadline or due, expires_at)

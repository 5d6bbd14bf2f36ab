"""Putting messages on their way: one row a hand-off, in bulk, and straight to the channel where the time has come."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import ColumnElement, Connection, select

from leeward.contracts import DeliveryOutcome
from leeward.contracts.events import DeliveryState as PublicState
from leeward.settings import Settings
from leeward.store import Insert, Unit
from leeward.store.lookup import in_list
from services.notify.channels import ChannelEntry, Contact, Kind, Letter
from services.notify.channels.registry import Entries, first_reaching
from services.notify.channels.wording import locale_for
from services.notify.delivery.schedule import Request, due_at
from services.notify.delivery.state import OUTCOMES, DeliveryState
from services.notify.links import Seals
from services.notify.models import DELIVERY, RECIPIENT

COLUMNS: Final = tuple(column.name for column in DELIVERY.columns)
INSERT: Final = Insert(DELIVERY, COLUMNS, conflict="nothing", returning=("key",))
_CONTACT: Final = (
    RECIPIENT.c.recipient_ref,
    RECIPIENT.c.email,
    RECIPIENT.c.mobile,
    RECIPIENT.c.languages,
    RECIPIENT.c.timezone,
    RECIPIENT.c.status,
)
_CONTACTS: Final = select(*_CONTACT).where(in_list(RECIPIENT.c.recipient_ref, "refs"))
GONE: Final = frozenset({"left", "deceased"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One message to be handed off. `request_ref` is empty where nobody else asked for it."""

    kind: Kind
    request_ref: str = ""
    case_ref: str
    step: str
    recipient_ref: str = ""
    question_ref: str = ""
    contact: Contact
    urgent: bool = False
    not_before: datetime | None = None
    hold_deadline: datetime | None = None
    expires_at: datetime
    accepted_at: datetime


Values = tuple[Any, ...]


@dataclass(slots=True)
class Job:
    """A delivery on its way through a channel; `away_until` is set where the channel was found away."""

    key: str
    channel: str
    kind: str
    request_ref: str
    case_ref: str
    recipient_ref: str
    question_ref: str
    accepted_at: datetime
    attempts: int
    doubts: int
    letter: Letter[Any]
    away_until: datetime | None = field(default=None)


class Outgoing:
    """Writes deliveries. `room(channel)` says how many more the channel takes at once, `put` gives it its jobs."""

    def __init__(self, settings: Settings, channels: Entries, seals: Seals, run: str) -> None:
        self.settings = settings
        self.channels: Mapping[str, ChannelEntry[Any]] = {entry.name: entry for entry in channels}
        self.seals = seals
        self.run = run
        self.room: Callable[[str], int] = lambda _channel: 0
        self.put: Callable[[Sequence[Job]], None] = lambda _jobs: None
        self.wake: Callable[[], None] = lambda: None
        self.rehearsal = settings.outreach.mode == "rehearsal"

    def contacts(self, conn: Connection, refs: Iterable[str]) -> dict[str, Contact]:
        """Those of the recipients who are still here."""
        found = conn.execute(_CONTACTS, {"refs": list(set(refs))})
        return {row.recipient_ref: self.contact(row) for row in found if row.status not in GONE}

    def contact(self, row: Any) -> Contact:
        return Contact(row.email, row.mobile, locale_for(row.languages, self.settings.locales), row.timezone)

    def channel(self, contact: Contact) -> str | None:
        """The first channel that reaches them, None where no channel does."""
        entry = first_reaching(self.channels.values(), contact)
        return entry.name if entry is not None else None

    def key(self, wanted: Wanted, channel: str) -> str:
        return self.seals.key(
            wanted.kind, wanted.case_ref, wanted.step, wanted.request_ref, wanted.recipient_ref, channel
        )

    def token(self, kind: str, key: str) -> str:
        return self.seals.digits(key) if kind == "code" else self.seals.token(key)

    def letter(self, kind: Kind, key: str, channel: str, contact: Contact) -> Letter[Any]:
        return Letter(key, kind, self.token(kind, key), self.channels[channel].address(contact), contact.locale)

    def enqueue(self, unit: Unit, wanted: Sequence[tuple[Wanted, str]], keys: Sequence[str] | None = None) -> set[str]:
        """Write one row for each (message, channel), under the `keys` that `key` gives; returns those that are new.

        What is due goes to its channel after the commit, as long as there is room; the rest waits for the pump.
        """
        rows, jobs = self._rows(unit, wanted, keys or [self.key(*pair) for pair in wanted])
        new = {row.key for row in INSERT.run(unit.conn, rows)}
        fresh = [job for job in jobs if job.key in new]
        if fresh:
            unit.after_commit(lambda: self.put(fresh))
        if len(fresh) < len(new):
            unit.after_commit(self.wake)
        return new

    def _rows(
        self, unit: Unit, wanted: Sequence[tuple[Wanted, str]], keys: Sequence[str]
    ) -> tuple[list[Values], list[Job]]:
        rows: list[Values] = []
        jobs: list[Job] = []
        room = {channel: self.room(channel) for _, channel in wanted}
        for (message, channel), key in zip(wanted, keys, strict=True):
            due = self._due(message, key, unit.now)
            state = self._state(message, due, unit.now, room[channel])
            rows.append(self._row(message, channel, key, (state, due, unit.now)))
            if state is DeliveryState.SENDING:
                room[channel] -= 1
                jobs.append(self._job(message, channel, key))
        return rows, jobs

    def _due(self, message: Wanted, key: str, now: datetime) -> datetime:
        policy = self.settings.outreach
        if message.kind != "message" or message.urgent:
            return now
        request = Request(
            timezone=message.contact.timezone,
            urgent=message.urgent,
            not_before=message.not_before,
            luck=self.seals.luck(key) if policy.jitter else 0.0,
        )
        return due_at(request, policy.quiet_hours, policy.jitter, now)

    def _state(self, message: Wanted, due: datetime, now: datetime, room: int) -> DeliveryState:
        if self.rehearsal:
            return DeliveryState.REHEARSED
        ready = due <= now < message.expires_at and room > 0
        return DeliveryState.SENDING if ready else DeliveryState.QUEUED

    def _row(self, message: Wanted, channel: str, key: str, times: tuple[DeliveryState, datetime, datetime]) -> Values:
        state, due, now = times
        hold = None if message.urgent else message.hold_deadline
        values: Mapping[str, Any] = {
            "key": key,
            "kind": message.kind,
            "request_ref": message.request_ref,
            "case_ref": message.case_ref,
            "step": message.step,
            "recipient_ref": message.recipient_ref,
            "question_ref": message.question_ref,
            "channel": channel,
            "urgent": message.urgent or message.kind != "message",
            "state": str(state),
            "attempts": 0,
            "doubts": 0,
            "due_at": due,
            "hold_deadline": hold,
            "expires_at": message.expires_at,
            "wake_at": wake_at(due, hold, message.expires_at),
            "claimed_by": self.run,
            "accepted_at": message.accepted_at,
            "changed_at": now,
        }
        return tuple(values[name] for name in COLUMNS)

    def _job(self, message: Wanted, channel: str, key: str) -> Job:
        letter = self.letter(message.kind, key, channel, message.contact)
        return Job(
            key,
            channel,
            message.kind,
            message.request_ref,
            message.case_ref,
            message.recipient_ref,
            message.question_ref,
            message.accepted_at,
            0,
            0,
            letter,
        )


def tell(unit: Unit, request_ref: str, case_ref: str, state: DeliveryState, accepted_at: datetime) -> None:
    """Tell matching how a delivery that it asked for has ended, if it has."""
    if request_ref and state in OUTCOMES:
        outcome = DeliveryOutcome(request_ref=request_ref, state=cast(PublicState, str(state)))
        unit.emit(outcome, accepted_at, key=case_ref)


def call_off(unit: Unit, queued: ColumnElement[bool], *, in_doubt: DeliveryState) -> None:
    """Let nothing of this leave any more.

    What an earlier attempt has left in doubt may have arrived: it ends as `in_doubt`, and that is told.
    """
    waiting = queued & (DELIVERY.c.state == str(DeliveryState.QUEUED))
    doubtful = waiting & (DELIVERY.c.doubts > 0)
    for row in unit.conn.execute(select(DELIVERY).where(doubtful)).all():
        tell(unit, row.request_ref, row.case_ref, in_doubt, row.accepted_at)
    for which, state in ((doubtful, in_doubt), (waiting, DeliveryState.CANCELLED)):
        unit.conn.execute(DELIVERY.update().where(which).values(state=str(state), changed_at=unit.now))


def wake_at(due: datetime, hold_deadline: datetime | None, expires_at: datetime) -> datetime:
    """When a queued delivery must be looked at next: to leave, or to be given up."""
    return min(due, hold_deadline or due, expires_at)

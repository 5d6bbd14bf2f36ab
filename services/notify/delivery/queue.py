"""The rows of hand-offs: which are due, which are this run's, and what is due is claimed for a channel."""

from datetime import datetime
from typing import Any, Final, cast

from sqlalchemy import bindparam, exists, func, select

from leeward.store import Unit, Update
from leeward.store.lookup import in_list
from services.notify.channels import Contact, Kind
from services.notify.delivery.deliveries import GONE, Job, Outgoing, tell, wake_at
from services.notify.delivery.schedule import after_quiet
from services.notify.delivery.state import DeliveryState, Waiting, look_at
from services.notify.models import DELIVERY, LINK, QUESTION, RECIPIENT
from services.notify.questions.question import overtaken

PROGRESS: Final = Update(
    DELIVERY, ("key",), ("state", "attempts", "doubts", "due_at", "wake_at", "claimed_by", "changed_at")
)
# whether the link that the message leads to is still there: whoever cancels or erases takes it away
_LINKED: Final = exists().where(LINK.c.request_ref == DELIVERY.c.request_ref)
_JOINED: Final = DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref).outerjoin(
    RECIPIENT, RECIPIENT.c.recipient_ref == DELIVERY.c.recipient_ref
)
_DUE: Final = (
    select(
        DELIVERY,
        QUESTION.c.state.label("question_state"),
        QUESTION.c.answered_at,
        _LINKED.label("linked"),
        RECIPIENT.c.email,
        RECIPIENT.c.mobile,
        RECIPIENT.c.languages,
        RECIPIENT.c.timezone,
        RECIPIENT.c.status,
    )
    .select_from(_JOINED)
    .where(
        DELIVERY.c.state == str(DeliveryState.QUEUED),
        DELIVERY.c.wake_at <= bindparam("now"),
        DELIVERY.c.channel == bindparam("channel"),
    )
    .order_by(DELIVERY.c.wake_at)
    .limit(bindparam("room"))
    .with_for_update(of=DELIVERY, skip_locked=True)
)
NEXT: Final = select(func.min(DELIVERY.c.wake_at)).where(
    DELIVERY.c.state == str(DeliveryState.QUEUED), in_list(DELIVERY.c.channel, "channels")
)
# rows that a run has in hand; one that another run has taken up meanwhile is no longer its own
MINE: Final = (
    select(DELIVERY.c.key)
    .where(in_list(DELIVERY.c.key))
    .where(DELIVERY.c.state == str(DeliveryState.SENDING), DELIVERY.c.claimed_by == bindparam("run"))
    .with_for_update()
)
# what decides, just before an attempt, whether there is still something to say
STANDING: Final = (
    select(
        DELIVERY.c.kind,
        DELIVERY.c.state,
        DELIVERY.c.claimed_by,
        DELIVERY.c.accepted_at,
        QUESTION.c.answered_at,
        _LINKED.label("linked"),
    )
    .select_from(DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref))
    .where(DELIVERY.c.key == bindparam("wanted_key"))
)


def nothing_to_say(row: Any) -> bool:
    """Whether a message was cancelled, or an answer has come since it was asked for."""
    return row.kind == "message" and (not row.linked or overtaken(row.answered_at, row.accepted_at))


class Claims:
    """Takes what is due for one run of notify."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def take(self, unit: Unit, channel: str, room: int) -> tuple[int, list[Job]]:
        """Claim what is due for a channel, at most `room`; gives how many were looked at, and the jobs among them."""
        rows = unit.conn.execute(_DUE, {"now": unit.now, "channel": channel, "room": room}).all()
        jobs: list[Job] = []
        changes: list[tuple[Any, ...]] = []
        for row in rows:
            contact = self._contact(row)
            state, due = self._look(row, contact, unit.now)
            if row.doubts:
                state = in_doubt(state, answered=row.answered_at is not None)
            wake = wake_at(due, row.hold_deadline, row.expires_at)
            changes.append((row.key, str(state), row.attempts, row.doubts, due, wake, self._outgoing.run, unit.now))
            tell(unit, row.request_ref, row.case_ref, state, row.accepted_at)
            if state is DeliveryState.SENDING and contact is not None:
                jobs.append(self._job(row, contact))
        PROGRESS.run(unit.conn, changes)
        return len(rows), jobs

    def _look(self, row: Any, contact: Contact | None, now: datetime) -> tuple[DeliveryState, datetime]:
        quiet = None if row.urgent else self._outgoing.settings.outreach.quiet_hours
        opens = after_quiet(now, quiet, contact.timezone if contact else "UTC")
        waiting = Waiting(
            answered=nothing_to_say(row) or (row.kind == "message" and row.question_state is None),
            gone=contact is None,
            rehearsal=self._outgoing.rehearsal,
            due_at=row.due_at,
            opens_at=opens,
            hold_deadline=row.hold_deadline,
            expires_at=row.expires_at,
        )
        return look_at(waiting, now), max(row.due_at, opens)

    def _contact(self, row: Any) -> Contact | None:
        if row.kind == "call":
            return on_call_contact(self._outgoing, row.step)
        if row.status is None or row.status in GONE:
            return None
        return self._outgoing.contact(row)

    def _job(self, row: Any, contact: Contact) -> Job:
        letter = self._outgoing.letter(cast(Kind, row.kind), row.key, row.channel, contact)
        return Job(
            row.key,
            row.channel,
            row.kind,
            row.request_ref,
            row.case_ref,
            row.recipient_ref,
            row.question_ref,
            row.accepted_at,
            row.attempts,
            row.doubts,
            letter,
        )


def in_doubt(state: DeliveryState, *, answered: bool) -> DeliveryState:
    """What an attempt in doubt becomes where a fresh one would be given up: an answer shows that it arrived."""
    if state is DeliveryState.CANCELLED and answered:
        return DeliveryState.HANDED_OFF
    given_up = (DeliveryState.CANCELLED, DeliveryState.EXPIRED, DeliveryState.HELD_TOO_LONG)
    return DeliveryState.UNKNOWN if state in given_up else state


def on_call_contact(outgoing: Outgoing, step: str) -> Contact | None:
    """The professional that a step such as `call-3-0` is for: the round, then the place in the policy file."""
    number = int(step.rpartition("-")[2])
    people = outgoing.settings.on_call
    if number >= len(people):
        return None
    return Contact(people[number].email, people[number].phone, outgoing.settings.locales[0], "UTC")

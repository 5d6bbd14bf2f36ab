"""The queue of one channel: what is due is claimed for this run, and what must not leave any more is ended."""

from datetime import datetime
from typing import Any

from leeward.store import Unit
from services.notify.channels import Contact
from services.notify.delivery import repository
from services.notify.delivery.deliveries import ANY_ZONE, Outgoing, publish_outcome
from services.notify.delivery.repository import DeliveryChange
from services.notify.delivery.schedule import when_open
from services.notify.delivery.state import (
    Delivery,
    DeliveryState,
    Waiting,
    look_at,
    nothing_to_say,
    overtaken,
    wake_at,
    when_in_doubt,
)
from services.notify.models import LEFT


class Claims:
    """Claims what is due for one run of notify."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def claim_due(self, unit: Unit, channel: str, room: int) -> tuple[int, list[Delivery]]:
        """Claim what is due for a channel, at most `room`; returns how many were looked at, and those to send now."""
        rows = repository.lock_due(unit.conn, channel, room, unit.now)
        claimed: list[Delivery] = []
        changes: list[DeliveryChange] = []
        for row in rows:
            # none for somebody who has left, nor for a professional whom the policy does not name any more
            contact: Contact | None = None
            if row.kind == "call":
                contact = self._outgoing.on_call_contact(row.step)
            elif row.status is not None and row.status not in LEFT:
                contact = self._outgoing.contact(row)
            state, due = self._look_at(row, contact, unit.now)
            wake, run = wake_at(due, row.hold_deadline, row.expires_at), self._outgoing.run
            changes.append(DeliveryChange(row.key, str(state), row.attempts, row.doubts, due, wake, run, unit.now))
            publish_outcome(unit, row.request_ref, row.case_ref, state, row.accepted_at)
            if state is DeliveryState.SENDING and contact is not None:
                claimed.append(repository.delivery_of(row, contact))
        repository.record_changes(unit.conn, changes)
        return len(rows), claimed

    def _look_at(self, row: Any, contact: Contact | None, now: datetime) -> tuple[DeliveryState, datetime]:
        """What becomes of a queued row, and when it is due."""
        quiet = None if row.urgent else self._outgoing.settings.outreach.quiet_hours
        opens = when_open(now, quiet, contact.timezone if contact else ANY_ZONE, self._outgoing.ahead())
        over = nothing_to_say(row.kind, row.answers, row.asked_after, linked=row.linked)
        waiting = Waiting(
            answered=over or (row.kind == "message" and row.question_state is None),
            gone=contact is None,
            rehearsal=self._outgoing.rehearsal,
            due_at=row.due_at,
            opens_at=opens,
            hold_deadline=row.hold_deadline,
            expires_at=row.expires_at,
        )
        state = look_at(waiting, now)
        if row.doubts:
            state = when_in_doubt(state, answered=overtaken(row.answers, row.asked_after))
        return state, max(row.due_at, opens)

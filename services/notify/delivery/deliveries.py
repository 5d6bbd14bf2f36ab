"""Putting messages on their way: one row a hand-off, in bulk, and straight to the channel where the time has come."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Connection

from leeward.contracts import DeliveryOutcome
from leeward.contracts.events import DeliveryState as PublicState
from leeward.settings import Settings
from leeward.store import Unit
from services.notify.channels import ChannelEntry, Contact, Letter
from services.notify.channels.registry import Entries, first_reaching
from services.notify.channels.wording import locale_for
from services.notify.delivery import repository
from services.notify.delivery.schedule import Departure, due_at
from services.notify.delivery.state import OUTCOMES, Delivery, DeliveryState
from services.notify.links import Seals
from services.notify.models import LEFT

ANY_ZONE: Final = "UTC"


class Outgoing:
    """Writes deliveries. `room(channel)` says how many more the channel takes at once, `put` gives them to it.

    `ahead` says by how much a doubted clock is later than the time that goes on.
    """

    def __init__(self, settings: Settings, channels: Entries, seals: Seals, run: str) -> None:
        self.settings = settings
        self.channels: Mapping[str, ChannelEntry[Any]] = {entry.name: entry for entry in channels}
        self.seals = seals
        self.run = run
        self.room: Callable[[str], int] = lambda _channel: 0
        self.put: Callable[[Sequence[Delivery]], None] = lambda _deliveries: None
        self.wake: Callable[[], None] = lambda: None
        self.ahead: Callable[[], timedelta] = timedelta
        self.rehearsal = settings.outreach.mode == "rehearsal"

    def contacts(self, conn: Connection, refs: Iterable[str]) -> dict[str, Contact]:
        """Those of the recipients who are still here."""
        found = repository.find_contacts(conn, refs)
        return {row.recipient_ref: self.contact(row) for row in found if row.status not in LEFT}

    def contact(self, row: Any) -> Contact:
        return Contact(row.email, row.mobile, locale_for(row.languages, self.settings.locales), row.timezone)

    def on_call_contact(self, step: str) -> Contact | None:
        """The professional that a step such as `call-3-0` is for: the round, then the place in the policy file."""
        place = int(step.rpartition("-")[2])
        if place >= len(self.settings.on_call):
            return None
        professional = self.settings.on_call[place]
        return Contact(professional.email, professional.phone, self.settings.locales[0], ANY_ZONE)

    def reaches(self, contact: Contact) -> bool:
        return first_reaching(self.channels.values(), contact) is not None

    def address(self, delivery: Delivery) -> Delivery | None:
        """Give a delivery the first channel that reaches its contact, and its key; None where no channel does."""
        entry = first_reaching(self.channels.values(), delivery.contact)
        if entry is None:
            return None
        delivery.channel = entry.name
        # of nothing that would be drawn again after a restore: the same step has the same Message-ID and link then
        of_step = (delivery.kind, delivery.case_ref, delivery.step, delivery.recipient_ref)
        delivery.key = self.seals.key(*of_step, entry.name)
        return delivery

    def token(self, delivery: Delivery) -> str:
        """What opens the question behind it: a link's token, or the digits of a code."""
        return self.seals.digits(delivery.key) if delivery.kind == "code" else self.seals.token(delivery.key)

    def letter(self, delivery: Delivery) -> Letter[Any]:
        address = self.channels[delivery.channel].address(delivery.contact)
        return Letter(delivery.key, delivery.kind, self.token(delivery), address, delivery.contact.locale)

    def enqueue(self, unit: Unit, deliveries: Sequence[Delivery]) -> set[str]:
        """Write one row for each delivery that has been addressed; returns the keys of those that are new.

        What is due goes to its channel after the commit, as long as there is room; the rest waits for the pump.
        """
        policy = self.settings.outreach
        rows: list[repository.Values] = []
        leaving: list[Delivery] = []
        room = {channel: self.room(channel) for channel in {delivery.channel for delivery in deliveries}}
        for delivery in deliveries:
            if delivery.urgent:
                delivery.hold_deadline = None
            departure = Departure(
                timezone=delivery.contact.timezone,
                urgent=delivery.urgent or delivery.kind != "message",
                not_before=delivery.not_before,
                luck=self.seals.luck(delivery.key) if policy.jitter else 0.0,
            )
            due = due_at(departure, policy.quiet_hours, policy.jitter, unit.now, self.ahead())
            state = DeliveryState.QUEUED
            if self.rehearsal:
                state = DeliveryState.REHEARSED
            elif due <= unit.now < delivery.expires_at and room[delivery.channel] > 0:
                state = DeliveryState.SENDING
                room[delivery.channel] -= 1
                leaving.append(delivery)
            rows.append(repository.new_row(delivery, state, due, self.run, unit.now))
        new = repository.insert_new(unit.conn, rows)
        begun = [delivery for delivery in leaving if delivery.key in new]
        if begun:
            unit.after_commit(lambda: self.put(begun))
        if len(begun) < len(new):
            unit.after_commit(self.wake)
        return new


def publish_outcome(unit: Unit, request_ref: str, case_ref: str, state: str, accepted_at: datetime) -> None:
    """Publish how a delivery that another service asked for has ended, if it has.

    What was called off has expired before its time: a release that does not know of it hears of an end all the same.
    """
    if request_ref and state == DeliveryState.CANCELLED:
        outcome = DeliveryOutcome(request_ref=request_ref, state="expired", cause="cancelled")
        unit.emit(outcome, accepted_at, key=case_ref)
    elif request_ref and state in OUTCOMES:
        outcome = DeliveryOutcome(request_ref=request_ref, state=cast(PublicState, str(state)))
        unit.emit(outcome, accepted_at, key=case_ref)


def call_off(unit: Unit, which: repository.Which, refs: Sequence[str], *, in_doubt: DeliveryState) -> None:
    """Let nothing of these leave any more.

    What an earlier attempt has left in doubt may have arrived: it ends as `in_doubt`. Each end is published, but for
    those of cases that are erased: whoever asked knows nothing of them any more.
    """
    for row in repository.end_queued(unit.conn, which, refs, in_doubt, unit.now):
        state = in_doubt if row.doubts else DeliveryState.CANCELLED
        if row.doubts or which != "cases":
            publish_outcome(unit, row.request_ref, row.case_ref, state, row.accepted_at)

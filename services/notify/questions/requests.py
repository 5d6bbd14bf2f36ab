"""What other services ask of notify: messages, their cancellation, and the erasure of a case."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast
from uuid import uuid4

from leeward.contracts import CaseErased, DeliveryOutcome, Event, MessageCancelled, MessageRequested
from leeward.service import Handler
from leeward.store import Unit
from services.notify.channels import Contact
from services.notify.delivery.deliveries import Outgoing, call_off, publish_outcome
from services.notify.delivery.repository import forget_recipients_of, state_of_step
from services.notify.delivery.state import Delivery, DeliveryState
from services.notify.links import Seals, hashed
from services.notify.questions import repository
from services.notify.questions.question import STARTS_AGAIN, is_timely, on_last_page
from services.notify.repository import delete_acknowledged_calls, insert_links


class _Message(NamedTuple):
    event: Event
    request: MessageRequested
    delivery: Delivery


class Handlers:
    """notify's side of the bus."""

    def __init__(self, outgoing: Outgoing, seals: Seals) -> None:
        self._outgoing = outgoing
        self._seals = seals

    def table(self) -> dict[type[Any], Handler]:
        return {
            MessageRequested: self.send_messages,
            MessageCancelled: self.cancel_messages,
            CaseErased: self.erase_cases,
        }

    def send_messages(self, unit: Unit, events: Sequence[Event]) -> None:
        """Store question, link and delivery of each, and send what is due."""
        messages = self._addressed(unit, events)
        if not self._outgoing.rehearsal:
            known = repository.find_known(unit.conn, [message.delivery.question_ref for message in messages])
            messages = [each for each in messages if self._is_wanted(unit, each, known)]
            self._store_questions(unit, messages, known)
        deliveries = [message.delivery for message in messages]
        new = self._outgoing.enqueue(unit, deliveries)
        if not self._outgoing.rehearsal:
            tokens = [hashed(self._outgoing.token(delivery)) for delivery in deliveries]
            links = [(t, d.question_ref, d.request_ref, False) for t, d in zip(tokens, deliveries, strict=True)]
            insert_links(unit.conn, links)
        for delivery in deliveries:
            if delivery.key not in new:
                # a step that was handed off before is not sent again; whoever asks again hears how it ended
                state = state_of_step(unit.conn, delivery) or ""
                publish_outcome(unit, delivery.request_ref, delivery.case_ref, state, delivery.accepted_at)

    def _is_wanted(self, unit: Unit, message: _Message, known: Mapping[str, Any]) -> bool:
        """Note after how many answers a message was asked for; one that they have overtaken ends here, and is told."""
        delivery, stored = message.delivery, known.get(message.delivery.question_ref)
        if stored is None:
            return True
        delivery.asked_after = stored.answers
        if is_timely(message.request.step, stored.state, stored.answered_at):
            return True
        publish_outcome(
            unit, delivery.request_ref, delivery.case_ref, DeliveryState.CANCELLED, message.event.accepted_at
        )
        return False

    def _addressed(self, unit: Unit, events: Sequence[Event]) -> list[_Message]:
        """Each request with its delivery; where no channel reaches the recipient, that is published at once."""
        requests = [cast(MessageRequested, event.data) for event in events]
        contacts = self._outgoing.contacts(unit.conn, (request.recipient_ref for request in requests))
        messages: list[_Message] = []
        for event, request in zip(events, requests, strict=True):
            contact = contacts.get(request.recipient_ref)
            delivery = self._outgoing.address(self._delivery(event, request, contact)) if contact else None
            if delivery is None:
                failed = DeliveryOutcome(request_ref=request.request_ref, state="failed")
                unit.emit(failed, event.accepted_at, key=event.key)
            else:
                messages.append(_Message(event, request, delivery))
        return messages

    def _delivery(self, event: Event, request: MessageRequested, contact: Contact) -> Delivery:
        return Delivery(
            kind="message",
            request_ref=request.request_ref,
            case_ref=request.case_ref,
            step=request.step,
            recipient_ref=request.recipient_ref,
            # the same for every message about the same question, so that no look-up is needed to make it
            question_ref=self._seals.key("question", request.case_ref, request.recipient_ref, request.template),
            contact=contact,
            urgent=request.urgency == "urgent",
            not_before=request.not_before,
            hold_deadline=request.hold_deadline,
            expires_at=request.expires_at,
            accepted_at=event.accepted_at,
        )

    def _store_questions(self, unit: Unit, messages: Sequence[_Message], known: Mapping[str, Any]) -> None:
        """A reminder leads to the question as it stands; after an end, its question is open again."""
        again: list[tuple[str, str, datetime]] = []
        longer: list[tuple[str, str, datetime]] = []
        new: list[tuple[Any, ...]] = []
        for ref, (event, asked, _) in {message.delivery.question_ref: message for message in messages}.items():
            # what a page shows of a request: to a supporter when somebody would like to talk, to a person what may help
            options = asked.options.get("when") or asked.options.get("suggest", "")
            stored = known.get(ref)
            if stored is None:
                who = (ref, asked.case_ref, asked.recipient_ref, asked.template, options, "open")
                new.append((*who, asked.expires_at, None, "", "", "", "", False, "", event.accepted_at))
            elif stored.state in STARTS_AGAIN:
                again.append((ref, options, asked.expires_at))
            else:
                longer.append((ref, options, max(stored.expires_at, asked.expires_at)))
        repository.insert_questions(unit.conn, new)
        repository.reopen(unit.conn, again)
        repository.extend(unit.conn, longer)

    def cancel_messages(self, unit: Unit, events: Sequence[Event]) -> None:
        """Nothing more is sent for these requests and their links are dead; a question without a link is deleted.

        An answer that ended its question keeps its last page for a day: whoever has just given it must not read that
        the link has ended, however fast matching is.
        """
        refs = [cast(MessageCancelled, event.data).request_ref for event in events]
        call_off(unit, "requests", refs, in_doubt=DeliveryState.UNKNOWN)
        linked = repository.find_linked(unit.conn, refs)
        last = {row.question_ref for row in linked if row.state in STARTS_AGAIN}
        repository.end_now(unit.conn, list(last), unit.now)
        dead = [row for row in linked if row.question_ref not in last]
        requests, questions = [row.request_ref for row in dead], {row.question_ref for row in dead}
        repository.delete_links_of(unit.conn, requests, list(questions))

    def erase_cases(self, unit: Unit, events: Sequence[Event]) -> None:
        """Forget who these cases were about."""
        erase_cases(unit, [cast(CaseErased, event.data).case_ref for event in events])


def erase_cases(unit: Unit, cases: Sequence[str]) -> None:
    """Forget who cases were about, by reference.

    Whoever has just given the answer that closed one is on its last page: that stays a while, tied to no case.
    """
    found = repository.find_of_cases(unit.conn, cases)
    last = {row.question_ref for row in found if on_last_page(row.template, row.state, row.answered_at, unit.now)}
    repository.untie(unit.conn, [(ref, str(uuid4()), unit.now) for ref in last])
    call_off(unit, "cases", cases, in_doubt=DeliveryState.UNKNOWN)
    forget_recipients_of(unit.conn, cases)
    delete_acknowledged_calls(unit.conn, cases)
    repository.delete_questions(unit.conn, [row.question_ref for row in found if row.question_ref not in last])

"""Calling the professional on duty: every five minutes until one of them says that they are there (DESIGN §5.7)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, cast

from sqlalchemy import Row

from leeward.contracts import Answered
from leeward.contracts.events import Answer
from leeward.refs import new_ref
from leeward.store import Timer, Unit
from services.notify import repository
from services.notify.channels import Contact
from services.notify.delivery.deliveries import Outgoing, call_off
from services.notify.delivery.state import Delivery, DeliveryState
from services.notify.links import hashed

TIMER: Final = "on_call"
EVERY: Final = timedelta(minutes=5)
ROUNDS: Final = 6
LIFE: Final = timedelta(hours=24)


class OnCallRounds:
    """Starts, repeats and ends the calls for the professionals on duty."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    @property
    def possible(self) -> bool:
        """Whether anybody can be called at all."""
        return bool(self._contacts(0))

    def start_call(self, unit: Unit, question: Row[Any], request_ref: str, answer: str) -> None:
        """Call now, unless a call for this question is under way. With nobody to call, matching hears so at once."""
        if repository.is_being_called(unit.conn, question.question_ref):
            return
        call: dict[str, Any] = {
            "call_ref": new_ref(),
            "question_ref": question.question_ref,
            "request_ref": request_ref,
            "case_ref": question.case_ref,
            "answer": answer,
            "rounds": 0,
            "acknowledged": False,
            "accepted_at": unit.now,
            "expires_at": unit.now + LIFE,
        }
        repository.insert_call(unit.conn, call)
        self._call_next_round(unit, call)

    def fire(self, unit: Unit, timers: Sequence[Timer]) -> None:
        """The next round of each call that nobody has acknowledged."""
        for row in repository.find_unacknowledged(unit.conn, [timer.key for timer in timers]):
            self._call_next_round(unit, dict(row._mapping))

    def _call_next_round(self, unit: Unit, call: dict[str, Any]) -> None:
        number = call["rounds"] + 1
        contacts = self._contacts(number)
        if number > ROUNDS or not contacts:
            # nobody has said that they are there: the coordinator's list comes before anything else
            unacknowledged = Answered(
                request_ref=call["request_ref"],
                case_ref=call["case_ref"],
                answer=cast(Answer, call["answer"]),
                options={"unacknowledged": "yes"},
            )
            unit.emit(unacknowledged)
            # never under way again, so that a new tap starts a new call
            repository.set_rounds(unit.conn, call["call_ref"], 0)
            return
        deliveries = [
            Delivery(
                kind="call",
                case_ref=call["call_ref"],
                step=step,
                contact=contact,
                expires_at=call["expires_at"],
                accepted_at=call["accepted_at"],
            )
            for step, contact in contacts
        ]
        for delivery in deliveries:
            self._outgoing.address(delivery)
        self._outgoing.enqueue(unit, deliveries)
        tokens = [hashed(self._outgoing.token(delivery)) for delivery in deliveries]
        repository.insert_links(unit.conn, [(token, call["call_ref"], call["call_ref"], False) for token in tokens])
        repository.set_rounds(unit.conn, call["call_ref"], number)
        unit.set_timer(TIMER, call["call_ref"], unit.now + EVERY)

    def _contacts(self, number: int) -> list[tuple[str, Contact]]:
        """Step and contact of the professionals whom a channel reaches, for the round of that number."""
        steps = [f"call-{number}-{place}" for place in range(len(self._outgoing.settings.on_call))]
        contacts = [(step, self._outgoing.on_call_contact(step)) for step in steps]
        return [(step, contact) for step, contact in contacts if contact and self._outgoing.reaches(contact)]


def acknowledge(unit: Unit, call_ref: str) -> None:
    """One of them is there: nobody is called any more, also where a call waits to leave."""
    repository.acknowledge_call(unit.conn, call_ref)
    unit.cancel_timer(TIMER, call_ref)
    call_off(unit, "cases", [call_ref], in_doubt=DeliveryState.UNKNOWN)

"""Calling the professional on duty: every five minutes until one of them says that they are there (DESIGN §5.7)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, cast

from sqlalchemy import Row, select

from leeward.contracts import Answered
from leeward.contracts.events import Answer
from leeward.refs import new_ref
from leeward.store import Timer, Unit
from services.notify.channels import Contact
from services.notify.delivery.deliveries import Outgoing, Wanted
from services.notify.delivery.queue import on_call_contact
from services.notify.links import hashed
from services.notify.models import CALL
from services.notify.questions.requests import LINKS

TIMER: Final = "on_call"
EVERY: Final = timedelta(minutes=5)
ROUNDS: Final = 6
LIFE: Final = timedelta(hours=24)


class Calls:
    """Starts, repeats and ends the calls."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    @property
    def possible(self) -> bool:
        """Whether anybody can be called at all."""
        return bool(self._people(0))

    def start(self, unit: Unit, question: Row[Any], request_ref: str, answer: str) -> None:
        """Call now, unless a call for this question is under way. With nobody to call, matching hears so at once."""
        under_way = select(CALL.c.call_ref).where(CALL.c.question_ref == question.question_ref)
        if unit.conn.execute(under_way.where(CALL.c.acknowledged.is_(False), CALL.c.rounds > 0)).first():
            return
        values: dict[str, Any] = {
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
        unit.conn.execute(CALL.insert().values(**values))
        self._next(unit, values)

    def fire(self, unit: Unit, timers: Sequence[Timer]) -> None:
        """The next round of each call that nobody has acknowledged."""
        refs = [timer.key for timer in timers]
        waiting = select(CALL).where(CALL.c.call_ref.in_(refs), CALL.c.acknowledged.is_(False))
        for row in unit.conn.execute(waiting).all():
            self._next(unit, dict(row._mapping))

    def _next(self, unit: Unit, call: dict[str, Any]) -> None:
        number = call["rounds"] + 1
        messages = self._messages(number, call)
        if number > ROUNDS or not messages:
            self._silent(unit, call)
            return
        self._outgoing.enqueue(unit, messages)
        tokens = [self._outgoing.seals.token(self._outgoing.key(*message)) for message in messages]
        LINKS.run(unit.conn, [(hashed(token), call["call_ref"], call["call_ref"], False) for token in tokens])
        unit.conn.execute(CALL.update().where(CALL.c.call_ref == call["call_ref"]).values(rounds=number))
        unit.set_timer(TIMER, call["call_ref"], unit.now + EVERY)

    def _people(self, number: int) -> list[tuple[str, Contact, str]]:
        """(step, contact, channel) of the professionals whom a message reaches."""
        steps = [f"call-{number}-{place}" for place in range(len(self._outgoing.settings.on_call))]
        contacts = [(step, on_call_contact(self._outgoing, step)) for step in steps]
        reached = [(step, who, self._outgoing.channel(who)) for step, who in contacts if who is not None]
        return [(step, who, channel) for step, who, channel in reached if channel is not None]

    def _messages(self, number: int, call: dict[str, Any]) -> list[tuple[Wanted, str]]:
        return [
            (
                Wanted(
                    kind="call",
                    case_ref=call["call_ref"],
                    step=step,
                    contact=contact,
                    expires_at=call["expires_at"],
                    accepted_at=call["accepted_at"],
                ),
                channel,
            )
            for step, contact, channel in self._people(number)
        ]

    def _silent(self, unit: Unit, call: dict[str, Any]) -> None:
        """Nobody has said that they are there: the coordinator's list comes before anything else."""
        told = Answered(
            request_ref=call["request_ref"],
            case_ref=call["case_ref"],
            answer=cast(Answer, call["answer"]),
            options={"unacknowledged": "yes"},
        )
        unit.emit(told)
        # never under way again, so that a new tap starts a new call
        unit.conn.execute(CALL.update().where(CALL.c.call_ref == call["call_ref"]).values(rounds=0))


def acknowledge(unit: Unit, call_ref: str) -> None:
    """One of them is there: nobody is called any more."""
    unit.conn.execute(CALL.update().where(CALL.c.call_ref == call_ref).values(acknowledged=True))
    unit.cancel_timer(TIMER, call_ref)

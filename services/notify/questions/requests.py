"""What other services ask of notify: messages, their cancellation, and forgetting."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import uuid4

from sqlalchemy import bindparam, delete, select

from leeward.contracts import CaseErased, DeliveryOutcome, Event, MessageCancelled, MessageRequested
from leeward.contracts.events import DeliveryState as PublicState
from leeward.service import Handler
from leeward.store import Insert, Unit, Update
from leeward.store.lookup import in_list
from services.notify.channels import Contact
from services.notify.delivery.deliveries import Outgoing, Wanted, call_off
from services.notify.delivery.state import OUTCOMES, DeliveryState
from services.notify.links import Seals, hashed
from services.notify.models import CALL, DELIVERY, LINK, QUESTION

_QUESTION_COLUMNS: Final = (
    "question_ref",
    "case_ref",
    "recipient_ref",
    "template",
    "options",
    "state",
    "expires_at",
    "answered_at",
    "said",
    "wanted",
    "how",
    "again",
    "check_ins",
    "browser",
    "accepted_at",
)
_QUESTIONS: Final = Insert(QUESTION, _QUESTION_COLUMNS, conflict="nothing", keys=("question_ref",))
_RENEW: Final = Update(
    QUESTION, ("question_ref",), ("options", "state", "expires_at", "answered_at", "said", "browser")
)
_EXTEND: Final = Update(QUESTION, ("question_ref",), ("options", "expires_at"))
LINKS: Final = Insert(LINK, ("token_hash", "question_ref", "request_ref", "fresh"), conflict="nothing")
_KNOWN: Final = select(QUESTION.c.question_ref, QUESTION.c.state, QUESTION.c.expires_at, QUESTION.c.answered_at).where(
    in_list(QUESTION.c.question_ref, "refs")
)
_LINKED: Final = (
    select(LINK.c.request_ref, LINK.c.question_ref, QUESTION.c.state)
    .select_from(LINK.join(QUESTION, QUESTION.c.question_ref == LINK.c.question_ref))
    .where(in_list(LINK.c.request_ref, "refs"))
)
_END_SOON: Final = QUESTION.update().where(in_list(QUESTION.c.question_ref, "refs")).values(expires_at=bindparam("now"))
_STILL_LINKED: Final = select(LINK.c.question_ref).where(in_list(LINK.c.question_ref, "refs")).distinct()
_UNLINK: Final = delete(LINK).where(in_list(LINK.c.request_ref, "refs"))
_UNLINK_QUESTION: Final = delete(LINK).where(in_list(LINK.c.question_ref, "refs"))
_FORGET_QUESTION: Final = delete(QUESTION).where(in_list(QUESTION.c.question_ref, "refs"))
_OF_CASES: Final = select(QUESTION.c.question_ref, QUESTION.c.template, QUESTION.c.state, QUESTION.c.answered_at).where(
    in_list(QUESTION.c.case_ref, "refs")
)
_UNTIE: Final = Update(QUESTION, ("question_ref",), ("case_ref", "expires_at"))
# the row stays until the log is cleared, so that nothing is sent twice; whom and what it was for goes
_BLANK: Final = DELIVERY.update().where(in_list(DELIVERY.c.case_ref, "refs")).values(recipient_ref="", question_ref="")
# who has asked for help is called for until somebody is there, whatever becomes of the case; the row names nobody
_FORGET_CALLS: Final = delete(CALL).where(in_list(CALL.c.case_ref, "refs"), CALL.c.acknowledged.is_(True))
STARTS_ANEW: Final = frozenset({"later", "declined", "withdrawn", "passed", "handed_over", "closed"})
# an answer may come while matching still asks: in which states of the question such a message leaves all the same
LEAVES_IN: Final[Mapping[str, frozenset[str]]] = {
    "reminder": frozenset({"open"}),
    "offer_again": frozenset({"open", "later"}),
}
LAST_PAGE: Final = timedelta(hours=1)


class Handlers:
    """notify's side of the bus."""

    def __init__(self, outgoing: Outgoing, seals: Seals) -> None:
        self._outgoing = outgoing
        self._seals = seals

    def table(self) -> dict[type[Any], Handler]:
        return {MessageRequested: self.requested, MessageCancelled: self.cancelled, CaseErased: self.erased}

    def requested(self, unit: Unit, events: Sequence[Event]) -> None:
        """Store question, link and delivery of each, and send what is due."""
        reached = self._reached(unit, events)
        if not self._outgoing.rehearsal:
            known = self._known(unit, reached)
            reached = [one for one in reached if _timely(one[0], known.get(one[1].question_ref))]
            self._store_questions(unit, {wanted.question_ref: event for event, wanted, _ in reached}, known)
        messages = [(wanted, channel) for _, wanted, channel in reached]
        keys = [self._outgoing.key(*pair) for pair in messages]
        new = self._outgoing.enqueue(unit, messages, keys)
        if not self._outgoing.rehearsal:
            self._store_links(unit, messages, keys)
        self._tell_repeated(unit, [pair for pair, key in zip(messages, keys, strict=True) if key not in new])

    def _reached(self, unit: Unit, events: Sequence[Event]) -> list[tuple[Event, Wanted, str]]:
        """Each with its message and channel; whom nothing reaches is told of at once."""
        contacts = self._outgoing.contacts(unit.conn, (_asked(event).recipient_ref for event in events))
        reached: list[tuple[Event, Wanted, str]] = []
        for event in events:
            request = _asked(event)
            contact = contacts.get(request.recipient_ref)
            channel = self._outgoing.channel(contact) if contact else None
            if contact is None or channel is None:
                unit.emit(
                    DeliveryOutcome(request_ref=request.request_ref, state="failed"), event.accepted_at, key=event.key
                )
            else:
                reached.append((event, self._wanted(event, contact), channel))
        return reached

    def _known(self, unit: Unit, reached: Sequence[tuple[Event, Wanted, str]]) -> dict[str, Any]:
        refs = [wanted.question_ref for _, wanted, _ in reached]
        return {row.question_ref: row for row in unit.conn.execute(_KNOWN, {"refs": refs})} if refs else {}

    def _wanted(self, event: Event, contact: Contact) -> Wanted:
        request = _asked(event)
        return Wanted(
            kind="message",
            request_ref=request.request_ref,
            case_ref=request.case_ref,
            step=request.step,
            recipient_ref=request.recipient_ref,
            question_ref=self.question_ref(request),
            contact=contact,
            urgent=request.urgency == "urgent",
            not_before=request.not_before,
            hold_deadline=request.hold_deadline,
            expires_at=request.expires_at,
            accepted_at=event.accepted_at,
        )

    def question_ref(self, request: MessageRequested) -> str:
        """The same for every message about the same question, so that no look-up is needed to make it."""
        return self._seals.key("question", request.case_ref, request.recipient_ref, request.template)

    def _store_questions(self, unit: Unit, asked: Mapping[str, Event], known: Mapping[str, Any]) -> None:
        _QUESTIONS.run(unit.conn, [_question(ref, event) for ref, event in asked.items() if ref not in known])
        self._ask_again(unit, [(row, _asked(asked[ref])) for ref, row in known.items() if ref in asked])

    def _ask_again(self, unit: Unit, repeated: Sequence[tuple[Any, MessageRequested]]) -> None:
        """A reminder leads to the question as it stands; after an end it starts anew for whoever opens the mail."""
        anew = [(row, request) for row, request in repeated if row.state in STARTS_ANEW]
        if anew:
            unit.conn.execute(_UNLINK_QUESTION, {"refs": [row.question_ref for row, _ in anew]})
        _RENEW.run(
            unit.conn,
            [(r.question_ref, _options(asked), "open", asked.expires_at, None, "", "") for r, asked in anew],
        )
        rest = [(row, asked) for row, asked in repeated if row.state not in STARTS_ANEW]
        _EXTEND.run(
            unit.conn,
            [(row.question_ref, _options(asked), max(row.expires_at, asked.expires_at)) for row, asked in rest],
        )

    def _store_links(self, unit: Unit, messages: Sequence[tuple[Wanted, str]], keys: Sequence[str]) -> None:
        tokens = [hashed(self._seals.token(key)) for key in keys]
        rows = [(token, m.question_ref, m.request_ref, False) for token, (m, _) in zip(tokens, messages, strict=True)]
        LINKS.run(unit.conn, rows)

    def _tell_repeated(self, unit: Unit, repeated: Sequence[tuple[Wanted, str]]) -> None:
        """A step that was handed off before is not sent again; whoever asks anew hears how it ended."""
        for message, channel in repeated:
            same = (DELIVERY.c.case_ref == message.case_ref) & (DELIVERY.c.step == message.step)
            to = (DELIVERY.c.recipient_ref == message.recipient_ref) & (DELIVERY.c.channel == channel)
            state = unit.conn.execute(select(DELIVERY.c.state).where(same & to)).scalar()
            if state in OUTCOMES:
                outcome = DeliveryOutcome(request_ref=message.request_ref, state=cast(PublicState, state))
                unit.emit(outcome, message.accepted_at, key=message.case_ref)

    def cancelled(self, unit: Unit, events: Sequence[Event]) -> None:
        """Nothing more is sent for these requests and their links are dead; a question without a link goes.

        An answer that ended its question keeps its last page for a day: who has just given it must not be told that
        the link has ended, however fast matching is.
        """
        refs = [cast(MessageCancelled, event.data).request_ref for event in events]
        call_off(unit, DELIVERY.c.request_ref.in_(refs), in_doubt=DeliveryState.UNKNOWN)
        linked = unit.conn.execute(_LINKED, {"refs": refs}).all()
        last = {row.question_ref for row in linked if row.state in STARTS_ANEW}
        unit.conn.execute(_END_SOON, {"refs": list(last), "now": unit.now})
        dead = [row for row in linked if row.question_ref not in last]
        unit.conn.execute(_UNLINK, {"refs": [row.request_ref for row in dead]})
        questions = {row.question_ref for row in dead}
        kept = set(unit.conn.execute(_STILL_LINKED, {"refs": list(questions)}).scalars())
        unit.conn.execute(_FORGET_QUESTION, {"refs": list(questions - kept)})

    def erased(self, unit: Unit, events: Sequence[Event]) -> None:
        """Forget who a case was about.

        Whoever has just given the answer that closed it is on its last page: that stays a while, tied to no case.
        """
        cases = [cast(CaseErased, event.data).case_ref for event in events]
        refs = {"refs": cases}
        found = unit.conn.execute(_OF_CASES, refs).all()
        last = [row.question_ref for row in found if _on_last_page(row, unit.now)]
        _UNTIE.run(unit.conn, [(ref, str(uuid4()), unit.now) for ref in last])
        questions = [row.question_ref for row in found if row.question_ref not in last]
        call_off(unit, DELIVERY.c.case_ref.in_(cases), in_doubt=DeliveryState.UNKNOWN)
        unit.conn.execute(_BLANK, refs)
        unit.conn.execute(_FORGET_CALLS, refs)
        if questions:
            unit.conn.execute(_UNLINK_QUESTION, {"refs": questions})
            unit.conn.execute(_FORGET_QUESTION, {"refs": questions})


def _asked(event: Event) -> MessageRequested:
    return cast(MessageRequested, event.data)


def _timely(event: Event, question: Any) -> bool:
    """False for a message that an answer has overtaken."""
    name, _, _ = _asked(event).step.partition("-")
    if question is None or name not in LEAVES_IN:
        return True
    # who asked for somebody else, or to talk now, has not ended the question, and needs no reminder of it
    return question.state in LEAVES_IN[name] and (name != "reminder" or question.answered_at is None)


def _on_last_page(question: Any, now: datetime) -> bool:
    """A person's no can be taken back for a day, and their case is not erased before."""
    if question.template == "offer" or question.state not in STARTS_ANEW or question.answered_at is None:
        return False
    return bool(now < question.answered_at + LAST_PAGE)


def _options(request: MessageRequested) -> str:
    """What a page shows of a request: to a supporter when somebody would like to talk, to a person what may help."""
    return request.options.get("when") or request.options.get("suggest", "")


def _question(ref: str, event: Event) -> tuple[Any, ...]:
    request = _asked(event)
    who = (ref, request.case_ref, request.recipient_ref, request.template, _options(request), "open")
    return (*who, request.expires_at, None, "", "", "", "", False, "", event.accepted_at)

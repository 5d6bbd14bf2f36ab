"""A link and its question, as one browser may see it, and what an answer writes down."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import uuid4

from sqlalchemy import Connection, Row, bindparam, func, select

from leeward.contracts import Answered
from leeward.contracts.events import Answer
from leeward.store import Unit
from services.notify.delivery.deliveries import Outgoing, Wanted, call_off
from services.notify.delivery.state import DeliveryState
from services.notify.links import hashed
from services.notify.models import CALL, DELIVERY, LINK, QUESTION
from services.notify.on_call import Calls, acknowledge
from services.notify.questions.question import Decision, Impossible, Question, alive, decide
from services.notify.questions.requests import LINKS

NEW_LINKS_A_DAY: Final = 3
View = Literal["question", "moved", "elsewhere", "ended", "call"]

_LINK: Final = select(LINK).where(LINK.c.token_hash == bindparam("token_hash"))
_QUESTION: Final = select(QUESTION).where(QUESTION.c.question_ref == bindparam("ref"))
_LOCKED: Final = _QUESTION.with_for_update()
_CALL: Final = select(CALL).where(CALL.c.call_ref == bindparam("ref"))


@dataclass(frozen=True, slots=True)
class Found:
    """What a link leads to for one browser.

    view: `question` in full; `moved`: a new link that may bring the question to this browser; `elsewhere`: it was
    answered in another browser; `ended`: nothing any more; `call`: the page of the professional on duty.
    """

    view: View
    link: Row[Any] | None = None
    row: Row[Any] | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """An answer that was written down: of which case, and what it changed."""

    case_ref: str
    decision: Decision


def question_of(row: Row[Any]) -> Question:
    return Question(
        template=row.template,
        state=row.state,
        expires_at=row.expires_at,
        answered_at=row.answered_at,
        said=row.said,
        wanted=row.wanted,
        how=row.how,
        again=row.again,
        check_ins=row.check_ins,
    )


def find(conn: Connection, token: str, browser: str, now: datetime, *, lock: bool = False) -> Found:
    """Look up a token for the browser with this cookie; changes nothing."""
    link = conn.execute(_LINK, {"token_hash": hashed(token)}).first()
    if link is None:
        return Found("ended")
    row = conn.execute(_LOCKED if lock else _QUESTION, {"ref": link.question_ref}).first()
    if row is None:
        return _find_call(conn, link, now)
    if not alive(question_of(row), now):
        return Found("ended", link, row)
    return Found(_view(link, row, browser), link, row)


def _find_call(conn: Connection, link: Row[Any], now: datetime) -> Found:
    call = conn.execute(_CALL, {"ref": link.question_ref}).first()
    return Found("call", link, call) if call is not None and now < call.expires_at else Found("ended", link)


def _view(link: Row[Any], row: Row[Any], browser: str) -> View:
    if not row.browser or (browser and row.browser == hashed(browser)):
        return "question"
    return "moved" if link.fresh else "elsewhere"


class Answers:
    """Takes what a page's form sends."""

    def __init__(self, outgoing: Outgoing, calls: Calls) -> None:
        self._outgoing = outgoing
        self._calls = calls

    def take(self, unit: Unit, token: str, browser: str, form: Mapping[str, str]) -> Taken | None:
        """Apply a form to the question behind a link; None where it changes no question.

        Raises:
            Impossible: when the page does not offer it now. Incomplete: when its fields are not as offered.
        """
        found = find(unit.conn, token, browser, unit.now, lock=True)
        answer = form.get("answer", "")
        if found.view == "call" and found.row is not None and answer == "acknowledge":
            acknowledge(unit, found.row.call_ref)
            return None
        if found.view == "elsewhere" and answer == "new_link":
            self._new_link(unit, found)
            return None
        if found.view == "moved" and answer == "open":
            self._move(unit, found, browser)
            return None
        if found.view != "question" or found.row is None or found.link is None:
            raise Impossible
        return self._answer(unit, found.row, found.link.request_ref, browser, form)

    def _answer(self, unit: Unit, row: Row[Any], request_ref: str, browser: str, form: Mapping[str, str]) -> Taken:
        decision = decide(question_of(row), form["answer"], form, unit.now)
        _store(unit, row.question_ref, decision.question, browser)
        if decision.publish is not None:
            answered = Answered(
                request_ref=request_ref,
                case_ref=row.case_ref,
                answer=cast(Answer, decision.publish),
                options=dict(decision.options),
            )
            unit.emit(answered)
        if decision.calls:
            self._calls.start(unit, row, request_ref, form["answer"])
        if decision.publish is not None:
            # an answer cancels everything queued of its question, but for a new link that somebody asked for
            asked = (DELIVERY.c.question_ref == row.question_ref) & (DELIVERY.c.kind == "message")
            call_off(unit, asked, in_doubt=DeliveryState.HANDED_OFF)
        return Taken(row.case_ref, decision)

    def _move(self, unit: Unit, found: Found, browser: str) -> None:
        """A link asked for anew brings the question to the browser that opens it; the earlier one sees nothing."""
        assert found.row is not None and found.link is not None  # noqa: PT018 both are there in this view
        ref = found.row.question_ref
        unit.conn.execute(QUESTION.update().where(QUESTION.c.question_ref == ref).values(browser=hashed(browser)))
        used = LINK.c.token_hash == found.link.token_hash
        unit.conn.execute(LINK.update().where(used).values(fresh=False))

    def _new_link(self, unit: Unit, found: Found) -> None:
        """Send the question's owner a new link, a few times a day at most; whoever asked sees the same either way."""
        assert found.row is not None and found.link is not None  # noqa: PT018 both are there in this view
        row = found.row
        # written and not only locked: of two taps at once the second must count the first one's link
        mine = QUESTION.c.question_ref == row.question_ref
        unit.conn.execute(QUESTION.update().where(mine).values(browser=QUESTION.c.browser))
        contact = self._outgoing.contacts(unit.conn, [row.recipient_ref]).get(row.recipient_ref)
        channel = self._outgoing.channel(contact) if contact else None
        if contact is None or channel is None or self._asked_lately(unit, row.question_ref) >= NEW_LINKS_A_DAY:
            return
        wanted = Wanted(
            kind="link",
            case_ref=row.case_ref,
            step=f"link-{uuid4()}",
            recipient_ref=row.recipient_ref,
            question_ref=row.question_ref,
            contact=contact,
            expires_at=unit.now + timedelta(days=1),
            accepted_at=unit.now,
        )
        self._outgoing.enqueue(unit, [(wanted, channel)])
        token = self._outgoing.seals.token(self._outgoing.key(wanted, channel))
        LINKS.run(unit.conn, [(hashed(token), row.question_ref, found.link.request_ref, True)])

    def _asked_lately(self, unit: Unit, question_ref: str) -> int:
        sent = select(func.count()).where(DELIVERY.c.question_ref == question_ref, DELIVERY.c.kind == "link")
        return int(unit.conn.execute(sent.where(DELIVERY.c.changed_at > unit.now - timedelta(days=1))).scalar() or 0)


def _store(unit: Unit, ref: str, question: Question, browser: str) -> None:
    values = {
        "state": question.state,
        "answered_at": question.answered_at,
        "said": question.said,
        "wanted": question.wanted,
        "how": question.how,
        "again": question.again,
        "check_ins": question.check_ins,
        "browser": hashed(browser),
    }
    unit.conn.execute(QUESTION.update().where(QUESTION.c.question_ref == ref).values(**values))

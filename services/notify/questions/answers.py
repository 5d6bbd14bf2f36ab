"""A link and its question, as one browser may see it, and what an answer changes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast
from uuid import uuid4

from sqlalchemy import Connection, Row

from leeward.contracts import Answered
from leeward.contracts.events import Answer
from leeward.store import Unit
from services.notify.delivery.deliveries import Outgoing, call_off
from services.notify.delivery.repository import count_new_links
from services.notify.delivery.state import Delivery, DeliveryState
from services.notify.links import hashed
from services.notify.on_call import OnCallRounds, acknowledge
from services.notify.questions import repository
from services.notify.questions.question import AnswerDecision, Impossible, Question, alive, decide
from services.notify.repository import find_call, insert_links

NEW_LINKS_A_DAY: Final = 3
LinkView = Literal["question", "moved", "elsewhere", "ended", "call"]


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """What a link leads to for one browser.

    view: `question` in full; `moved`: a new link that may bring the question to this browser; `elsewhere`: it was
    answered in another browser; `ended`: nothing any more; `call`: the page of the professional on duty.
    """

    view: LinkView
    link: Row[Any] | None = None
    row: Row[Any] | None = None


@dataclass(frozen=True, slots=True)
class AppliedAnswer:
    """An answer that was recorded: of which case, and what it changed."""

    case_ref: str
    decision: AnswerDecision


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


def find_target(conn: Connection, token: str, browser: str, now: datetime, *, lock: bool = False) -> LinkTarget:
    """Look up a token for the browser with this cookie; changes nothing."""
    link = repository.find_link(conn, hashed(token))
    if link is None:
        return LinkTarget("ended")
    row = repository.find_question(conn, link.question_ref, lock=lock)
    if row is None:
        call = find_call(conn, link.question_ref)
        is_open = call is not None and now < call.expires_at
        return LinkTarget("call", link, call) if is_open else LinkTarget("ended", link)
    if not alive(question_of(row), now):
        return LinkTarget("ended", link, row)
    if not row.browser or (browser and row.browser == hashed(browser)):
        return LinkTarget("question", link, row)
    return LinkTarget("moved" if link.fresh else "elsewhere", link, row)


class Answers:
    """Applies what a page's form sends."""

    def __init__(self, outgoing: Outgoing, on_call: OnCallRounds) -> None:
        self._outgoing = outgoing
        self._on_call = on_call

    def apply_answer(self, unit: Unit, token: str, browser: str, form: Mapping[str, str]) -> AppliedAnswer | None:
        """Apply a form to the question behind a link; None where it changes no question.

        Raises:
            Impossible: when the page does not offer it now. Incomplete: when its fields are not as offered.
        """
        target = find_target(unit.conn, token, browser, unit.now, lock=True)
        link, row, answer = target.link, target.row, form.get("answer", "")
        if link is None or row is None:
            raise Impossible
        match target.view, answer:
            case "call", "acknowledge":
                acknowledge(unit, row.call_ref)
                return None
            case "elsewhere", "new_link":
                self._send_new_link(unit, row, link.request_ref)
                return None
            case "moved", "open":
                # the browser that opens a new link has the question from now on; the earlier one sees nothing
                repository.bind_to_browser(unit.conn, row.question_ref, hashed(browser), link.token_hash)
                return None
            case "question", _:
                return self._decide(unit, row, link.request_ref, browser, form)
        raise Impossible

    def _decide(
        self, unit: Unit, row: Row[Any], request_ref: str, browser: str, form: Mapping[str, str]
    ) -> AppliedAnswer:
        decision = decide(question_of(row), form.get("answer", ""), form, unit.now)
        values = {**asdict(decision.question), "browser": hashed(browser)}
        repository.record_answer(unit.conn, row.question_ref, values)
        if decision.publish is not None:
            answered = Answered(
                request_ref=request_ref,
                case_ref=row.case_ref,
                answer=cast(Answer, decision.publish),
                options=dict(decision.options),
            )
            unit.emit(answered)
        if decision.calls:
            self._on_call.start_call(unit, row, request_ref, form["answer"])
        if decision.publish is not None:
            call_off(unit, "question", [row.question_ref], in_doubt=DeliveryState.HANDED_OFF)
        return AppliedAnswer(row.case_ref, decision)

    def _send_new_link(self, unit: Unit, row: Row[Any], request_ref: str) -> None:
        """Send the question's owner a new link, a few times a day at most; whoever asked sees the same either way."""
        repository.fence_question(unit, row.question_ref)
        contact = self._outgoing.contacts(unit.conn, [row.recipient_ref]).get(row.recipient_ref)
        sent = count_new_links(unit.conn, row.question_ref, unit.now - timedelta(days=1))
        if contact is None or sent >= NEW_LINKS_A_DAY:
            return
        delivery = Delivery(
            kind="link",
            case_ref=row.case_ref,
            step=f"link-{uuid4()}",
            recipient_ref=row.recipient_ref,
            question_ref=row.question_ref,
            contact=contact,
            expires_at=unit.now + timedelta(days=1),
            accepted_at=unit.now,
        )
        if self._outgoing.address(delivery) is None:
            return
        self._outgoing.enqueue(unit, [delivery])
        insert_links(unit.conn, [(hashed(self._outgoing.token(delivery)), row.question_ref, request_ref, True)])

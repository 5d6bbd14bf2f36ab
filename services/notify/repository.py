"""Statements about links, calls, codes and recipients, and those that delete what is old."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, Row, Select, bindparam, delete, exists, func, insert, select, update

from leeward.store import Insert, Unit
from leeward.store.lookup import in_list
from leeward.store.retention import Expired, expired_rows
from services.notify.models import CALL, CODE, DELIVERY, LEFT, LINK, QUESTION, RECIPIENT

CODE_KEPT: Final = timedelta(hours=1)

_HERE: Final = RECIPIENT.c.status.not_in(LEFT)
_LINKS: Final = Insert(LINK, ("token_hash", "question_ref", "request_ref", "fresh"), conflict="nothing")
_CALL: Final = select(CALL).where(CALL.c.call_ref == bindparam("ref"))
_CALL_UNDER_WAY: Final = select(CALL.c.call_ref).where(
    CALL.c.question_ref == bindparam("ref"), CALL.c.acknowledged.is_(False), CALL.c.rounds > 0
)
_UNACKNOWLEDGED: Final = select(CALL).where(in_list(CALL.c.call_ref, "refs"), CALL.c.acknowledged.is_(False))
_SET_ROUNDS: Final = update(CALL).where(CALL.c.call_ref == bindparam("ref")).values({"rounds": bindparam("number")})
_ACKNOWLEDGE: Final = update(CALL).where(CALL.c.call_ref == bindparam("ref")).values({"acknowledged": True})
# who has asked for help is called for until somebody is there, whatever becomes of the case; the row names nobody
_DELETE_CALLS: Final = delete(CALL).where(in_list(CALL.c.case_ref, "refs"), CALL.c.acknowledged.is_(True))
_OWNER: Final = select(RECIPIENT.c.recipient_ref).where(func.lower(RECIPIENT.c.email) == bindparam("address"), _HERE)
_COUNT_CODES: Final = select(func.count()).where(CODE.c.expires_at > bindparam("since"))
_COUNT_CODES_OF: Final = select(func.count()).where(CODE.c.address_hash == bindparam("address_hash"))
_CODE: Final = select(CODE).where(CODE.c.ticket_hash == bindparam("ticket")).with_for_update()
_TRY_CODE: Final = (
    update(CODE)
    .where(CODE.c.ticket_hash == bindparam("ticket"))
    .values({"tries": bindparam("now_tried"), "proved": bindparam("now_proved")})
)
_SUPPORTERS: Final[Select[Any]] = (
    select(RECIPIENT.c.recipient_ref, RECIPIENT.c.display_name)
    .where(RECIPIENT.c.supporter.is_(True), _HERE, RECIPIENT.c.recipient_ref > bindparam("after"))
    .order_by(RECIPIENT.c.recipient_ref)
    .limit(bindparam("most"))
)
_COUNT_RECIPIENTS: Final = select(func.count()).select_from(RECIPIENT).where(_HERE)
_COUNT_REACHABLE: Final = _COUNT_RECIPIENTS.where(RECIPIENT.c.reachable.is_(True))
_COUNT_STATES: Final = (
    select(DELIVERY.c.state, func.count())
    .where(DELIVERY.c.kind == "message")
    .group_by(DELIVERY.c.state)
    .order_by(DELIVERY.c.state)
)
_WAITING: Final = DELIVERY.c.state.in_(("queued", "sending"))
_BEFORE: Final[BindParameter[Any]] = bindparam("before")
_NOW: Final[BindParameter[Any]] = bindparam("now")
_ENDED_DELIVERIES: Final = Expired(
    select(DELIVERY.c.key).where(DELIVERY.c.changed_at < _BEFORE, ~_WAITING).order_by(DELIVERY.c.changed_at),
    delete(DELIVERY).where(in_list(DELIVERY.c.key)),
)
_OLD_CODES: Final = expired_rows(CODE, "ticket_hash", "expires_at")
_DELETE_LINKS: Final = delete(LINK).where(in_list(LINK.c.question_ref))
_EXPIRED_CALLS: Final = Expired(
    select(CALL.c.call_ref).where(CALL.c.expires_at < _NOW).order_by(CALL.c.expires_at),
    _DELETE_LINKS,
    delete(CALL).where(in_list(CALL.c.call_ref)),
)
_EXPIRED: Final = select(QUESTION.c.question_ref).where(QUESTION.c.expires_at < _NOW).order_by(QUESTION.c.expires_at)
# what has not left yet is looked at first, so that its end is published
_UNDELIVERED: Final = exists().where(DELIVERY.c.question_ref == QUESTION.c.question_ref, _WAITING)
_OVER: Final = QUESTION.c.state.not_in(("open", "accepted", "confirmed")) & (QUESTION.c.answered_at < _BEFORE)
_DELETE_QUESTIONS: Final = (_DELETE_LINKS, delete(QUESTION).where(in_list(QUESTION.c.question_ref)))
_UNANSWERED: Final = Expired(_EXPIRED.where(QUESTION.c.answered_at.is_(None), ~_UNDELIVERED), *_DELETE_QUESTIONS)
_ANSWERED: Final = Expired(_EXPIRED.where(_OVER), *_DELETE_QUESTIONS)
_TOO_OLD: Final = Expired(
    select(QUESTION.c.question_ref).where(QUESTION.c.accepted_at < _BEFORE).order_by(QUESTION.c.accepted_at),
    *_DELETE_QUESTIONS,
)
_NEXT_LINKS: Final = (
    select(LINK.c.token_hash, LINK.c.question_ref)
    .where(LINK.c.token_hash > bindparam("after"))
    .order_by(LINK.c.token_hash)
    .limit(bindparam("most"))
)
_DELETE_LOOSE_LINKS: Final = delete(LINK).where(
    in_list(LINK.c.token_hash),
    ~exists().where(QUESTION.c.question_ref == LINK.c.question_ref),
    ~exists().where(CALL.c.call_ref == LINK.c.question_ref),
)


def insert_links(conn: Connection, rows: Sequence[tuple[str, str, str, bool]]) -> None:
    """Each row: the token's hash, the question (or call) it leads to, the request it belongs to, whether it is new."""
    _LINKS.run(conn, rows)


def find_call(conn: Connection, call_ref: str) -> Row[Any] | None:
    return conn.execute(_CALL, {"ref": call_ref}).first()


def is_being_called(conn: Connection, question_ref: str) -> bool:
    return conn.execute(_CALL_UNDER_WAY, {"ref": question_ref}).first() is not None


def find_unacknowledged(conn: Connection, refs: Sequence[str]) -> Sequence[Row[Any]]:
    return conn.execute(_UNACKNOWLEDGED, {"refs": refs}).all()


def insert_call(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(insert(CALL), values)


def set_rounds(conn: Connection, call_ref: str, rounds: int) -> None:
    conn.execute(_SET_ROUNDS, {"ref": call_ref, "number": rounds})


def acknowledge_call(conn: Connection, call_ref: str) -> None:
    conn.execute(_ACKNOWLEDGE, {"ref": call_ref})


def delete_acknowledged_calls(conn: Connection, cases: Sequence[str]) -> None:
    conn.execute(_DELETE_CALLS, {"refs": cases})


def find_owner(conn: Connection, address: str) -> str | None:
    """Whose address this is, among those who are still here: a recipient_ref."""
    return conn.execute(_OWNER, {"address": address.strip().lower()}).scalar()


def fence_owner(unit: Unit, recipient_ref: str) -> None:
    """Of two who ask at once for a code for this recipient, the second must count the first one's."""
    unit.conflict_on(RECIPIENT, RECIPIENT.c.recipient_ref == recipient_ref)


def delete_old_codes(conn: Connection, now: datetime, most: int) -> bool:
    return _OLD_CODES.delete_from(conn, most, before=now - CODE_KEPT)


def count_codes_expiring_after(conn: Connection, moment: datetime) -> int:
    return int(conn.execute(_COUNT_CODES, {"since": moment}).scalar() or 0)


def count_codes_of(conn: Connection, address_hash: str) -> int:
    return int(conn.execute(_COUNT_CODES_OF, {"address_hash": address_hash}).scalar() or 0)


def insert_code(conn: Connection, values: Mapping[str, Any]) -> None:
    conn.execute(insert(CODE), values)


def lock_code(conn: Connection, ticket_hash: str) -> Row[Any] | None:
    return conn.execute(_CODE, {"ticket": ticket_hash}).first()


def record_try(conn: Connection, ticket_hash: str, tries: int, *, proved: bool) -> None:
    conn.execute(_TRY_CODE, {"ticket": ticket_hash, "now_tried": tries, "now_proved": proved})


def list_supporters(conn: Connection, after: str | None, most: int) -> Sequence[Row[Any]]:
    return conn.execute(_SUPPORTERS, {"after": after or "", "most": most}).all()


def count_figures(conn: Connection) -> dict[str, Any]:
    """How many are on the roster and can be reached, and in which states the messages of the last 14 days are."""
    return {
        "recipients": conn.execute(_COUNT_RECIPIENTS).scalar_one(),
        "reachable": conn.execute(_COUNT_REACHABLE).scalar_one(),
        "messages": dict(list(conn.execute(_COUNT_STATES))),
    }


def delete_ended_deliveries(conn: Connection, before: datetime, most: int) -> bool:
    return _ENDED_DELIVERIES.delete_from(conn, most, before=before)


def delete_expired_calls(conn: Connection, now: datetime, most: int) -> bool:
    return _EXPIRED_CALLS.delete_from(conn, most, now=now)


def delete_old_questions(
    conn: Connection, now: datetime, *, ended_before: datetime, asked_before: datetime, most: int
) -> bool:
    """Delete questions that expired without an answer, that an answer has ended, and all that are too old."""
    return any(
        [
            _UNANSWERED.delete_from(conn, most, now=now),
            _ANSWERED.delete_from(conn, most, now=now, before=ended_before),
            _TOO_OLD.delete_from(conn, most, before=asked_before),
        ]
    )


def delete_loose_links(conn: Connection, after: str, most: int) -> str:
    """Delete links that lead to no question and no call any more, of so many behind a hash.

    Gives the last one looked at, empty once there are no more.
    """
    hashes = conn.execute(_NEXT_LINKS, {"after": after, "most": most}).scalars().all()
    if hashes:
        conn.execute(_DELETE_LOOSE_LINKS, {"keys": hashes})
    return hashes[-1] if len(hashes) == most else ""

"""Every statement about deliveries: they are written, claimed, recorded and called off here."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, case, exists, func, select, update

from leeward.store import Insert, Update
from leeward.store.lookup import in_list
from services.notify.channels import Contact, Kind
from services.notify.delivery.state import Delivery, DeliveryState, wake_at
from services.notify.models import CALL, DELIVERY, LINK, QUESTION, RECIPIENT

Which = Literal["requests", "cases", "question"]
Values = tuple[Any, ...]


class DeliveryChange(NamedTuple):
    """What an attempt, or a look at a queued row, changes of the row with this key."""

    key: str
    state: str
    attempts: int
    doubts: int
    due_at: datetime
    wake_at: datetime
    claimed_by: str
    changed_at: datetime


_QUEUED: Final = DELIVERY.c.state == str(DeliveryState.QUEUED)
_SENDING: Final = DELIVERY.c.state == str(DeliveryState.SENDING)
_COLUMNS: Final = tuple(column.name for column in DELIVERY.columns)
_INSERT: Final = Insert(DELIVERY, _COLUMNS, conflict="nothing", returning=("key",))
_PROGRESS: Final = Update(DELIVERY, ("key",), DeliveryChange._fields[1:])
_CONTACT: Final = (
    RECIPIENT.c.recipient_ref,
    RECIPIENT.c.email,
    RECIPIENT.c.mobile,
    RECIPIENT.c.languages,
    RECIPIENT.c.timezone,
    RECIPIENT.c.status,
)
_CONTACTS: Final = select(*_CONTACT).where(in_list(RECIPIENT.c.recipient_ref, "refs"))
# whether the link that the message leads to is still there: whoever cancels or erases takes it away
_LINKED: Final = case(
    (
        DELIVERY.c.kind == "call",
        exists().where(CALL.c.call_ref == DELIVERY.c.case_ref, CALL.c.acknowledged.is_(False)),
    ),
    else_=exists().where(LINK.c.request_ref == DELIVERY.c.request_ref),
).label("linked")
_WITH_QUESTION: Final = DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref)
_DUE: Final = (
    select(DELIVERY, QUESTION.c.state.label("question_state"), QUESTION.c.answers, _LINKED, *_CONTACT[1:])
    .select_from(_WITH_QUESTION.outerjoin(RECIPIENT, RECIPIENT.c.recipient_ref == DELIVERY.c.recipient_ref))
    .where(_QUEUED, DELIVERY.c.wake_at <= bindparam("now"), DELIVERY.c.channel == bindparam("channel"))
    .order_by(DELIVERY.c.wake_at)
    .limit(bindparam("room"))
    .with_for_update(of=DELIVERY, skip_locked=True)
)
_NEXT_WAKE: Final = select(func.min(DELIVERY.c.wake_at)).where(_QUEUED, in_list(DELIVERY.c.channel, "channels"))
_CLAIMED_BY: Final = (
    select(DELIVERY.c.key)
    .where(in_list(DELIVERY.c.key), _SENDING, DELIVERY.c.claimed_by == bindparam("run"))
    .with_for_update()
)
_UNFINISHED: Final = select(DELIVERY.c.key).where(in_list(DELIVERY.c.key), _QUEUED | _SENDING).with_for_update()
_STILL_DUE: Final[Select[Any]] = (
    select(
        DELIVERY.c.kind,
        DELIVERY.c.state,
        DELIVERY.c.claimed_by,
        DELIVERY.c.asked_after,
        DELIVERY.c.accepted_at,
        QUESTION.c.answers,
        _LINKED,
    )
    .select_from(_WITH_QUESTION)
    .where(DELIVERY.c.key == bindparam("wanted_key"))
)
_CLAIMS: Final = select(DELIVERY.c.key, DELIVERY.c.claimed_by).where(_SENDING)
_IN_DOUBT: Final = (
    select(DELIVERY, QUESTION.c.answers)
    .select_from(_WITH_QUESTION)
    .where(_SENDING, in_list(DELIVERY.c.key))
    .with_for_update(of=DELIVERY)
)
# what may have left since the copy was made that a database was put back from; what is not due yet has not
_DOUBT_SENT: Final = (
    update(DELIVERY)
    .where(_SENDING | (_QUEUED & (DELIVERY.c.due_at <= bindparam("now"))))
    .values({"state": str(DeliveryState.QUEUED), "doubts": case((DELIVERY.c.doubts > 0, DELIVERY.c.doubts), else_=1)})
)
_END: Final[Mapping[str, Any]] = {"state": bindparam("to_state"), "changed_at": bindparam("now")}
_STRAY: Final = _QUEUED & DELIVERY.c.channel.not_in(bindparam("channels", expanding=True))
_STRAYED: Final = select(DELIVERY).where(_STRAY)
_END_STRAY: Final = update(DELIVERY).where(_STRAY).values(_END)
_OF: Final[Mapping[Which, ColumnElement[bool]]] = {
    "requests": in_list(DELIVERY.c.request_ref, "refs"),
    "cases": in_list(DELIVERY.c.case_ref, "refs"),
    # a new link that somebody asked for leaves all the same
    "question": in_list(DELIVERY.c.question_ref, "refs") & (DELIVERY.c.kind == "message"),
}
_QUEUED_OF: Final = {which: select(DELIVERY).where(of, _QUEUED) for which, of in _OF.items()}
_END_DOUBTFUL_OF: Final = {
    which: update(DELIVERY).where(of, _QUEUED, DELIVERY.c.doubts > 0).values(_END) for which, of in _OF.items()
}
_END_QUEUED_OF: Final = {which: update(DELIVERY).where(of, _QUEUED).values(_END) for which, of in _OF.items()}
_STATE_OF_STEP: Final = select(DELIVERY.c.state).where(
    DELIVERY.c.case_ref == bindparam("case_ref"),
    DELIVERY.c.step == bindparam("step"),
    DELIVERY.c.recipient_ref == bindparam("recipient_ref"),
    DELIVERY.c.channel == bindparam("channel"),
)
_LINKS_SENT: Final = select(func.count()).where(
    DELIVERY.c.question_ref == bindparam("ref"), DELIVERY.c.kind == "link", DELIVERY.c.changed_at > bindparam("since")
)
# the row stays until the log is cleared, so that nothing is sent twice; whom and what it was for goes
_BLANK: Final = (
    update(DELIVERY).where(in_list(DELIVERY.c.case_ref, "refs")).values({"recipient_ref": "", "question_ref": ""})
)
_ADDRESSES: Final[Select[Any]] = select(
    RECIPIENT.c.recipient_ref, RECIPIENT.c.email, RECIPIENT.c.mobile, RECIPIENT.c.reachable
).where(in_list(RECIPIENT.c.recipient_ref, "refs"))
_BOUNCE: Final = Update(RECIPIENT, ("recipient_ref",), ("email", "email_bounced", "reachable"))


def new_row(delivery: Delivery, state: DeliveryState, due: datetime, run: str, now: datetime) -> Values:
    """A delivery as `insert_new` takes it; `run` is the one that writes it."""
    values: Mapping[str, Any] = {
        "key": delivery.key,
        "kind": delivery.kind,
        "request_ref": delivery.request_ref,
        "case_ref": delivery.case_ref,
        "step": delivery.step,
        "recipient_ref": delivery.recipient_ref,
        "question_ref": delivery.question_ref,
        "channel": delivery.channel,
        "urgent": delivery.urgent or delivery.kind != "message",
        "state": str(state),
        "attempts": 0,
        "doubts": 0,
        "asked_after": delivery.asked_after,
        "due_at": due,
        "hold_deadline": delivery.hold_deadline,
        "expires_at": delivery.expires_at,
        "wake_at": wake_at(due, delivery.hold_deadline, delivery.expires_at),
        "claimed_by": run,
        "accepted_at": delivery.accepted_at,
        "changed_at": now,
    }
    return tuple(values[name] for name in _COLUMNS)


def delivery_of(row: Row[Any], contact: Contact) -> Delivery:
    """A stored delivery to be sent now."""
    return Delivery(
        kind=cast(Kind, row.kind),
        case_ref=row.case_ref,
        step=row.step,
        contact=contact,
        expires_at=row.expires_at,
        accepted_at=row.accepted_at,
        request_ref=row.request_ref,
        recipient_ref=row.recipient_ref,
        question_ref=row.question_ref,
        urgent=row.urgent,
        hold_deadline=row.hold_deadline,
        key=row.key,
        channel=row.channel,
        attempts=row.attempts,
        doubts=row.doubts,
        asked_after=row.asked_after,
    )


def insert_new(conn: Connection, rows: Sequence[Values]) -> set[str]:
    """Write those that were not written before; returns their keys."""
    return {row.key for row in _INSERT.run(conn, rows)}


def find_contacts(conn: Connection, refs: Iterable[str]) -> Iterable[Row[Any]]:
    return conn.execute(_CONTACTS, {"refs": list(set(refs))})


def lock_due(conn: Connection, channel: str, room: int, now: datetime) -> Sequence[Row[Any]]:
    """Queued rows of a channel that must be looked at now, the longest waiting first, with contact and question."""
    return conn.execute(_DUE, {"now": now, "channel": channel, "room": room}).all()


def next_wake(conn: Connection, channels: Collection[str]) -> datetime | None:
    """When the next queued row of these channels must be looked at."""
    return conn.execute(_NEXT_WAKE, {"channels": list(channels)}).scalar()


def record_changes(conn: Connection, changes: Sequence[DeliveryChange]) -> None:
    _PROGRESS.run(conn, changes)


def lock_claimed(conn: Connection, keys: Sequence[str], run: str) -> set[str]:
    """Which of these a run still has; those that another has taken up meanwhile are not among them."""
    return set(conn.execute(_CLAIMED_BY, {"keys": keys, "run": run}).scalars())


def lock_unfinished(conn: Connection, keys: Sequence[str]) -> set[str]:
    """Which of these have not ended, whichever run has them."""
    return set(conn.execute(_UNFINISHED, {"keys": keys}).scalars()) if keys else set()


def find_still_due(conn: Connection, key: str) -> Row[Any] | None:
    """What decides, just before an attempt, whether there is still something to say."""
    return conn.execute(_STILL_DUE, {"wanted_key": key}).first()


def find_claims(conn: Connection) -> list[tuple[str, str]]:
    """The key of every row in hand, with the run that has claimed it."""
    return [(row.key, row.claimed_by) for row in conn.execute(_CLAIMS)]


def lock_in_doubt(conn: Connection, keys: Iterable[str]) -> Sequence[Row[Any]]:
    """Those of these rows that are still in hand, each with when its question was answered."""
    return conn.execute(_IN_DOUBT, {"keys": list(keys)}).all()


def doubt_sent(conn: Connection, now: datetime) -> int:
    """Have all that may have left by now be repeated under its key, as in doubt; gives how many that are."""
    return conn.execute(_DOUBT_SENT, {"now": now}).rowcount


def end_stray(conn: Connection, channels: Collection[str], now: datetime) -> Sequence[Row[Any]]:
    """End as failed, and return, what is queued for any other channel than these."""
    stray = conn.execute(_STRAYED, {"channels": list(channels)}).all()
    conn.execute(_END_STRAY, {"channels": list(channels), "to_state": str(DeliveryState.FAILED), "now": now})
    return stray


def end_queued(
    conn: Connection, which: Which, refs: Sequence[str], in_doubt: DeliveryState, now: datetime
) -> Sequence[Row[Any]]:
    """Cancel, and return, what is queued of these; what an attempt has left in doubt ends as `in_doubt`."""
    queued = conn.execute(_QUEUED_OF[which], {"refs": refs}).all()
    if queued:
        conn.execute(_END_DOUBTFUL_OF[which], {"refs": refs, "to_state": str(in_doubt), "now": now})
        conn.execute(_END_QUEUED_OF[which], {"refs": refs, "to_state": str(DeliveryState.CANCELLED), "now": now})
    return queued


def state_of_step(conn: Connection, delivery: Delivery) -> str | None:
    """The state of the row that stands for the same step of the same case, recipient and channel."""
    same = {
        "case_ref": delivery.case_ref,
        "step": delivery.step,
        "recipient_ref": delivery.recipient_ref,
        "channel": delivery.channel,
    }
    return conn.execute(_STATE_OF_STEP, same).scalar()


def count_new_links(conn: Connection, question_ref: str, since: datetime) -> int:
    return int(conn.execute(_LINKS_SENT, {"ref": question_ref, "since": since}).scalar() or 0)


def forget_recipients_of(conn: Connection, cases: Sequence[str]) -> None:
    conn.execute(_BLANK, {"refs": cases})


def find_addresses(conn: Connection, refs: Iterable[str]) -> Sequence[Row[Any]]:
    return conn.execute(_ADDRESSES, {"refs": list(set(refs))}).all()


def record_bounces(conn: Connection, rows: Sequence[tuple[str, str, bool]]) -> None:
    """Remove addresses. Each row: recipient_ref, the address's hash, whether another channel reaches them."""
    _BOUNCE.run(conn, [(ref, "", address_hash, reachable) for ref, address_hash, reachable in rows])

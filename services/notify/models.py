"""What notify stores: who can be reached how, questions, links, and one row a hand-off. Never what happened or why."""

from datetime import datetime
from typing import Any, ClassVar, Final

from sqlalchemy import Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from leeward.store import UtcTime, ground_tables, table_of

METADATA: Final = MetaData()
# of a recipient who is not on the roster any more
LEFT: Final = frozenset({"left", "deceased"})


class _Model(SQLModel, registry=registry(metadata=METADATA)):
    """Base of notify's tables, in a registry of their own."""

    metadata: ClassVar[MetaData] = METADATA


def text(length: int, **options: Any) -> Any:
    """A text column of a bounded length."""
    return Field(sa_type=String(length), **options)


def moment(**options: Any) -> Any:
    """A column for an aware UTC time."""
    return Field(sa_type=UtcTime, **options)


class Recipient(_Model, table=True):
    """Somebody on the roster. `languages` are BCP 47 tags with spaces between; a bounced address is empty."""

    __tablename__ = "recipient"
    recipient_ref: str = text(36, primary_key=True)
    display_name: str = text(200)
    email: str = text(320, index=True)
    email_bounced: str = text(64, default="")
    mobile: str = text(40)
    introduction: str = text(2000)
    languages: str = text(200)
    timezone: str = text(64)
    status: str = text(10)
    supporter: bool = False
    reachable: bool = True


class StoredQuestion(_Model, table=True):
    """One question to one recipient; `browser` is the hash of the cookie that the first answer bound it to.

    `answers` is its version: how many were given, by which it is known what came before what, whatever clocks show.
    """

    __tablename__ = "question"
    question_ref: str = text(64, primary_key=True)
    case_ref: str = text(36)
    recipient_ref: str = text(36, index=True)
    template: str = text(24)
    options: str = text(400, default="")
    state: str = text(16)
    expires_at: datetime = moment(index=True)
    answered_at: datetime | None = moment(nullable=True)
    said: str = text(16, default="")
    wanted: str = text(8, default="")
    how: str = text(8, default="")
    again: str = text(8, default="")
    check_ins: bool = False
    answers: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    browser: str = text(64, default="")
    accepted_at: datetime = moment(index=True)
    __table_args__ = (UniqueConstraint("case_ref", "recipient_ref", "template"),)


class Link(_Model, table=True):
    """A way to a question. `fresh` marks one sent after the first answer: it may move the question to a new browser."""

    __tablename__ = "link"
    token_hash: str = text(64, primary_key=True)
    question_ref: str = text(64, index=True)
    request_ref: str = text(36, index=True)
    fresh: bool = False


class StoredDelivery(_Model, table=True):
    """One hand-off. `key` is its idempotency key in every channel; `wake_at` is when a queued one must be looked at.

    `asked_after` is how many answers its question had when the message was asked for.
    """

    __tablename__ = "delivery"
    key: str = text(32, primary_key=True)
    kind: str = text(8)
    request_ref: str = text(36)
    case_ref: str = text(36)
    step: str = text(64)
    recipient_ref: str = text(36)
    question_ref: str = text(64, index=True)
    channel: str = text(8)
    urgent: bool = False
    state: str = text(16)
    attempts: int = 0
    doubts: int = 0
    asked_after: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    due_at: datetime = moment()
    hold_deadline: datetime | None = moment(nullable=True)
    expires_at: datetime = moment()
    wake_at: datetime = moment()
    claimed_by: str = text(32, default="")
    accepted_at: datetime = moment()
    changed_at: datetime = moment()
    __table_args__ = (
        UniqueConstraint("case_ref", "step", "recipient_ref", "channel"),
        Index("delivery_wake", "state", "wake_at"),
        Index("delivery_changed", "changed_at"),
    )


class Code(_Model, table=True):
    """A proof of an address: 8 digits, five tries. Made for unknown addresses too, so that nothing tells them apart."""

    __tablename__ = "code"
    ticket_hash: str = text(64, primary_key=True)
    address_hash: str = text(64, index=True)
    recipient_ref: str = text(36)
    code_hash: str = text(64)
    tries: int = 0
    proved: bool = False
    expires_at: datetime = moment(index=True)


class Call(_Model, table=True):
    """A call for the professional on duty: rounds go out until one of them acknowledges."""

    __tablename__ = "call"
    call_ref: str = text(36, primary_key=True)
    question_ref: str = text(64, index=True)
    request_ref: str = text(36)
    case_ref: str = text(36)
    answer: str = text(16)
    rounds: int = 0
    acknowledged: bool = False
    accepted_at: datetime = moment()
    expires_at: datetime = moment(index=True)


ground_tables(METADATA)
RECIPIENT: Final = table_of(Recipient)
QUESTION: Final = table_of(StoredQuestion)
LINK: Final = table_of(Link)
DELIVERY: Final = table_of(StoredDelivery)
CODE: Final = table_of(Code)
CALL: Final = table_of(Call)

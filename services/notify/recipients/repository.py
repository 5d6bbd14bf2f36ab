"""Statements about recipients: what is stored of them, and what ends with somebody who has left."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select, update

from leeward.store import Insert
from leeward.store.lookup import in_list
from services.notify.models import DELIVERY, LINK, QUESTION, RECIPIENT

COLUMNS: Final = (
    "recipient_ref",
    "display_name",
    "email",
    "email_bounced",
    "mobile",
    "introduction",
    "languages",
    "timezone",
    "status",
    "supporter",
    "reachable",
)
_UPSERT: Final = Insert(RECIPIENT, COLUMNS, conflict="replace", keys=("recipient_ref",))
_CANCEL: Final = (
    update(DELIVERY)
    .where(in_list(DELIVERY.c.recipient_ref, "refs"), DELIVERY.c.state == "queued")
    .values({"state": "cancelled"})
)
_QUESTIONS: Final = in_list(QUESTION.c.recipient_ref, "refs")
_UNLINK: Final = delete(LINK).where(LINK.c.question_ref.in_(select(QUESTION.c.question_ref).where(_QUESTIONS)))
_DELETE_QUESTIONS: Final = delete(QUESTION).where(_QUESTIONS)
_AT_ONCE: Final = 500


def find_all(conn: Connection) -> dict[str, Row[Any]]:
    """Everybody who is stored, by recipient_ref."""
    return {row.recipient_ref: row for row in conn.execute(select(RECIPIENT)).all()}


def store(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert or overwrite recipients; values in the order of COLUMNS."""
    for start in range(0, len(rows), _AT_ONCE):
        _UPSERT.run(conn, rows[start : start + _AT_ONCE])


def end_everything_of(conn: Connection, refs: Sequence[str]) -> None:
    """Cancel what is queued for these recipients, and delete their questions and links."""
    for start in range(0, len(refs), _AT_ONCE):
        some = {"refs": refs[start : start + _AT_ONCE]}
        conn.execute(_CANCEL, some)
        conn.execute(_UNLINK, some)
        conn.execute(_DELETE_QUESTIONS, some)

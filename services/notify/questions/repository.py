"""Every statement about questions, the links that lead to them, and the recipients whom their pages show."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, delete, select, update

from leeward.store import Insert, Unit, Update
from leeward.store.lookup import in_list
from services.notify.models import LINK, QUESTION, RECIPIENT

_COLUMNS: Final = (
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
_INSERT: Final = Insert(QUESTION, _COLUMNS, conflict="nothing", keys=("question_ref",))
_REOPEN: Final = Update(
    QUESTION, ("question_ref",), ("options", "state", "expires_at", "answered_at", "said", "browser")
)
_EXTEND: Final = Update(QUESTION, ("question_ref",), ("options", "expires_at"))
_UNTIE: Final = Update(QUESTION, ("question_ref",), ("case_ref", "expires_at"))
_MINE: Final = QUESTION.c.question_ref == bindparam("ref")
_LINK: Final = select(LINK).where(LINK.c.token_hash == bindparam("token_hash"))
_QUESTION: Final = select(QUESTION).where(_MINE)
_LOCKED: Final = _QUESTION.with_for_update()
_BIND: Final = update(QUESTION).where(_MINE).values({"browser": bindparam("to_browser")})
_USE: Final = update(LINK).where(LINK.c.token_hash == bindparam("used")).values({"fresh": False})
_ANSWERED: Final = ("state", "answered_at", "said", "wanted", "how", "again", "check_ins", "browser")
_ANSWER: Final = (
    update(QUESTION)
    .where(_MINE)
    .values({**{name: bindparam(f"new_{name}") for name in _ANSWERED}, "answers": QUESTION.c.answers + 1})
)
_KNOWN: Final[Select[Any]] = select(
    QUESTION.c.question_ref, QUESTION.c.state, QUESTION.c.expires_at, QUESTION.c.answered_at, QUESTION.c.answers
).where(in_list(QUESTION.c.question_ref, "refs"))
_OF_CASES: Final[Select[Any]] = select(
    QUESTION.c.question_ref, QUESTION.c.template, QUESTION.c.state, QUESTION.c.answered_at
).where(in_list(QUESTION.c.case_ref, "refs"))
_LINKED: Final[Select[Any]] = (
    select(LINK.c.request_ref, LINK.c.question_ref, QUESTION.c.state)
    .select_from(LINK.join(QUESTION, QUESTION.c.question_ref == LINK.c.question_ref))
    .where(in_list(LINK.c.request_ref, "refs"))
)
_END_NOW: Final = (
    update(QUESTION).where(in_list(QUESTION.c.question_ref, "refs")).values({"expires_at": bindparam("now")})
)
_STILL_LINKED: Final[Select[Any]] = select(LINK.c.question_ref).where(in_list(LINK.c.question_ref, "refs")).distinct()
_UNLINK: Final = delete(LINK).where(in_list(LINK.c.request_ref, "refs"))
_UNLINK_QUESTIONS: Final = delete(LINK).where(in_list(LINK.c.question_ref, "refs"))
_DELETE: Final = delete(QUESTION).where(in_list(QUESTION.c.question_ref, "refs"))
_RECIPIENT: Final = select(RECIPIENT).where(RECIPIENT.c.recipient_ref == bindparam("ref"))
_CHOSEN_WAY: Final = (
    select(QUESTION.c.how)
    .where(QUESTION.c.recipient_ref == bindparam("ref"), QUESTION.c.how != "")
    .order_by(QUESTION.c.answered_at.desc().nulls_last())
)


def find_link(conn: Connection, token_hash: str) -> Row[Any] | None:
    return conn.execute(_LINK, {"token_hash": token_hash}).first()


def find_question(conn: Connection, ref: str, *, lock: bool) -> Row[Any] | None:
    return conn.execute(_LOCKED if lock else _QUESTION, {"ref": ref}).first()


def bind_to_browser(conn: Connection, question_ref: str, browser_hash: str, token_hash: str) -> None:
    """Bring a question to another browser, by a new link that cannot do so again."""
    conn.execute(_BIND, {"ref": question_ref, "to_browser": browser_hash})
    conn.execute(_USE, {"used": token_hash})


def fence_question(unit: Unit, question_ref: str) -> None:
    """Of two taps at once for a new link, the second must count the first one's."""
    unit.conflict_on(QUESTION, QUESTION.c.question_ref == question_ref)


def record_answer(conn: Connection, ref: str, values: Mapping[str, Any]) -> None:
    """`values` are those of a question that an answer may change, with the browser that gave it."""
    conn.execute(_ANSWER, {"ref": ref, **{f"new_{name}": values[name] for name in _ANSWERED}})


def find_known(conn: Connection, refs: Sequence[str]) -> dict[str, Row[Any]]:
    """What is stored of these questions, by their references."""
    return {row.question_ref: row for row in conn.execute(_KNOWN, {"refs": refs})} if refs else {}


def find_of_cases(conn: Connection, cases: Sequence[str]) -> Sequence[Row[Any]]:
    return conn.execute(_OF_CASES, {"refs": cases}).all()


def find_linked(conn: Connection, requests: Sequence[str]) -> Sequence[Row[Any]]:
    """The questions that these requests have links to."""
    return conn.execute(_LINKED, {"refs": requests}).all()


def insert_questions(conn: Connection, rows: Sequence[tuple[Any, ...]]) -> None:
    """Rows of all columns in their order; a question that another replica has stored meanwhile stays as it is."""
    _INSERT.run(conn, rows)


def reopen(conn: Connection, questions: Sequence[tuple[str, str, datetime]]) -> None:
    """Ask again, of whoever opens the new link. Each: question_ref, options, expires_at."""
    if questions:
        conn.execute(_UNLINK_QUESTIONS, {"refs": [ref for ref, _, _ in questions]})
    _REOPEN.run(conn, [(ref, options, "open", expires_at, None, "", "") for ref, options, expires_at in questions])


def extend(conn: Connection, questions: Sequence[tuple[str, str, datetime]]) -> None:
    """Keep questions as they stand for longer. Each: question_ref, options, expires_at."""
    _EXTEND.run(conn, questions)


def end_now(conn: Connection, refs: Sequence[str], now: datetime) -> None:
    """Let questions expire; their last page stays."""
    conn.execute(_END_NOW, {"refs": refs, "now": now})


def untie(conn: Connection, questions: Sequence[tuple[str, str, datetime]]) -> None:
    """Move questions to another case. Each: question_ref, case_ref, expires_at."""
    _UNTIE.run(conn, questions)


def delete_links_of(conn: Connection, requests: Sequence[str], questions: Sequence[str]) -> None:
    """Delete the links of these requests, and those of their questions that no link leads to any more."""
    conn.execute(_UNLINK, {"refs": requests})
    linked = set(conn.execute(_STILL_LINKED, {"refs": questions}).scalars())
    conn.execute(_DELETE, {"refs": [ref for ref in questions if ref not in linked]})


def delete_questions(conn: Connection, refs: Sequence[str]) -> None:
    """Delete questions and every link to them."""
    if refs:
        conn.execute(_UNLINK_QUESTIONS, {"refs": refs})
        conn.execute(_DELETE, {"refs": refs})


def find_recipient(conn: Connection, ref: str) -> Mapping[str, str]:
    """A recipient's columns; empty where there is none."""
    row = conn.execute(_RECIPIENT, {"ref": ref}).first()
    return dict(row._mapping) if row is not None else {}


def chosen_way(conn: Connection, recipient_ref: str) -> str:
    """How somebody wanted to be reached when they last said so; "" where they never did."""
    return conn.execute(_CHOSEN_WAY, {"ref": recipient_ref}).scalar() or ""

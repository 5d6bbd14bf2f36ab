"""Rows of cases and requests, to values and back; statements built once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, select

from leeward.contracts import MessageRequested, bucket_up
from leeward.refs import new_ref
from leeward.store import Insert, Update
from leeward.store.lookup import in_list
from services.matching.lifecycle.case import Case, Message
from services.matching.models import Request, SupportCase, table

CASE: Final = table(SupportCase)
REQUEST: Final = table(Request)
# what notify tells of a request that has left
ON_ITS_WAY: Final = frozenset({"handed_off", "delivered"})
# heard of even after the request has ended: somebody may have the message
MAY_BE_THERE: Final = ON_ITS_WAY | {"unknown"}
FIELDS: Final = tuple(field.name for field in fields(Case))
_VALUES: Final = attrgetter(*FIELDS)
_NOTES: Final = FIELDS.index("notes")
SELECT_CASES: Final = select(*(CASE.c[name] for name in FIELDS))
SELECT_REQUESTS: Final = select(REQUEST)
THESE_CASES: Final = SELECT_CASES.where(in_list(CASE.c.case_ref, "refs")).with_for_update()
_THESE_REQUESTS: Final = SELECT_REQUESTS.where(in_list(REQUEST.c.request_ref, "refs"))
INSERT_CASES: Final = Insert(CASE, FIELDS, conflict="nothing", returning=("case_ref",))
UPDATE_CASES: Final = Update(CASE, ("case_ref",), FIELDS[1:])
_REQUEST: Final = ("request_ref", "case_ref", "recipient_ref", "template", "step", "expires_at", "ended")
INSERT_REQUESTS: Final = Insert(REQUEST, _REQUEST)
SET_OUTCOMES: Final = Update(REQUEST, ("request_ref",), ("outcome",))


class StoredRequest(NamedTuple):
    """A request as stored; `outcome` is the last that notify told of it."""

    request_ref: str
    case_ref: str | None
    recipient_ref: str
    template: str
    step: str
    outcome: str | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Draft:
    """A message about to be asked for, with the times that go with it."""

    case_ref: str
    message: Message
    recipient_ref: str
    expires_at: datetime
    hold_deadline: datetime | None


def cases(conn: Connection, *conditions: Any) -> list[Case]:
    """Cases by conditions on their table."""
    return [case_of(row) for row in conn.execute(SELECT_CASES.where(*conditions))]


def case_of(row: Row[Any]) -> Case:
    values = dict(row._mapping)
    return Case(**{**values, "notes": tuple(values["notes"].split())})


def case_row(case: Case) -> tuple[Any, ...]:
    """A case's values in the order of FIELDS."""
    values = _VALUES(case)
    return (*values[:_NOTES], " ".join(case.notes), *values[_NOTES + 1 :])


def requests(conn: Connection, *conditions: Any) -> list[StoredRequest]:
    """Requests by conditions on their table."""
    return [_asked_of(row) for row in conn.execute(SELECT_REQUESTS.where(*conditions))]


def these_requests(conn: Connection, refs: Iterable[str]) -> dict[str, StoredRequest]:
    """Requests by reference; those we have forgotten are missing."""
    return {row.request_ref: _asked_of(row) for row in conn.execute(_THESE_REQUESTS, {"refs": list(refs)})}


def _asked_of(row: Row[Any]) -> StoredRequest:
    return StoredRequest(*(getattr(row, name) for name in StoredRequest._fields))


def requested(draft: Draft) -> MessageRequested:
    """The event for a draft, with a new reference; times go up to whole buckets."""
    message, deadline = draft.message, draft.hold_deadline
    return MessageRequested(
        request_ref=new_ref(),
        case_ref=draft.case_ref,
        step=message.step,
        recipient_ref=draft.recipient_ref,
        template=message.template,
        options=message.options,
        urgency=message.urgency,
        not_before=bucket_up(message.not_before) if message.not_before else None,
        hold_deadline=bucket_up(deadline) if deadline else None,
        expires_at=bucket_up(draft.expires_at),
    )


def request_row(event: MessageRequested, *, loose: bool) -> tuple[Any, ...]:
    case_ref = None if loose else event.case_ref
    row = (event.request_ref, case_ref, event.recipient_ref, event.template, event.step)
    return (*row, event.expires_at, False)


def insert_requests(conn: Connection, drafts: Iterable[tuple[MessageRequested, bool]]) -> None:
    """Store requests; the flag says whether one is loose."""
    rows: Sequence[tuple[Any, ...]] = [request_row(event, loose=loose) for event, loose in drafts]
    INSERT_REQUESTS.run(conn, rows)

"""The SQL of cases: their rows and what goes with them, to values and back; statements are built once."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    delete,
    false,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
)

from leeward.contracts import MessageRequested
from leeward.refs import new_ref
from leeward.store import Insert, Update, table_of
from leeward.store.lookup import in_list, rows_of
from services.matching.lifecycle.case import OVER, UNANSWERED, Attention, Case
from services.matching.lifecycle.hours import AFTER_NIGHT, LOOK_AHEAD
from services.matching.lifecycle.steps import LIMIT
from services.matching.models import (
    Entry,
    Exposure,
    PublishedIncident,
    Refusal,
    RequestRow,
    RosterPerson,
    Shift,
    SupportCase,
    SupporterLoad,
)

CASE: Final = table_of(SupportCase)
REQUEST: Final = table_of(RequestRow)
_ENTRY: Final = table_of(Entry)
_EXPOSURE: Final = table_of(Exposure)
_INCIDENT: Final = table_of(PublishedIncident)
_LOAD: Final = table_of(SupporterLoad)
_PERSON: Final = table_of(RosterPerson)
_REFUSAL: Final = table_of(Refusal)
_SHIFT: Final = table_of(Shift)

# the states in which a message has left
ON_ITS_WAY: Final = frozenset({"handed_off", "delivered"})
# heard of even after the request has ended: somebody may have the message
MAY_BE_THERE: Final = ON_ITS_WAY | {"unknown"}

Condition: TypeAlias = ColumnElement[bool]


# --- cases ---

_FIELDS: Final = tuple(field.name for field in fields(Case))
_VALUES: Final = attrgetter(*_FIELDS)
_LISTS: Final = tuple(_FIELDS.index(name) for name in ("attention", "notes"))
SELECT_CASES: Final = select(*(CASE.c[name] for name in _FIELDS))
_LOCK_CASES: Final = SELECT_CASES.with_for_update()
_LOCK_BY_REF: Final = _LOCK_CASES.where(in_list(CASE.c.case_ref))
_INSERT_CASES: Final = Insert(CASE, _FIELDS, conflict="nothing", returning=("case_ref",))
_UPDATE_CASES: Final = Update(CASE, ("case_ref",), _FIELDS[1:])
_OPEN: Final = CASE.c.stage.not_in(sorted(OVER))
# not only IS NOT NULL: by this an index leaves out those that are forgotten, which are nearly all
_NAMES_SOMEBODY: Final = CASE.c.person_ref > ""


class OpenedElsewhere(Exception):
    """Another replica has opened a case for the same person meanwhile: the work runs again and finds it."""


def read_cases(conn: Connection, *conditions: Condition) -> list[Case]:
    """The cases that fit."""
    return [case_of(row) for row in conn.execute(SELECT_CASES.where(*conditions))]


def lock_cases(conn: Connection, condition: Condition) -> list[Case]:
    """The cases that fit; locked where the database can."""
    return [case_of(row) for row in conn.execute(_LOCK_CASES.where(condition))]


def lock_by_ref(conn: Connection, case_refs: Iterable[str]) -> list[Case]:
    """Cases by reference; locked where the database can."""
    return [case_of(row) for row in rows_of(conn, _LOCK_BY_REF, case_refs)]


def insert_cases(conn: Connection, cases: Sequence[Case]) -> None:
    """Store new cases.

    Raises:
        OpenedElsewhere: when one of their persons has an open case by now.
    """
    if len(_INSERT_CASES.run(conn, [_case_row(case) for case in cases])) < len(cases):
        raise OpenedElsewhere


def update_cases(conn: Connection, cases: Iterable[Case]) -> None:
    """Write cases that are stored already."""
    _UPDATE_CASES.run(conn, [_case_row(case) for case in cases])


def case_of(row: Row[Any]) -> Case:
    """A case from a row of `SELECT_CASES`."""
    values = dict(row._mapping)
    return Case(**{**values, "attention": tuple(values["attention"].split()), "notes": tuple(values["notes"].split())})


def _case_row(case: Case) -> tuple[Any, ...]:
    values = list(_VALUES(case))
    for place in _LISTS:
        values[place] = " ".join(values[place])
    return tuple(values)


# --- conditions on cases ---


def has_ref(case_ref: str) -> Condition:
    """The case of that reference."""
    return CASE.c.case_ref == case_ref


def is_open_of(persons: Collection[str]) -> Condition:
    """Open cases of these persons."""
    return CASE.c.person_ref.in_(persons) & _OPEN


def is_about(incident_refs: Collection[str]) -> Condition:
    """Cases that rest on one of these incidents."""
    return CASE.c.incident_ref.in_(incident_refs)


def has_reason(reason: Attention) -> Condition:
    """Cases that are on the coordinator's list for this; no reason's name is a part of another's."""
    return CASE.c.attention.contains(reason)


def names_somebody() -> Condition:
    """Cases that still tie a person to them."""
    return _NAMES_SOMEBODY


def has_supporter() -> Condition:
    return CASE.c.supporter.is_not(None)


def ties(persons: Collection[str]) -> Condition:
    """Cases of these persons, and those that they support."""
    return or_(CASE.c.person_ref.in_(persons), CASE.c.supporter.in_(persons))


def was_rehearsed() -> Condition:
    """Cases of a rehearsal that still name their person."""
    return CASE.c.notes.contains("rehearsal") & _NAMES_SOMEBODY


def may_be_due(now: datetime, sent_by: datetime) -> Condition:
    """Cases that the hourly round may change; an offer whose case ends before `sent_by` should have left by now."""
    lapsed = and_(CASE.c.stage.in_((*UNANSWERED, "ended")), CASE.c.ends_at <= now)
    unsent = and_(CASE.c.stage == "waiting", CASE.c.ends_at <= sent_by)
    unsupported = has_reason("no_supporter")
    old = CASE.c.occurred_at <= now - LIMIT
    return _NAMES_SOMEBODY & or_(lapsed, unsent, unsupported, old)


# --- requests ---

_REQUEST: Final = ("request_ref", "case_ref", "recipient_ref", "template", "step", "expires_at", "ended")
_SELECT_REQUESTS: Final = select(REQUEST)
_REQUESTS_BY_REF: Final = _SELECT_REQUESTS.where(in_list(REQUEST.c.request_ref))
_INSERT_REQUESTS: Final = Insert(REQUEST, _REQUEST)
_SET_OUTCOMES: Final = Update(REQUEST, ("request_ref",), ("outcome",))


class StoredRequest(NamedTuple):
    """A request as stored; `outcome` is the last state that notify published of it."""

    request_ref: str
    case_ref: str | None
    recipient_ref: str
    template: str
    message_name: str
    outcome: str | None
    ended: bool


def read_requests(conn: Connection, *conditions: Condition) -> list[StoredRequest]:
    """The requests that fit."""
    return [_request_of(row) for row in conn.execute(_SELECT_REQUESTS.where(*conditions))]


def requests_by_ref(conn: Connection, request_refs: Iterable[str]) -> dict[str, StoredRequest]:
    """Requests by reference; those that are forgotten are missing."""
    return {row.request_ref: _request_of(row) for row in rows_of(conn, _REQUESTS_BY_REF, request_refs)}


def _request_of(row: Row[Any]) -> StoredRequest:
    return StoredRequest(
        row.request_ref, row.case_ref, row.recipient_ref, row.template, row.step, row.outcome, row.ended
    )


def insert_requests(conn: Connection, requested: Iterable[tuple[MessageRequested, bool]]) -> None:
    """Store requests; the flag says whether one is loose, which ties it to no case."""
    _INSERT_REQUESTS.run(
        conn,
        [
            (
                event.request_ref,
                None if loose else event.case_ref,
                event.recipient_ref,
                event.template,
                event.step,
                event.expires_at,
                False,
            )
            for event, loose in requested
        ],
    )


def record_outcomes(conn: Connection, outcomes: Mapping[str, str]) -> None:
    """Note the last state of each of these requests."""
    _SET_OUTCOMES.run(conn, list(outcomes.items()))


def end_requests(conn: Connection, case_ref: str, which: str) -> list[str]:
    """End a case's requests, `all`, the `supporter`'s, or the person's `unsent` ones; gives their references."""
    conditions = [REQUEST.c.case_ref == case_ref, REQUEST.c.ended.is_(False)]
    if which == "unsent":
        conditions += [REQUEST.c.outcome.is_(None), REQUEST.c.template != "supporter_request"]
    if which == "supporter":
        conditions.append(REQUEST.c.template == "supporter_request")
    ended = [request.request_ref for request in read_requests(conn, *conditions)]
    if ended:
        conn.execute(REQUEST.update().where(REQUEST.c.request_ref.in_(ended)).values(ended=True))
    return ended


def turn_into_offer(conn: Connection, request_ref: str, case_ref: str) -> None:
    """Tie a request to a case, whose offer it is from now on."""
    mine = REQUEST.c.request_ref == request_ref
    conn.execute(REQUEST.update().where(mine).values(case_ref=case_ref, template="offer"))


def delete_loose_requests(conn: Connection, recipients: Collection[str]) -> list[str]:
    """Delete the requests of these recipients that belong to no case; gives their references."""
    theirs = REQUEST.c.case_ref.is_(None) & REQUEST.c.recipient_ref.in_(recipients)
    return list(conn.execute(delete(REQUEST).where(theirs).returning(REQUEST.c.request_ref)).scalars())


def cases_with_offer_sent(
    conn: Connection, case_refs: Collection[str], outcomes: Collection[str] = MAY_BE_THERE
) -> set[str | None]:
    """Those of these cases of which an offer has left, or may have; with ON_ITS_WAY those of which one surely has."""
    left = REQUEST.c.case_ref.in_(case_refs) & (REQUEST.c.template == "offer") & REQUEST.c.outcome.in_(outcomes)
    return set(conn.execute(select(REQUEST.c.case_ref).where(left)).scalars())


# --- persons, refusals, what the coordinator is shown ---

_SET_QUIET: Final = Update(_PERSON, ("person_ref",), ("quiet_until",))
_INSERT_REFUSALS: Final = Insert(_REFUSAL, ("person_ref", "supporter_ref"), conflict="nothing")
_INSERT_EXPOSURES: Final = Insert(_EXPOSURE, ("incident_ref", "who", "reviewer"), conflict="nothing")
_INSERT_ENTRIES: Final = Insert(
    _ENTRY, ("entry_ref", "kind", "about", "created_at"), conflict="nothing", keys=("kind", "about")
)


def set_quiet(conn: Connection, until: Mapping[str, datetime]) -> None:
    """When each of these persons may be written to again."""
    _SET_QUIET.run(conn, sorted(until.items()))


def insert_refusal(conn: Connection, person_ref: str, supporter_ref: str) -> None:
    """Never these two; once."""
    _INSERT_REFUSALS.run(conn, [(person_ref, supporter_ref)])


def insert_entries(conn: Connection, entries: Iterable[tuple[str, str]], now: datetime) -> None:
    """Entries of the coordinator's list by kind and what they are about; each once."""
    _INSERT_ENTRIES.run(conn, [(new_ref(), kind, about, now) for kind, about in entries])


def forget_person(conn: Connection, case_ref: str, person_ref: str) -> list[str]:
    """Delete a case's requests and the person's exposures; gives the incidents that the person was around.

    Of an incident it stays known that an offer had left.
    """
    offered = bool(cases_with_offer_sent(conn, [case_ref]))
    conn.execute(delete(REQUEST).where(REQUEST.c.case_ref == case_ref))
    theirs = delete(_EXPOSURE).where(_EXPOSURE.c.who == person_ref).returning(_EXPOSURE.c.incident_ref)
    incidents = list(conn.execute(theirs).scalars())
    if offered:
        conn.execute(_INCIDENT.update().where(_INCIDENT.c.incident_ref.in_(incidents)).values(offered=True))
    return incidents


def insert_fingerprints(conn: Connection, fingerprints: Iterable[tuple[str, str]]) -> None:
    """That somebody was around each incident, by a digest that does not say who."""
    _INSERT_EXPOSURES.run(conn, [(incident_ref, digest, False) for incident_ref, digest in fingerprints])


# --- what decides whether somebody may be written to ---

_THESE: Final = select(_PERSON.c.person_ref, _PERSON.c.quiet_until).where(in_list(_PERSON.c.person_ref)).cte("these")
_NAMED: Final = select(_THESE.c.person_ref)
_NOTHING: Final = (null(), null(), null())
_AVAILABILITY: Final = union_all(
    select(literal_column("'shift'").label("what"), _SHIFT.c.person_ref, null(), _SHIFT.c.starts_at, _SHIFT.c.ends_at)
    .where(_SHIFT.c.person_ref.in_(_NAMED), _SHIFT.c.on_call.is_(False))
    .where(_SHIFT.c.ends_at > bindparam("over"), _SHIFT.c.starts_at < bindparam("ahead")),
    select(literal_column("'quiet'"), _THESE.c.person_ref, *_NOTHING).where(_THESE.c.quiet_until > bindparam("now")),
    select(literal_column("'open'"), CASE.c.person_ref, *_NOTHING).where(CASE.c.person_ref.in_(_NAMED), _OPEN),
    select(literal_column("'refused'"), _REFUSAL.c.person_ref, _REFUSAL.c.supporter_ref, null(), null()).where(
        _REFUSAL.c.person_ref.in_(_NAMED)
    ),
)


def availability_rows(conn: Connection, persons: Collection[str], now: datetime) -> Iterator[tuple[Any, ...]]:
    """(what, person, supporter, starts, ends) of these persons; what is shift, quiet, open or refused."""
    times = {"now": now, "over": now - AFTER_NIGHT, "ahead": now + LOOK_AHEAD}
    return map(tuple, conn.execute(_AVAILABILITY, {"keys": list(persons), **times}))


# --- what a search for a supporter knows ---

_REFUSED: Final = select(_REFUSAL.c.person_ref, _REFUSAL.c.supporter_ref).where(in_list(_REFUSAL.c.person_ref))
_EXPOSED: Final = select(_EXPOSURE.c.who, _EXPOSURE.c.incident_ref).where(in_list(_EXPOSURE.c.who))
_AROUND: Final = select(_EXPOSURE.c.incident_ref, _EXPOSURE.c.who).where(in_list(_EXPOSURE.c.incident_ref))
_ASKED: Final = select(REQUEST.c.case_ref, REQUEST.c.recipient_ref).where(
    in_list(REQUEST.c.case_ref), REQUEST.c.template == "supporter_request"
)
_LOADS: Final = union_all(
    select(_LOAD, false().label("on_call")).where(
        or_(
            _LOAD.c.active > 0,
            _LOAD.c.month == bindparam("month"),
            _LOAD.c.rest_until > bindparam("now"),
            _LOAD.c.exposed_until > bindparam("now"),
        )
    ),
    select(
        _SHIFT.c.person_ref, literal_column("0"), literal_column("''"), literal_column("0"), null(), null(), true()
    ).where(_SHIFT.c.on_call, _SHIFT.c.ends_at > bindparam("now"), _SHIFT.c.starts_at <= bindparam("now")),
)
_INSERT_LOADS: Final = Insert(
    _LOAD, ("supporter_ref", "active", "month", "minutes"), conflict="nothing", keys=("supporter_ref",)
)
_TAKE_PLACE: Final = (
    _LOAD.update()
    .where(_LOAD.c.supporter_ref == bindparam("supporter"), _LOAD.c.active < bindparam("most"))
    .values(active=_LOAD.c.active + 1)
)


def month_of(now: datetime) -> str:
    """The month that minutes are booked in, such as 2026-11."""
    return now.strftime("%Y-%m")


def load_rows(conn: Connection, now: datetime) -> Sequence[Row[Any]]:
    """Rows of loads that are not zero, and, with `on_call` true, of those on duty for support now."""
    return conn.execute(_LOADS, {"now": now, "month": month_of(now)}).all()


def refused_by(conn: Connection, persons: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """(person, supporter) whom these persons refused."""
    return map(tuple, rows_of(conn, _REFUSED, persons))


def asked_before(conn: Connection, case_refs: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """(case, recipient) of the supporters that these cases have asked."""
    return map(tuple, rows_of(conn, _ASKED, case_refs))


def incidents_of(conn: Connection, persons: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """(person, incident) that these persons were around."""
    return map(tuple, rows_of(conn, _EXPOSED, persons))


def those_around(conn: Connection, incident_refs: Iterable[str]) -> Iterator[tuple[Any, ...]]:
    """(incident, who) was around, reviewers too: references, or digests of them."""
    return map(tuple, rows_of(conn, _AROUND, incident_refs))


def insert_loads(conn: Connection, supporters: Collection[str]) -> None:
    """Make sure that each of these supporters has a row whose places can be taken."""
    _INSERT_LOADS.run(conn, [(ref, 0, "", 0) for ref in sorted(supporters)])


def take_place(conn: Connection, supporter_ref: str, most: int) -> bool:
    """Take one place of a supporter, if fewer than `most` are taken when the row is locked."""
    return conn.execute(_TAKE_PLACE, {"supporter": supporter_ref, "most": most}).rowcount == 1


def release_place(
    conn: Connection, supporter_ref: str, now: datetime, minutes: int, rest_until: datetime | None
) -> None:
    """Give a place back, book minutes to this month, and let the supporter rest."""
    mine = _LOAD.c.supporter_ref == supporter_ref
    row = conn.execute(select(_LOAD).where(mine).with_for_update()).one()
    month = month_of(now)
    booked = (row.minutes if row.month == month else 0) + minutes
    rest = max((until for until in (row.rest_until, rest_until) if until), default=None)
    changes = {"active": max(0, row.active - 1), "month": month, "minutes": booked, "rest_until": rest}
    conn.execute(_LOAD.update().where(mine).values(**changes))

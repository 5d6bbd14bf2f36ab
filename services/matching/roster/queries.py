"""The SQL of the roster and the rota; statements are built once."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, select

from leeward.store import Insert, Update, table_of
from services.matching.models import LineManager, RosterPerson, RosterVersion, Shift

_PERSON: Final = table_of(RosterPerson)
_MANAGER: Final = table_of(LineManager)
_VERSION: Final = table_of(RosterVersion)
_SHIFT: Final = table_of(Shift)

# what a roster says about a person
GIVEN: Final = (
    "recipient_ref",
    "profession",
    "unit",
    "languages",
    "timezone",
    "status",
    "supporter",
    "trained_on",
    "training_ends",
    "max_active",
)
_SELECT_GIVEN: Final = select(_PERSON.c.person_ref, *(_PERSON.c[name] for name in GIVEN))
_SELECT_PEOPLE: Final = _SELECT_GIVEN.add_columns(_PERSON.c.reachable)
_SELECT_MANAGERS: Final = select(_MANAGER.c.person_ref, _MANAGER.c.manager_ref)
_SELECT_VERSION: Final = select(_VERSION.c.version).where(_VERSION.c.name == "roster")
_INSERT_PEOPLE: Final = Insert(_PERSON, ("person_ref", *GIVEN, "reachable", "since", "monthly"))
_UPDATE_PEOPLE: Final = Update(_PERSON, ("person_ref",), GIVEN)
_SET_STATUS: Final = Update(_PERSON, ("person_ref",), ("status",))
_INSERT_MANAGERS: Final = Insert(_MANAGER, ("person_ref", "manager_ref"))
_SET_VERSION: Final = Insert(_VERSION, ("name", "version"), conflict="replace", keys=("name",))
_INSERT_SHIFTS: Final = Insert(
    _SHIFT,
    ("unit", "person_ref", "starts_at", "ends_at", "on_call"),
    conflict="replace",
    keys=("unit", "person_ref", "starts_at"),
)


def read_version(conn: Connection) -> str:
    """The version of the roster, empty before the first import."""
    return conn.execute(_SELECT_VERSION).scalar() or ""


def set_version(conn: Connection, version: str) -> None:
    """Write the version of the roster."""
    _SET_VERSION.run(conn, [("roster", version)])


def read_people(conn: Connection) -> Iterable[Row[Any]]:
    """Everybody: what the roster says about them, and `reachable`."""
    return conn.execute(_SELECT_PEOPLE)


def read_given(conn: Connection) -> dict[str, tuple[Any, ...]]:
    """What the roster says about everybody, by person_ref, in the order of GIVEN."""
    return {row.person_ref: tuple(row[1:]) for row in conn.execute(_SELECT_GIVEN)}


def insert_people(
    conn: Connection, given: Mapping[str, Sequence[Any]], reachable: Collection[str], now: datetime
) -> None:
    """Store new people by person_ref; `reachable` are those with an address."""
    _INSERT_PEOPLE.run(conn, [(ref, *values, ref in reachable, now, "none") for ref, values in given.items()])


def update_people(conn: Connection, given: Mapping[str, Sequence[Any]]) -> None:
    """Write what the roster says about people who are stored already."""
    _UPDATE_PEOPLE.run(conn, [(ref, *values) for ref, values in given.items()])


def set_left(conn: Connection, persons: Iterable[str]) -> None:
    """These persons have left."""
    _SET_STATUS.run(conn, [(ref, "left") for ref in persons])


def read_managers(conn: Connection) -> set[tuple[str, str]]:
    """(person, manager) of every line of management."""
    return {(person, manager) for person, manager in conn.execute(_SELECT_MANAGERS)}


def replace_managers(conn: Connection, lines: Iterable[tuple[str, str]]) -> None:
    """Write every line of management."""
    conn.execute(delete(_MANAGER))
    _INSERT_MANAGERS.run(conn, sorted(lines))


def delete_shifts(conn: Connection, unit: str, first: datetime) -> None:
    """Delete a unit's shifts from this start on."""
    conn.execute(delete(_SHIFT).where(_SHIFT.c.unit == unit, _SHIFT.c.starts_at >= first))


def insert_shifts(conn: Connection, rows: Sequence[tuple[str, str, datetime, datetime, bool]]) -> None:
    """Store shifts by unit, person, start, end and whether they are on call; the newer one of two stays."""
    _INSERT_SHIFTS.run(conn, rows)

"""The work queue: identifiers that led to nobody. It shows an identifier alone; what it is linked to is never shown."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, delete, select, update

from leeward.contracts import IncidentAmended, Involved
from leeward.refs import new_ref
from leeward.store import Insert, Unit, Update
from leeward.store.lookup import AT_ONCE, in_list, rows_of
from services.incident.decisions.claims import Identifier, Mention
from services.incident.models import IncidentRow, InvolvedRow, StaffIdentifier, Unmatched, UnmatchedLink, table_of
from services.incident.sealing import Box, open_identifier, seal_identifier

UNMATCHED: Final = table_of(Unmatched)
_LINK: Final = table_of(UnmatchedLink)
_INCIDENT: Final = table_of(IncidentRow)
_STAFF: Final = table_of(StaffIdentifier)
_FIND: Final = select(UNMATCHED.c.key_hash, UNMATCHED.c.unmatched_ref, UNMATCHED.c.state).where(
    in_list(UNMATCHED.c.key_hash)
)
_LINKED: Final = (
    select(
        UNMATCHED.c.key_hash,
        UNMATCHED.c.unmatched_ref,
        _LINK.c.reviewer,
        _INCIDENT.c.incident_ref,
        _INCIDENT.c.state,
    )
    .outerjoin(_LINK, _LINK.c.unmatched_ref == UNMATCHED.c.unmatched_ref)
    .outerjoin(_INCIDENT, _INCIDENT.c.incident_ref == _LINK.c.incident_ref)
    .where(in_list(UNMATCHED.c.key_hash))
)
_NEW: Final = Insert(UNMATCHED, ("unmatched_ref", "key_hash", "state", "sealed", "seen_on"))
_TOUCH: Final = Update(UNMATCHED, ("unmatched_ref",), ("state",))
_LINKS: Final = Insert(_LINK, ("unmatched_ref", "incident_ref", "reviewer"), conflict="nothing")
_INVOLVED: Final = Insert(
    table_of(InvolvedRow),
    ("incident_ref", "person_ref", "reviewer"),
    conflict="nothing",
    keys=("incident_ref", "person_ref"),
    returning=("incident_ref", "person_ref", "reviewer"),
)
_STAFF_ROWS: Final = Insert(
    _STAFF, ("key_hash", "person_ref", "alias", "active"), conflict="replace", keys=("key_hash",)
)


def touch(unit: Unit, incidents: Collection[str]) -> None:
    """Write these incidents as they are.

    Whoever adds people to one, and whoever confirms it or takes it back at that moment on another replica, must not
    both go by what was before.
    """
    refs = sorted(incidents)
    for start in range(0, len(refs), AT_ONCE):
        these = _INCIDENT.c.incident_ref.in_(refs[start : start + AT_ONCE])
        unit.conn.execute(update(_INCIDENT).where(these).values(state=_INCIDENT.c.state))


class NotInQueue(Exception):
    """There is no such open row."""


class NotOnRoster(Exception):
    """An identifier that leads to nobody who is there now."""


@dataclass(slots=True)
class Queue:
    """What one batch puts in the queue."""

    box: Box
    _found: dict[str, Identifier] = field(default_factory=dict)
    _links: dict[tuple[str, str], bool] = field(default_factory=dict)

    def put(self, key: str, mention: Mention, incident_ref: str) -> None:
        """An identifier (by its hash) that an incident names and no roster knows."""
        self._found[key] = mention.identifier
        self._links[key, incident_ref] = self._links.get((key, incident_ref), False) or mention.reviewer

    def write(self, unit: Unit) -> None:
        """Rows for identifiers not yet in the queue, links for all that nobody told us to ignore."""
        if not self._found:
            return
        rows = {row.key_hash: row for row in rows_of(unit.conn, _FIND, self._found)}
        refs = {key: row.unmatched_ref for key, row in rows.items() if row.state == "open"}
        # written: whoever settles one of these on another replica must see the incidents that name it now
        _TOUCH.run(unit.conn, [(ref, "open") for ref in sorted(refs.values())])
        new = []
        for key, identifier in self._found.items():
            if key not in rows:
                refs[key] = new_ref()
                sealed = seal_identifier(self.box, refs[key], identifier)
                new.append((refs[key], key, "open", sealed, unit.now.date()))
        _NEW.run(unit.conn, new)
        links = [(refs[key], incident, flag) for (key, incident), flag in self._links.items() if key in refs]
        _LINKS.run(unit.conn, links)


def list_open(conn: Connection, box: Box, after: str | None, limit: int) -> list[tuple[str, Identifier]]:
    """Open rows with their identifiers, in the order of their random references."""
    query = select(UNMATCHED).where(UNMATCHED.c.state == "open", UNMATCHED.c.unmatched_ref > (after or ""))
    rows = conn.execute(query.order_by(UNMATCHED.c.unmatched_ref).limit(limit))
    return [(row.unmatched_ref, open_identifier(box, row.unmatched_ref, row.sealed)) for row in rows]


def find_open(conn: Connection, unmatched_ref: str) -> Any:
    """An open row, None where there is none."""
    return conn.execute(
        select(UNMATCHED).where(UNMATCHED.c.unmatched_ref == unmatched_ref, UNMATCHED.c.state == "open")
    ).one_or_none()


def settle_identifier(unit: Unit, unmatched_ref: str, same_as: str | None) -> str:
    """What a coordinator says of a row: whose it is, by the hash of an identifier on the roster, or nobody's (None).

    Gives what became of it: resolved or ignored.

    Raises:
        NotInQueue: it was settled before, or never was.
        NotOnRoster: nobody is known by that hash.
    """
    row = find_open(unit.conn, unmatched_ref)
    if row is None:
        raise NotInQueue
    if same_as is None:
        ignore_identifier(unit, unmatched_ref)
        return "ignored"
    person = select(_STAFF.c.person_ref).where(_STAFF.c.key_hash == same_as, _STAFF.c.active)
    person_ref: str | None = unit.conn.execute(person).scalar()
    if person_ref is None:
        raise NotOnRoster
    add_alias(unit, row, person_ref)
    return "resolved"


def ignore_identifier(unit: Unit, unmatched_ref: str) -> None:
    """Nobody's identifier: keep its hash alone, so that it does not come back."""
    unit.conn.execute(delete(_LINK).where(_LINK.c.unmatched_ref == unmatched_ref))
    unit.conn.execute(
        update(UNMATCHED).where(UNMATCHED.c.unmatched_ref == unmatched_ref).values(state="ignored", sealed="")
    )


def add_alias(unit: Unit, row: Any, person_ref: str) -> None:
    """The row's identifier is another one of this person's: remember it and serve what it is linked to."""
    _STAFF_ROWS.run(unit.conn, [(row.key_hash, person_ref, True, True)])
    resolve_identifiers(unit, {row.key_hash: person_ref})


def resolve_known(unit: Unit) -> None:
    """Identifiers that came in the moment in which another process imported them."""
    known = select(_STAFF.c.key_hash, _STAFF.c.person_ref).where(_STAFF.c.active)
    rows = unit.conn.execute(known.join(UNMATCHED, UNMATCHED.c.key_hash == _STAFF.c.key_hash)).all()
    if rows:
        resolve_identifiers(unit, {row.key_hash: row.person_ref for row in rows})


def resolve_identifiers(unit: Unit, people: dict[str, str]) -> None:
    """Identifiers (by hash) that now lead to people leave the queue; their incidents are amended."""
    rows = list(rows_of(unit.conn, _LINKED, people))
    states = {row.incident_ref: row.state for row in rows if row.state in ("recorded", "review")}
    touch(unit, states)
    pairs: dict[tuple[str, str], bool] = {}
    for row in rows:
        if row.incident_ref in states:
            pair = row.incident_ref, people[row.key_hash]
            pairs[pair] = pairs.get(pair, False) or row.reviewer
    new = _INVOLVED.run(unit.conn, [(*pair, flag) for pair, flag in pairs.items()])
    for ref in sorted({row.incident_ref for row in new if states[row.incident_ref] == "recorded"}):
        involved = [
            Involved(person_ref=one.person_ref, reviewer=one.reviewer) for one in new if one.incident_ref == ref
        ]
        unit.emit(IncidentAmended(incident_ref=ref, involved=tuple(involved)))
    gone = {row.unmatched_ref for row in rows}
    for table in (_LINK, UNMATCHED):
        unit.conn.execute(delete(table).where(table.c.unmatched_ref.in_(gone)))

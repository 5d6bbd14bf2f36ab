"""The work queue: identifiers that led to nobody. It shows an identifier alone; what it is linked to is never shown."""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from leeward.contracts import IncidentAmended, Involved
from leeward.refs import new_ref
from leeward.store import Unit
from services.incident.decisions.claims import Identifier, Mention
from services.incident.intake import repository
from services.incident.sealing import Box, open_identifier, seal_identifier


class NotInQueue(Exception):
    """There is no such open row."""


class NotOnRoster(Exception):
    """An identifier that leads to nobody who is there now."""


@dataclass
class Queue:
    """What one batch adds to the queue."""

    box: Box
    _found: dict[str, Identifier] = field(default_factory=dict)
    _links: dict[tuple[str, str, datetime], bool] = field(default_factory=dict)

    def put(self, key: str, mention: Mention, incident_ref: str, occurred_at: datetime) -> None:
        """An identifier (by its hash) that an incident names and no roster knows."""
        self._found[key] = mention.identifier
        link = key, incident_ref, occurred_at
        self._links[link] = self._links.get(link, False) or mention.reviewer

    def write(self, unit: Unit) -> None:
        """Rows for identifiers not yet in the queue, links for all that nobody told us to ignore."""
        if not self._found:
            return
        rows = repository.find_unmatched(unit.conn, self._found)
        refs = {key: row.unmatched_ref for key, row in rows.items() if row.state == "open"}
        repository.conflict_on_unmatched(unit, set(refs.values()))
        new = []
        for key, identifier in self._found.items():
            if key not in rows:
                refs[key] = new_ref()
                sealed = seal_identifier(self.box, refs[key], identifier)
                new.append((refs[key], key, "open", sealed, unit.now.date()))
        links = [(refs[key], ref, flag, at) for (key, ref, at), flag in self._links.items() if key in refs]
        repository.insert_unmatched(unit.conn, new, links)


def list_open(conn: Connection, box: Box, after: str | None, limit: int) -> list[tuple[str, Identifier]]:
    """Open rows with their identifiers, in the order of their random references."""
    rows = repository.list_unmatched(conn, after or "", limit)
    return [(row.unmatched_ref, open_identifier(box, row.unmatched_ref, row.sealed)) for row in rows]


def settle_identifier(unit: Unit, unmatched_ref: str, same_as: str | None) -> str:
    """What a coordinator says of a row: whose it is, by the hash of an identifier on the roster, or nobody's (None).

    Gives what became of it: resolved or ignored.

    Raises:
        NotInQueue: it was settled before, or never was.
        NotOnRoster: nobody is known by that hash.
    """
    row = repository.find_open(unit.conn, unmatched_ref)
    if row is None:
        raise NotInQueue
    if same_as is None:
        repository.ignore_unmatched(unit.conn, unmatched_ref)
        return "ignored"
    person_ref = repository.find_person(unit.conn, same_as)
    if person_ref is None:
        raise NotOnRoster
    add_alias(unit, row.key_hash, person_ref)
    return "resolved"


def add_alias(unit: Unit, key_hash: str, person_ref: str) -> None:
    """An identifier of the queue is another one of this person's: remember it and serve what it is linked to."""
    repository.insert_alias(unit.conn, key_hash, person_ref)
    resolve_identifiers(unit, {key_hash: person_ref})


def resolve_known(unit: Unit) -> None:
    """Identifiers that came in the moment in which another process imported them."""
    if people := repository.list_matched(unit.conn):
        resolve_identifiers(unit, people)


def resolve_identifiers(unit: Unit, people: dict[str, str]) -> None:
    """Identifiers (by hash) that now lead to people leave the queue; their incidents are amended."""
    rows = repository.find_linked(unit.conn, people)
    states = {row.incident_ref: row.state for row in rows if row.state in ("recorded", "review")}
    repository.conflict_on_incidents(unit, states)
    pairs: dict[tuple[str, str], bool] = {}
    for row in rows:
        if row.incident_ref in states:
            pair = row.incident_ref, people[row.key_hash]
            pairs[pair] = pairs.get(pair, False) or row.reviewer
    times = {row.incident_ref: row.occurred_at for row in rows}
    new = repository.insert_involved(unit.conn, [(*pair, flag, times[pair[0]]) for pair, flag in pairs.items()])
    for ref in sorted({row.incident_ref for row in new if states[row.incident_ref] == "recorded"}):
        involved = [
            Involved(person_ref=one.person_ref, reviewer=one.reviewer) for one in new if one.incident_ref == ref
        ]
        unit.emit(IncidentAmended(incident_ref=ref, involved=tuple(involved)))
    repository.delete_unmatched(unit.conn, {row.unmatched_ref for row in rows})

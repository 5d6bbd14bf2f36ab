"""The roster in memory, read again when its version has changed: another process may import at any time."""

from collections import defaultdict
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Connection

from leeward.people import GONE
from leeward.store import Unit
from services.matching.pairing.scoring import Pool, Profile, Supporter
from services.matching.roster import queries


@dataclass(frozen=True, slots=True)
class Colleague:
    """One member of staff, as far as choosing and reaching need."""

    person_ref: str
    recipient_ref: str
    profile: Profile
    timezone: str
    status: str
    reachable: bool

    @property
    def here(self) -> bool:
        return self.status not in GONE


@dataclass(frozen=True, slots=True)
class People:
    """One version of the roster. `related` holds line managers and those managed, either way."""

    version: str
    known: dict[str, Colleague]
    by_recipient: dict[str, str]
    related: dict[str, frozenset[str]]
    pool: Pool

    def barred_for(self, person_ref: str) -> frozenset[str]:
        """Those who may never support this person whatever the event: themselves, and their line either way."""
        return self.related.get(person_ref, frozenset()) | {person_ref}


class Roster:
    """Keeps the newest version that was read."""

    def __init__(self) -> None:
        self._people: People | None = None

    def read(self, conn: Connection) -> People:
        """The roster as it stands in this transaction."""
        version = queries.read_version(conn)
        if self._people is None or self._people.version != version:
            self._people = load_people(conn, version)
        return self._people


def load_people(conn: Connection, version: str) -> People:
    """Read the whole roster."""
    known, supporters = {}, []
    for row in queries.read_people(conn):
        profile = Profile(row.profession, row.unit, tuple(row.languages.split()))
        known[row.person_ref] = Colleague(
            row.person_ref, row.recipient_ref, profile, row.timezone, row.status, row.reachable
        )
        if row.supporter:
            ready = row.status == "active" and row.reachable
            training = (row.trained_on, row.training_ends)
            supporters.append(Supporter(row.person_ref, profile, ready, *training, row.max_active))
    by_recipient = {colleague.recipient_ref: ref for ref, colleague in known.items()}
    related: defaultdict[str, set[str]] = defaultdict(set)
    for person, manager in queries.read_managers(conn):
        related[person].add(manager)
        related[manager].add(person)
    relations = {ref: frozenset(others) for ref, others in related.items()}
    return People(version, known, by_recipient, relations, Pool(supporters))


def renew_version(unit: Unit) -> None:
    """Draw a new roster version; a number counted up would come again after a rollback."""
    queries.set_version(unit.conn, uuid4().hex)

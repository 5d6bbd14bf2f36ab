"""The roster in memory, read again when its version has changed: another process may import at any time."""

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from sqlalchemy import Connection, select

from leeward.store import Insert, Unit
from services.matching.models import LineManager, Person, RosterVersion, table
from services.matching.pairing.scoring import Pool, Profile, Supporter

GONE: Final = frozenset({"left", "deceased"})
_PERSON: Final = table(Person)
_MANAGER: Final = table(LineManager)
_VERSION: Final = table(RosterVersion)
_ROSTER: Final = select(
    _PERSON.c.person_ref,
    _PERSON.c.recipient_ref,
    _PERSON.c.profession,
    _PERSON.c.unit,
    _PERSON.c.languages,
    _PERSON.c.timezone,
    _PERSON.c.status,
    _PERSON.c.reachable,
    _PERSON.c.supporter,
    _PERSON.c.trained_on,
    _PERSON.c.training_ends,
    _PERSON.c.max_active,
)
_MANAGERS: Final = select(_MANAGER.c.person_ref, _MANAGER.c.manager_ref)
_READ_VERSION: Final = select(_VERSION.c.version).where(_VERSION.c.name == "roster")

_WRITE_VERSION: Final = Insert(_VERSION, ("name", "version"), conflict="replace", keys=("name",))


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
        version = conn.execute(_READ_VERSION).scalar() or ""
        if self._people is None or self._people.version != version:
            self._people = load_people(conn, version)
        return self._people


def load_people(conn: Connection, version: str) -> People:
    """Read the whole roster."""
    known, supporters = {}, []
    for row in conn.execute(_ROSTER):
        profile = Profile(row.profession, row.unit, tuple(row.languages.split()))
        known[row.person_ref] = Colleague(
            row.person_ref, row.recipient_ref, profile, row.timezone, row.status, row.reachable
        )
        if row.supporter:
            ready = row.status == "active" and row.reachable
            training = (row.trained_on, row.training_ends)
            supporters.append(Supporter(row.person_ref, profile, ready, *training, row.max_active))
    by_recipient = {colleague.recipient_ref: ref for ref, colleague in known.items()}
    return People(version, known, by_recipient, _relations(conn), Pool(supporters))


def _relations(conn: Connection) -> dict[str, frozenset[str]]:
    related: dict[str, set[str]] = {}
    for person, manager in conn.execute(_MANAGERS):
        related.setdefault(person, set()).add(manager)
        related.setdefault(manager, set()).add(person)
    return {ref: frozenset(others) for ref, others in related.items()}


def changed(unit: Unit) -> None:
    """Draw a new roster version; a number counted up would come again after a rollback."""
    _WRITE_VERSION.run(unit.conn, [("roster", uuid4().hex)])

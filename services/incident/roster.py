"""What incident keeps of a roster: staff identifiers as keyed hashes, each leading to a person_ref."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import delete, select

from leeward.people import Member
from leeward.settings.keys import Keyring
from leeward.store import Insert, Unit, Update
from services.incident.decisions.claims import Identifier
from services.incident.hashing import Hasher
from services.incident.intake import unmatched
from services.incident.models import StaffIdentifier, Unmatched, table_of

STAFF: Final = table_of(StaffIdentifier)
_UNMATCHED: Final = table_of(Unmatched)
_ROWS: Final = Insert(STAFF, ("key_hash", "person_ref", "alias", "active"), conflict="replace", keys=("key_hash",))
_ACTIVE: Final = Update(STAFF, ("key_hash",), ("active",))
_GONE: Final = frozenset({"left", "deceased"})
_CHUNK: Final = 500


def apply(unit: Unit, members: Sequence[Member], keys: Keyring) -> None:
    """Take over a whole roster (of this service's keyring's key), and serve what the work queue held for it.

    Whoever is missing from it has left: their identifiers stay known, so that they do not fill the work queue, and lead
    to nobody. Aliases that a coordinator set outlive imports. Applied twice, it changes nothing.
    """
    hasher = Hasher.of(keys)
    active = {member.person_ref: member.status not in _GONE for member in members}
    given = {
        hasher.of_staff(Identifier(system, value)): member.person_ref
        for member in members
        for system, value in member.identifiers
    }
    stored = unit.conn.execute(select(STAFF)).all()
    _ROWS.run(unit.conn, [(key, ref, False, active[ref]) for key, ref in given.items()])
    others = [row for row in stored if row.key_hash not in given]
    withdrawn = [row.key_hash for row in others if not row.alias and row.person_ref in active]
    for start in range(0, len(withdrawn), _CHUNK):
        unit.conn.execute(delete(STAFF).where(STAFF.c.key_hash.in_(withdrawn[start : start + _CHUNK])))
    kept = [row for row in others if row.alias or row.person_ref not in active]
    _ACTIVE.run(unit.conn, [(row.key_hash, active.get(row.person_ref, False)) for row in kept])
    waiting = unit.conn.execute(select(_UNMATCHED.c.key_hash)).scalars()
    unmatched.resolve_identifiers(unit, {key: given[key] for key in waiting if key in given and active[given[key]]})

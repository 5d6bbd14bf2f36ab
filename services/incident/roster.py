"""What incident keeps of a roster: staff identifiers as keyed hashes, each leading to a person_ref."""

from collections.abc import Collection, Sequence
from typing import Final

from leeward.people import Member
from leeward.settings.keys import Keyring
from leeward.store import Unit
from services.incident import repository
from services.incident.decisions.claims import Identifier
from services.incident.hashing import Hasher
from services.incident.intake import unmatched

_LEFT: Final = frozenset({"left", "deceased"})


def apply(unit: Unit, members: Sequence[Member], keys: Keyring) -> None:
    """Take over a whole roster (of this service's keyring's key), and serve what the work queue held for it.

    Whoever is missing from it has left: their identifiers stay known, so that they do not fill the work queue, and lead
    to nobody. Aliases that a coordinator set outlive imports. Applied twice, it changes nothing.
    """
    hasher = Hasher.of(keys)
    active = {member.person_ref: member.status not in _LEFT for member in members}
    given = {
        hasher.of_staff(Identifier(system, value)): member.person_ref
        for member in members
        for system, value in member.identifiers
    }
    stored = repository.list_staff(unit.conn)
    repository.replace_staff(unit.conn, [(key, ref, False, active[ref]) for key, ref in given.items()])
    others = [row for row in stored if row.key_hash not in given]
    withdrawn = [row.key_hash for row in others if not row.alias and row.person_ref in active]
    repository.delete_staff(unit.conn, withdrawn)
    kept = [row for row in others if row.alias or row.person_ref not in active]
    repository.update_staff(unit.conn, [(row.key_hash, active.get(row.person_ref, False)) for row in kept])
    waiting = repository.list_unmatched_hashes(unit.conn)
    unmatched.resolve_identifiers(unit, {key: given[key] for key in waiting if key in given and active[given[key]]})


def withdraw(unit: Unit, persons: Collection[str]) -> None:
    """Identifiers of those who have left stay known and lead to nobody."""
    theirs = [row.key_hash for row in repository.list_staff(unit.conn) if row.person_ref in set(persons)]
    repository.update_staff(unit.conn, [(key, False) for key in theirs])

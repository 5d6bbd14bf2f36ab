"""`staff check` and `staff import`: a roster checked whole, then written for three services in one go."""

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import MetaData

from leeward.people import Member, RosterError, read_roster
from leeward.settings import ServiceName, Settings, load_settings
from leeward.settings.keys import people_key
from leeward.store import Unit
from services.commands import catalogue, queries
from services.commands.console import Failed, say, show_json, step
from services.commands.databases import prepare, transaction, with_databases

READERS: Final[tuple[ServiceName, ...]] = ("incident", "matching", "notify")
# where each service keeps what the roster says of somebody, and by which reference
KEPT: Final = {
    "incident": (("staff_identifier", "person_ref"),),
    "matching": (("person", "person_ref"), ("line_manager", "person_ref")),
    "notify": (("recipient", "recipient_ref"),),
}
SHOWN: Final = 200  # faults; a file with more of them has one cause


@dataclass(frozen=True)
class Changes:
    """What an import changed, in people."""

    added: int
    changed: int
    left: int
    unchanged: int


def check(file: Path) -> None:
    """Say whether a roster could be imported; writes nothing, not even a key."""
    load_settings(starting=False)
    found = members(file, secrets.token_bytes(32))
    supporters = sum(member.supporter for member in found)
    say(f"{len(found)} people, {supporters} of them supporters: nothing is wrong with this file")


def import_file(file: Path, *, as_json: bool) -> None:
    """Import a roster and say what changed."""
    settings = load_settings(starting=False)
    step("checking the file")
    found = members(file, people_key(settings))
    changes = import_members(settings, found, settings.clock().now())
    if as_json:
        show_json(asdict(changes))
    else:
        say(", ".join(f"{count} {what}" for what, count in asdict(changes).items()))


def members(file: Path, key: bytes) -> list[Member]:
    """The members of a roster file.

    Raises:
        Failed: with one line a fault.
    """
    try:
        return read_roster(file, key)
    except RosterError as fault:
        more = [f"… and {len(fault.faults) - SHOWN} more"] if len(fault.faults) > SHOWN else []
        lines = [str(one) for one in fault.faults[:SHOWN]]
        raise Failed("\n".join([*lines, *more, f"{file.name}: nothing of it was imported"])) from None
    except OSError as fault:
        raise Failed(f"{file.name}: cannot be read ({fault.strerror})") from None


@with_databases
def import_members(settings: Settings, found: Sequence[Member], now: datetime) -> Changes:
    """Write a roster to the three services that know something of it.

    Three transactions are open together and commit one after another at the very end, so that they agree but for a
    crash within those milliseconds; importing the file again then settles it.
    """
    services = catalogue.load(READERS)
    prepare(settings, services)
    with ExitStack() as stack:
        units = {one.name: stack.enter_context(transaction(settings, one, now)) for one in services}
        step("comparing")
        before = {one.name: kept(units[one.name], one.metadata, one.name) for one in services}
        for one in services:
            step(f"writing {one.name}")
            if one.import_roster:
                one.import_roster(units[one.name], found, settings)
        after = {one.name: kept(units[one.name], one.metadata, one.name) for one in services}
    return compared(before, after)


Snapshot = dict[str, list[tuple[Any, ...]]]


def kept(unit: Unit, metadata: MetaData, service: str) -> Snapshot:
    """What a service keeps of each person, by the reference it knows them by."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for name, key in KEPT[service]:
        for row in queries.rows_of(unit.conn, metadata, name):
            found[getattr(row, key)].append((name, *row))
    return {ref: sorted(rows, key=repr) for ref, rows in found.items()}


def compared(before: Mapping[ServiceName, Snapshot], after: Mapping[ServiceName, Snapshot]) -> Changes:
    """Changes in people: every reference is led back to the one that matching knows."""
    people = before["matching"] | after["matching"]
    person = {row[2]: ref for ref, rows in people.items() for row in rows if row[0] == "person"}
    different = {
        person.get(ref, ref)
        for name in after
        for ref in before[name] | after[name]
        if before[name].get(ref) != after[name].get(ref)
    }
    added = set(after["matching"]) - set(before["matching"])
    left = {ref for ref in different - added if _left(after["matching"], ref)}
    here = sum(not _left(after["matching"], ref) for ref in after["matching"])
    changed = len((different - added - left) & set(people))
    return Changes(len(added), changed, len(left), here - len(added) - changed)


def _left(snapshot: Snapshot, ref: str) -> bool:
    return any(row[0] == "person" and "left" in row for row in snapshot.get(ref, ()))

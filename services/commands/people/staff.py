"""`staff check` and `staff import`: a roster checked whole, then written for three services in one go."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import typer
from sqlalchemy import Connection, MetaData

from leeward.people import GONE, Member, Record, RosterError, members, read_roster
from leeward.settings import ServiceName, Settings, load_settings
from leeward.store import Unit
from services.commands import catalogue, queries
from services.commands.console import Failed, say, show_json, step
from services.commands.databases import prepare, reading, transaction, with_databases
from services.commands.people import keys

READERS: Final[tuple[ServiceName, ...]] = ("incident", "matching", "notify")
# where each service keeps what the roster says of somebody, and by which reference
KEPT: Final = {
    "incident": (("staff_identifier", "person_ref"),),
    "matching": (("person", "person_ref"), ("line_manager", "person_ref")),
    "notify": (("recipient", "recipient_ref"),),
}
SHOWN: Final = 200  # faults; a file with more of them has one cause


@dataclass(frozen=True, slots=True)
class Leaving:
    """How many of how many people would leave by an import."""

    count: int
    here: int

    @property
    def is_many(self) -> bool:
        """Whether that is more than a tenth: rather a wrong file than a month's departures."""
        return self.count * 10 > self.here

    def check(self, known: int | None) -> None:
        """See that so many are meant to leave.

        Raises:
            Failed: where they are not.
        """
        if self.count != known if known is not None else self.is_many:
            raise Failed(f"{self}: nothing of it was imported; if that is meant, say --leaving {self.count}")

    def __str__(self) -> str:
        everybody = self.count == self.here
        why = ", as by that of another hospital" if everybody else ""
        return f"by this roster {self.count} of {self.here} people would leave{why}"


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
    found = records(file)
    supporters = sum(record["supporter"] == "yes" for record in found)
    say(f"{len(found)} people, {supporters} of them supporters: nothing is wrong with this file")


def import_file(file: Path, *, leaving: int | None, as_json: bool) -> None:
    """Import a roster and say what changed.

    Args:
        leaving: how many people are known to leave by it; asked for at a terminal where more than a tenth would.

    Raises:
        Failed: with one line a fault, or where so many were not meant to leave; nothing was imported then.
    """
    settings = load_settings(starting=False)
    step("checking the file")
    found = records(file)
    changes = import_records(settings, found, settings.clock().now(), leaving=leaving, ask=confirmed)
    if as_json:
        show_json(asdict(changes))
    else:
        say(", ".join(f"{count} {what}" for what, count in asdict(changes).items()))


def records(file: Path) -> list[Record]:
    """The rows of a roster file.

    Raises:
        Failed: with one line a fault.
    """
    try:
        return read_roster(file)
    except RosterError as fault:
        more = [f"… and {len(fault.faults) - SHOWN} more"] if len(fault.faults) > SHOWN else []
        lines = [str(one) for one in fault.faults[:SHOWN]]
        raise Failed("\n".join([*lines, *more, f"{file.name}: nothing of it was imported"])) from None
    except OSError as fault:
        raise Failed(f"{file.name}: cannot be read ({fault.strerror})") from None


def confirmed(leaving: Leaving) -> bool:
    """Whether somebody at a terminal says that so many are to leave."""
    return sys.stdin.isatty() and typer.confirm(f"{leaving}. Import it?", err=True)


@with_databases
def import_records(
    settings: Settings,
    found: Sequence[Record],
    now: datetime,
    *,
    leaving: int | None = None,
    ask: Callable[[Leaving], bool] = lambda _: False,
) -> Changes:
    """Write a roster to the three services that know something of it.

    Three transactions are open together and commit one after another at the very end, so that they agree but for a
    crash within those milliseconds; importing the file again then settles it.

    Args:
        leaving: how many people are known to leave by it.
        ask: whether so many are to leave, where nobody has said how many; before anything is locked.

    Raises:
        Failed: where other people would leave than is known, or more than a tenth of all; nothing was imported then.
        SettingsError: where a key is missing, or another than the roster was imported with.
    """
    services = catalogue.load(READERS)
    prepare(settings, services)
    key = keys.usable_people_key(settings, services)
    of_services = keys.own_keys(settings, services)
    people = members(found, key)
    if leaving is None:
        leaving = agreed(settings, people, ask)
    with ExitStack() as stack:
        units = {one.name: stack.enter_context(transaction(settings, one, now)) for one in services}
        keys.hold_keys(settings, units, key, of_services)
        leaving_by(units["matching"].conn, people).check(leaving)
        step("comparing")
        before = {one.name: kept(units[one.name], one.metadata, one.name) for one in services}
        for one in services:
            step(f"writing {one.name}")
            if one.import_roster:
                one.import_roster(units[one.name], people, settings)
        after = {one.name: kept(units[one.name], one.metadata, one.name) for one in services}
    return compared(before, after)


def agreed(settings: Settings, people: Sequence[Member], ask: Callable[[Leaving], bool]) -> int | None:
    """How many somebody who is asked says are to leave; None where there is nothing to ask, or they were not meant."""
    with reading(settings, "matching") as conn:
        assert conn is not None
        leaving = leaving_by(conn, people)
    return leaving.count if leaving.is_many and ask(leaving) else None


def leaving_by(conn: Connection, people: Sequence[Member]) -> Leaving:
    """How many of those who are here would leave if the roster were these people."""
    [matching] = catalogue.load(("matching",))
    here = queries.people_here(conn, matching.metadata)
    staying = {member.person_ref for member in people if member.status not in GONE}
    return Leaving(len(here - staying), len(here))


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

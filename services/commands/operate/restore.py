"""`restore`: puts a backup's five databases back, all or none, and brings them to the present before anything is due.

Everything is checked before anything is touched. What was sent after the copy was made may be repeated once, under the
same Message-ID; what was erased since is erased again; what has grown too old is deleted (ADR 17).
"""

import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Final

import typer

from leeward.adapters import copies_of, published_since
from leeward.bus import BusUnavailable
from leeward.bus.coverage import RenewedLog, place_reader, places_of, renewed, waiting_ids
from leeward.service import Restored, Service
from leeward.settings import ServiceName, Settings, SettingsError, load_settings
from leeward.settings.keys import Keyring, check_value, foreign_key, found_key, lost_key, own_key
from leeward.store.copies import Copies, CopyFailed, DatabaseInUse
from leeward.store.copies.erasures import Erased, ErasureList
from leeward.store.copies.manifest import Manifest, NoBackup, check_files, read_manifest
from leeward.store.migrate import newest_revision
from leeward.store.retention import delete_all, ground_parts
from leeward.timekeeping.last_seen import reset_last_seen
from services.commands import catalogue
from services.commands.console import Failed, say, step, warn
from services.commands.databases import connection, transaction, with_databases
from services.commands.operate.backup import LIST

# matching first: it alone knows what the hashes on the list of erasures mean
ORDER: Final[tuple[ServiceName, ...]] = ("matching", "incident", "notify", "issuer", "box")
SHOWN: Final = 31  # days that are named one by one


@with_databases
def restore(folder: Path, *, yes: bool) -> int:
    """Put a backup back; 2 where nobody has said yes to the days that no list of erasures vouches for.

    Raises:
        Failed: when it cannot be restored; what was there before is untouched then.
    """
    settings = load_settings(starting=False)
    services = {service.name: service for service in catalogue.load()}
    now = settings.clock().now()
    copies = copies_of(settings, partial(connection, settings))
    try:
        step("checking")
        manifest = read_manifest(folder)
        _check_fit(folder, manifest, copies, services, now)
        keys = _keys_of(settings, manifest, services)
        check_files(folder, manifest)
        copies.check_idle()
        erased = _read_lists(settings, folder, now)
        if not _may_go_on(erased.unvouched(manifest.made_at, now), yes=yes):
            return 2
        lost = published_since(settings, "matching", manifest.ends)
        _put_back(folder, manifest, copies, services)
        _set_logs_right(copies.staged, services, lost, now)
        _bring_to_present(copies.staged, services, keys, erased, now)
        copies.finish()
    except (NoBackup, CopyFailed, BusUnavailable, OSError) as fault:
        raise Failed(f"restore: {fault}") from fault
    except DatabaseInUse as fault:
        raise Failed(f"restore: {fault} runs; stop all services first") from fault
    say(f"restored: all five databases as they were at {manifest.made_at:%Y-%m-%d %H:%M} UTC")
    if manifest.window_left_out:
        say("a rating window was open then: its ratings are lost, and whoever has a token can rate again")
    say("before you start: `leeward staff import` with the newest roster, and `leeward rota import`")
    say("after the start: `leeward reconcile` with the hospital's list of the days since then")
    return 0


def _check_fit(
    folder: Path, manifest: Manifest, copies: Copies, services: Mapping[ServiceName, Service], now: datetime
) -> None:
    """See that this installation can take that backup, before its files are read."""
    if manifest.mode != copies.mode:
        raise NoBackup(f"{folder}: is of {manifest.mode} databases, and this installation has {copies.mode} ones")
    for name, record in manifest.databases.items():
        newest = newest_revision(services[name].package)
        if record.revision != newest:
            raise NoBackup(
                f"{folder}: {name} is at revision {record.revision}, and this release has {newest}; "
                "restore it with the release that made it, then upgrade"
            )
    if now < manifest.made_at:
        raise NoBackup(f"{folder}: was made at a later time than it is now; put this machine's clock right first")


def _keys_of(
    settings: Settings, manifest: Manifest, services: Mapping[ServiceName, Service]
) -> dict[ServiceName, Keyring]:
    """The keys that are needed, where all of them, and the people key, are those that made what is in the copies.

    Raises:
        SettingsError: where one is another, or is not there; none is made.
    """
    for record in manifest.databases.values():
        for name, value in record.keys.items():
            key = found_key(settings, name)
            if key is None and settings.embedded:
                raise SettingsError(lost_key(settings, name))
            if key is not None and check_value(key, name) != value:
                raise SettingsError(foreign_key(settings, name))
    return {name: own_key(settings, name) for name, service in services.items() if service.restored}


def _read_lists(settings: Settings, folder: Path, now: datetime) -> Erased:
    """What the living list of erasures and the one beside the backups say."""
    try:
        living = ErasureList(settings.erasures).read(until=now)
        return living.joined(ErasureList(folder.absolute().parent / LIST).read())
    except ValueError as fault:
        raise NoBackup(f"LEEWARD_ERASURES: {fault}; move that file away, or give the right one") from fault


def _may_go_on(days: list[date], *, yes: bool) -> bool:
    if not days:
        return True
    named = ", ".join(map(str, days)) if len(days) <= SHOWN else f"{days[0]} to {days[-1]}"
    warn(f"restore: no list of erasures vouches for {named}: what was erased then would come back")
    if yes or (sys.stdin.isatty() and typer.confirm("Restore all the same?", err=True)):
        return True
    warn("restore: nothing was touched; name the list in LEEWARD_ERASURES, or say --yes")
    return False


def _put_back(folder: Path, manifest: Manifest, copies: Copies, services: Mapping[ServiceName, Service]) -> None:
    copies.begin()
    for name in services:
        step(f"putting {name} back")
        copies.put_back(name, folder / manifest.databases[name].file)


def _set_logs_right(settings: Settings, services: Mapping[ServiceName, Service], lost: set[str], now: datetime) -> None:
    """Who has read further than a log now goes reads on at its end.

    Where the databases do not hold the logs, who reads matching passes over what it had published in the time that is
    lost, since it knows nothing of that any more. What incident and notify had published then, matching reads again,
    from the offsets in its copy: nobody is left out who was heard of.
    """
    places: dict[str, set[int]] = defaultdict(set)
    for service in services.values():
        with connection(settings, service.name) as conn:
            for topic, number in places_of(conn, service.metadata):
                places[topic].add(number)
    logs: dict[str, RenewedLog] = {}
    for service in services.values():
        topic = f"leeward.{service.name}"
        with transaction(settings, service, now, believed=True) as unit:
            logs[topic] = renewed(unit.conn, service.metadata, places[topic])
    for service in services.values():
        with transaction(settings, service, now, believed=True) as unit:
            place_reader(unit.conn, service.metadata, logs)
    with connection(settings, "matching") as conn:
        passed_over = sorted(lost - waiting_ids(conn, services["matching"].metadata))
    reading = [service for service in services.values() if "leeward.matching" in service.reads]
    for service in reading if passed_over else ():
        with transaction(settings, service, now, believed=True) as unit:
            unit.writes.inbox.run(unit.conn, [(one, now.date()) for one in passed_over])


def _bring_to_present(
    settings: Settings,
    services: Mapping[ServiceName, Service],
    keys: Mapping[ServiceName, Keyring],
    erased: Erased,
    now: datetime,
) -> None:
    """Erase what was erased, delete what is too old, and mark what is in doubt, in the order of who knows what."""
    found: dict[str, list[str]] = {"cases": [], "persons": [], "recipients": []}
    for name in ORDER:
        step(f"bringing {name} to the present")
        service = services[name]
        with transaction(settings, service, now, believed=True) as unit:
            # the time that is lost is no leap of the clock
            reset_last_seen(unit.conn, unit.tables)
            delete_all(unit, *ground_parts(unit.writes))
            if service.restored:
                service.restored(unit, Restored(settings, keys[name], erased.hashes, **found))
            # it is on the list, or ends by its age in every restore; the list is for matching to begin
            unit.erased.clear()

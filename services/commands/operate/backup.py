"""`backup`: a copy of each database, together one that a restore can go on from, while the system runs or not.

Nothing is stopped for it. Who reads is copied after whom it reads, and only once it has applied all that these had
published: then nothing is lost on the way, and nothing that has led to a message is applied a second time (ADR 17).
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from leeward.adapters import copies_of, coverage_of, held_ends_of
from leeward.bus import BusUnavailable
from leeward.bus.logs import log_identity
from leeward.service import Service
from leeward.settings import ServiceName, Settings, load_settings
from leeward.settings.key_checks import kept_values
from leeward.store import ground_tables
from leeward.store.copies import Connect, Copies, CopyFailed, Snapshot
from leeward.store.copies.erasures import ErasureList
from leeward.store.copies.manifest import CopyRecord, Manifest, checksum, write_manifest
from leeward.store.migrate import stored_revision
from services.commands import catalogue
from services.commands.console import Failed, say, step, warn
from services.commands.databases import check_current, connection, reading, with_databases
from services.commands.operate.status import listening

# the box follows the issuer's epochs; matching reads incident and notify, and comes last
ORDER: Final[tuple[ServiceName, ...]] = ("box", "issuer", "incident", "notify", "matching")
PATIENCE: Final = 30.0  # seconds
PAUSE: Final = 0.01
LIST: Final = "erasures"


def backup(folder: Path) -> None:
    """Copy the five databases into a new folder and say what is in it.

    Raises:
        Failed: when one cannot be copied; nothing is left in the folder then.
    """
    settings = load_settings(starting=False)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Failed(f"{folder}: is there already; give a folder that is not, or an empty one")
    try:
        with _new_folder(folder):
            manifest = _copied(settings, folder)
            _keep_list(settings, folder, manifest.made_at)
            write_manifest(folder, manifest)
    except (CopyFailed, OSError, BusUnavailable) as fault:
        raise Failed(f"backup: {fault}; nothing was kept") from fault
    for name, record in manifest.databases.items():
        say(f"{name:<9}{record.size / 1e6:>10.1f} MB")
    if manifest.window_left_out:
        say("a rating window is open: its ratings are not in this backup, and a restore loses them; nothing else")
    say(
        f"keys are in no backup: keep {settings.data / 'keys'} apart from it"
        if settings.embedded
        else "no keys are in it"
    )


@contextmanager
def _new_folder(folder: Path) -> Iterator[None]:
    """The folder, for us alone; what was written is taken away again where not all of it could be."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        yield
    except BaseException:
        for path in folder.iterdir():
            path.unlink()
        if made:
            folder.rmdir()
        raise


@with_databases
def _copied(settings: Settings, folder: Path) -> Manifest:
    services = {service.name: service for service in catalogue.load()}
    _check_schemas(settings, services)
    connect: Connect = partial(connection, settings)
    copies = copies_of(settings, connect)
    made_at = settings.clock().now()
    with ExitStack() as stack:
        snapshots: dict[ServiceName, Snapshot] = {}

        def look(name: ServiceName) -> None:
            snapshots[name] = stack.enter_context(copies.snapshot(name, folder / f"{name}{copies.suffix}"))

        for name in ORDER[:-1]:
            look(name)
        await_reader(settings, services, snapshots)
        with held_ends_of(settings, "matching", connect) as ends:
            look("matching")
        records = {name: _copy(services[name], snapshots[name], copies, folder, made_at) for name in ORDER}
    left_out = bool(records["box"].left_out)
    return Manifest(mode=copies.mode, made_at=made_at, databases=records, ends=ends, window_left_out=left_out)


def _check_schemas(settings: Settings, services: Mapping[ServiceName, Service]) -> None:
    for service in services.values():
        with reading(settings, service.name) as conn:
            if conn is None:
                raise Failed(f"{service.name}: there is no database; run `leeward migrate`")
            check_current(conn, service)


def await_reader(
    settings: Settings, services: Mapping[ServiceName, Service], snapshots: Mapping[ServiceName, Snapshot]
) -> None:
    """Wait until matching has applied what incident and notify had published in their snapshots.

    One that does not run applies nothing, and sends nothing either.
    """
    read = [one for one in services.values() if f"leeward.{one.name}" in services["matching"].reads]
    producers = {one.name: (snapshots[one.name].conn, one.metadata) for one in read}
    coverage = coverage_of(settings, "matching", producers)
    patience = time.monotonic() + PATIENCE
    while listening(settings, "matching"):
        with reading(settings, "matching") as conn:
            if conn is not None and coverage.applied(conn, services["matching"].metadata):
                return
        if time.monotonic() > patience:
            warn("matching is behind: whoever it writes to from now on may be asked again after a restore of this")
            return
        step("waiting for matching")
        time.sleep(PAUSE)


def _copy(service: Service, snapshot: Snapshot, copies: Copies, folder: Path, made_at: datetime) -> CopyRecord:
    step(f"copying {service.name}")
    conn, path = snapshot.conn, folder / f"{service.name}{copies.suffix}"
    left_out = tuple(service.left_out(conn)) if service.left_out else ()
    revision, keys = stored_revision(conn), kept_values(conn, ground_tables(service.metadata).key_check)
    snapshot.copy(left_out)
    return CopyRecord(
        file=path.name,
        size=path.stat().st_size,
        sha256=checksum(path),
        revision=revision,
        log=log_identity(conn, service.metadata),
        copied_at=made_at,
        left_out=left_out,
        keys=keys,
    )


def _keep_list(settings: Settings, folder: Path, now: datetime) -> None:
    """Keep the list of erasures beside the backups too, where it outlives the disk of the databases.

    matching alone begins it: one that were made here could be another than it appends to, and vouch for nothing.
    """
    living, beside = ErasureList(settings.erasures), ErasureList(folder.absolute().parent / LIST)
    if not living.path.exists():
        warn(f"{living.path}: there is no list of erasures; LEEWARD_ERASURES must name the one that matching keeps")
    elif living.path.resolve() != beside.path.resolve():
        beside.merge(living, now)

"""`up`, `run` and `migrate`."""

import asyncio
from collections.abc import Sequence

from leeward.adapters import prepare_bus
from leeward.bus import BusUnavailable
from leeward.service import Service
from leeward.settings import ServiceName, Settings, load_settings
from services.commands import catalogue
from services.commands.console import Failed, say, step
from services.commands.databases import migrate_all


def up() -> None:
    """Migrate, then run everything until a signal comes."""
    from leeward.runtime import check_start

    settings, services = load_settings(), catalogue.load()
    # before anything is migrated: the release before could then not start any more
    check_start(settings, services)
    migrated(settings, services)
    _run(settings, services)


def run(names: Sequence[ServiceName]) -> None:
    """Run some services until a signal comes; they wait for databases that `leeward migrate` has brought up to date."""
    settings = load_settings()
    # on files a log is kept until all have read it, also those of another process
    everybody = catalogue.load() if settings.embedded else ()
    _run(settings, catalogue.load(dict.fromkeys(names)), everybody)


def _run(settings: Settings, services: Sequence[Service], everybody: Sequence[Service] = ()) -> None:
    from leeward import runtime, telemetry

    clock = settings.clock()
    telemetry.CRISIS_LINES_UNCHECKED.set_function(lambda: len(settings.unchecked_lines(clock.now().date())))
    runtime.run(settings, services, everybody)


def migrated(settings: Settings, services: Sequence[Service]) -> list[str]:
    """Bring databases and bus to what this release needs; gives what had to change.

    Raises:
        Failed: when one of them cannot be reached.
    """
    changed: list[str] = [*migrate_all(settings, services)]
    try:
        return [*changed, *asyncio.run(prepare_bus(settings))]
    except BusUnavailable as fault:
        raise Failed(f"LEEWARD_BUS_URL: Kafka cannot be reached or refuses ({fault})") from fault


def migrate(names: Sequence[ServiceName]) -> None:
    """Bring databases to their newest revision, all or those named, and make what the bus lacks."""
    settings = load_settings(starting=False)
    step("migrating")
    changed = migrated(settings, catalogue.load(dict.fromkeys(names)) if names else catalogue.load())
    say(f"migrated: {', '.join(changed)}" if changed else "nothing to do: everything is at its newest revision")

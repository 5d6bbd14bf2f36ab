"""`up`, `run` and `migrate`."""

from collections.abc import Sequence

from leeward.settings import ServiceName, Settings, load_settings
from services.commands import catalogue
from services.commands.console import say, step
from services.commands.databases import migrate_all


def up() -> None:
    """Migrate, then run everything until a signal comes."""
    _run(load_settings(), None)


def run(names: Sequence[ServiceName]) -> None:
    """Run some services until a signal comes."""
    _run(load_settings(), names)


def _run(settings: Settings, names: Sequence[ServiceName] | None) -> None:
    from leeward import runtime, telemetry

    services = catalogue.load() if names is None else catalogue.load(dict.fromkeys(names))
    if settings.embedded:
        migrate_all(settings, services)
    clock = settings.clock()
    telemetry.CRISIS_LINES_UNCHECKED.set_function(lambda: len(settings.unchecked_lines(clock.now().date())))
    runtime.run(settings, services)


def migrate() -> None:
    """Bring every database to its newest revision."""
    settings = load_settings(starting=False)
    step("migrating")
    changed = migrate_all(settings, catalogue.load())
    say(f"migrated: {', '.join(changed)}" if changed else "nothing to do: every database is at its newest revision")

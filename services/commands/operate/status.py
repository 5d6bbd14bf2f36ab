"""`status`: figures of every service from its database, beside a running system or without one."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy.exc import OperationalError, ProgrammingError

from leeward.service import Service
from leeward.settings import ServiceName, Settings, load_settings
from leeward.store import ground_tables
from leeward.timekeeping.guard import LEAP
from leeward.timekeeping.last_seen import read_last_seen
from services.commands import catalogue, queries
from services.commands.console import flat, say, show_json
from services.commands.databases import reading, with_databases

PORTS: Final = {"http": 80, "https": 443}
GAPS: Final[Mapping[str, str]] = {
    "clock_doubted": "the clock is not believed, so that what would end waits: `leeward doctor` says more",
    "never_reached": "people whom no offer reached before its time was over: the board lists them by code",
    "no_roster": "no roster: run `leeward staff import FILE`",
    "no_supporters": "no supporter whose training is valid",
    "no_shift_data": "no shift in the next two days: run `leeward rota import FILE.ics`",
    "training_expired": "supporters whose training has expired",
    "training_expires_soon": "supporters whose training ends within 30 days",
    "people_unreachable": "people on the roster whom no channel reaches",
    "dead_letters": "events were given up, and somebody may wait because of it: see `leeward dlq list`",
    "unmatched_identifiers": "identifiers that lead to nobody on the roster wait in the work queue",
}


def status(*, as_json: bool) -> None:
    """Print the figures."""
    found = figures(load_settings(starting=False))
    if as_json:
        show_json(found)
        return
    say(f"mode     {found['mode']}")
    say(f"running  {', '.join(found['running']) or 'nothing'}")
    for name, parts in found["services"].items():
        for place, value in flat(parts) if parts else [("", None)]:
            say(f"{name:<9}{place:<40}{_text(value)}".rstrip())
    if found["mode"] == "rehearsal" and (played := found["rehearsal"]):
        say(
            f"rehearsal: {played.get('offers', 0)} people would have been sent an offer, "
            f"{played.get('with_supporter', 0)} of them with a supporter at hand; "
            f"{played.get('no_supporter', 0)} had none, {played.get('unreachable', 0)} could not be reached, "
            f"{played.get('held_too_long', 0)} were held too long. Nothing was sent."
        )
    for gap in found["gaps"]:
        say(f"gap      {GAPS.get(gap, gap.replace('_', ' '))}")


@with_databases
def figures(settings: Settings) -> dict[str, Any]:
    """`{"mode", "running": [service], "gaps": [code], "rehearsal": {…}, "services": {service: figures or null}}`."""
    services = {one.name: _read(settings, one) for one in catalogue.load()}
    matching = services["matching"] or {}
    gaps = [*matching.get("gaps", ["no_roster"])]
    if (services["incident"] or {}).get("unmatched"):
        gaps.append("unmatched_identifiers")
    if any(_is_clock_doubted(settings, one) for one in catalogue.load()):
        gaps.append("clock_doubted")
    if any(found["dead_letters"] for found in services.values() if found):
        gaps.append("dead_letters")
    return {
        "mode": settings.outreach.mode,
        "running": [name for name in services if listening(settings, name)],
        "gaps": gaps,
        "rehearsal": matching.get("rehearsal", {}),
        "services": services,
    }


def _read(settings: Settings, service: Any) -> dict[str, Any] | None:
    """A service's figures, None while it has no database or one that is older than this program."""
    with reading(settings, service.name) as conn:
        if conn is None:
            return None
        try:
            found: dict[str, Any] = service.status(conn, settings)
            found["dead_letters"] = queries.count_dead_letters(conn, service.metadata)
        except (OperationalError, ProgrammingError):
            return None
    return found


def _is_clock_doubted(settings: Settings, service: Service) -> bool:
    with reading(settings, service.name) as conn, suppress(OperationalError, ProgrammingError):
        seen = conn and read_last_seen(conn, ground_tables(service.metadata))
        return bool(seen and settings.clock().now() - seen.seen_at > LEAP)
    return False


def listening(settings: Settings, service: ServiceName) -> bool:
    """Whether something answers where the service is for the others."""
    place = urlsplit(settings.url(service))
    try:
        with socket.create_connection((place.hostname, place.port or PORTS[place.scheme]), timeout=0.5):
            return True
    except OSError:
        return False


def _text(value: Any) -> str:
    if value is None:
        return "no database, or an older one: run `leeward migrate`"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value) or "-"
    return "-" if value == {} else str(value)

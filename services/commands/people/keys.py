"""The keys of an import: that they are there, and those with which the databases were made."""

from collections.abc import Mapping, Sequence

from leeward.service import Service
from leeward.settings import ServiceName, Settings
from leeward.settings.key_checks import compare_key, hold_key, kept_value
from leeward.settings.keys import people_key, service_key
from leeward.store import Unit
from services.commands import queries
from services.commands.databases import reading


def usable_people_key(settings: Settings, services: Sequence[Service]) -> bytes:
    """The key by which these services know people; made when embedded while none of them knows anybody.

    Raises:
        SettingsError: when it is missing, or another than the one they know people by.
    """
    known = False
    for service in services:
        with reading(settings, service.name) as conn:
            if conn is not None:
                held = kept_value(conn, service.metadata.tables["key_check"], "people")
                known = known or held is not None or queries.knows_people(conn, service.metadata)
    key = people_key(settings, new=not known)
    for service in services:
        with reading(settings, service.name) as conn:
            if conn is not None:
                compare_key(conn, service.metadata.tables["key_check"], settings, "people", key)
    return key


def own_keys(settings: Settings, services: Sequence[Service]) -> Mapping[ServiceName, bytes]:
    """The services' own keys as far as they are given here: what an import stores is read with them.

    Raises:
        SettingsError: when one is missing and its database holds something.
    """
    return {
        one.name: service_key(settings, one.name)
        for one in services
        if settings.embedded or settings.variable(f"{one.name.upper()}_KEY")
    }


def hold_keys(
    settings: Settings, units: Mapping[ServiceName, Unit], people: bytes, own: Mapping[ServiceName, bytes]
) -> None:
    """Have each database keep which keys its roster is imported with.

    Raises:
        SettingsError: where it was made with others.
    """
    for name, unit in units.items():
        hold_key(unit, settings, "people", people)
        if name in own:
            hold_key(unit, settings, name, own[name])

"""Which database and which bus: the one place where the two ways to run part (DESIGN §3)."""

from collections.abc import Mapping

from sqlalchemy import MetaData

from leeward.brokers import parse_brokers
from leeward.bus import Bus
from leeward.bus.sqlite import SqliteBus
from leeward.clock import Clock
from leeward.settings import ServiceName, Settings, SettingsError
from leeward.store import SqliteStore, Store


def store_of(settings: Settings, service: ServiceName, metadata: MetaData, clock: Clock) -> Store:
    """A service's database; nothing is connected yet.

    Raises:
        SettingsError: when the bus is Kafka and the database is not given.
    """
    url = settings.database_url(service)
    if url:
        from leeward.store.postgresql import PostgresStore

        return PostgresStore(url, service, metadata, clock)
    if not settings.embedded:
        key = f"LEEWARD_{service.upper()}_DATABASE_URL"
        raise SettingsError(f"{key}: is missing; Kafka needs PostgreSQL: allowed is postgresql+asyncpg://…")
    return SqliteStore(settings.database_file(service), metadata, clock)


def bus_of(settings: Settings, stores: Mapping[str, Store], clock: Clock) -> Bus:
    """The bus between the services; `stores` are this process's own, by service."""
    if settings.bus_url:
        from leeward.bus.kafka import KafkaBus

        return KafkaBus(parse_brokers(settings.bus_url), dict(stores), clock)
    return SqliteBus(settings, stores)


async def prepare_bus(settings: Settings) -> list[str]:
    """Make what the bus needs before it can carry events; gives the names of what was made.

    Raises:
        BusUnavailable: when it cannot be reached, or refuses.
    """
    if settings.bus_url:
        from leeward.bus.topics import make_topics

        return await make_topics(parse_brokers(settings.bus_url))
    return []


async def bus_gaps(settings: Settings) -> list[str]:
    """What the bus lacks or has set against us, in words; empty where all is well.

    Raises:
        BusUnavailable: when it cannot be reached.
    """
    if settings.bus_url:
        from leeward.bus.topics import gaps

        return await gaps(parse_brokers(settings.bus_url))
    return []

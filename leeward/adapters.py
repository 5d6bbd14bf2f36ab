"""Which database and which bus: the one place where the two ways to run part (DESIGN §3)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, MetaData

from leeward.brokers import parse_brokers
from leeward.bus import Bus
from leeward.bus.coverage import Coverage, SqliteCoverage
from leeward.bus.sqlite import SqliteBus
from leeward.clock import Clock
from leeward.settings import ServiceName, Settings, SettingsError
from leeward.settings.files import describe_fault
from leeward.store import SqliteStore, Store
from leeward.store.copies import Connect, Copies
from leeward.store.copies.erasures import ErasureList


def store_of(settings: Settings, service: ServiceName, metadata: MetaData, clock: Clock) -> Store:
    """A service's database; nothing is connected yet.

    Raises:
        SettingsError: when the bus is Kafka and the database is not given, or the data folder cannot be made.
    """
    url = settings.database_url(service)
    if url:
        from leeward.store.postgresql import PostgresStore

        made: Store = PostgresStore(url, service, metadata, clock)
    elif settings.embedded:
        try:
            made = SqliteStore(settings.database_file(service), metadata, clock)
        except OSError as fault:
            raise SettingsError(f"LEEWARD_DATA: {describe_fault(fault, settings.data)}") from None
    else:
        key = f"LEEWARD_{service.upper()}_DATABASE_URL"
        raise SettingsError(f"{key}: is missing; Kafka needs PostgreSQL: allowed is postgresql+asyncpg://…")
    made.erasures = ErasureList(settings.erasures)
    return made


def bus_of(settings: Settings, stores: Mapping[str, Store], readers: Mapping[str, Sequence[ServiceName]]) -> Bus:
    """The bus between the services.

    Args:
        stores: this process's own, by service.
        readers: all services that read a topic, by topic, in whichever process they run.
    """
    if settings.bus_url:
        from leeward.bus.kafka import KafkaBus

        return KafkaBus(parse_brokers(settings.bus_url), dict(stores))
    return SqliteBus(settings, stores, readers)


def coverage_of(
    settings: Settings, reader: ServiceName, producers: Mapping[ServiceName, tuple[Connection, MetaData]]
) -> Coverage:
    """What these services had published at the moment that their connections read as of, for one that reads it."""
    if settings.bus_url:
        from leeward.bus.ends import KafkaCoverage

        return KafkaCoverage(parse_brokers(settings.bus_url), reader, producers)
    return SqliteCoverage(producers)


@contextmanager
def held_ends_of(settings: Settings, service: ServiceName, connect: Connect) -> Iterator[dict[int, int]]:
    """Where a service's topic ends, by partition, while it publishes nothing; empty where its outbox is the log."""
    if settings.bus_url:
        from leeward.bus.ends import held_ends

        with (
            connect(service) as conn,
            held_ends(parse_brokers(settings.bus_url), conn, f"leeward.{service}") as ends,
        ):
            yield ends
    else:
        yield {}


def published_since(settings: Settings, service: ServiceName, ends: Mapping[int, int]) -> set[str]:
    """The ids of what a service has published behind these places; none where its outbox is the log."""
    if settings.bus_url:
        from leeward.bus import ends as kafka

        return kafka.published_since(parse_brokers(settings.bus_url), f"leeward.{service}", ends)
    return set()


def copies_of(settings: Settings, connect: Connect) -> Copies:
    """How the databases of this installation are copied and put back."""
    if settings.embedded:
        from leeward.store.copies.sqlite import SqliteCopies

        return SqliteCopies(settings)
    from leeward.store.copies.postgresql import PostgresCopies

    return PostgresCopies(settings, connect)


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

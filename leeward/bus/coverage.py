"""Whether a consumer has applied all that others had published at a moment: a set of copies rests on it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection, MetaData, func, select

from leeward.bus.logs import renew_log
from leeward.settings import ServiceName
from leeward.store import ground_tables


class Coverage(Protocol):
    """What producers had published at one moment each."""

    def applied(self, reader: Connection, metadata: MetaData) -> bool:
        """Whether the consumer whose database this is has applied all of it."""
        ...


class SqliteCoverage:
    """Of logs that are their producers' outboxes; by service, a connection that reads as of the moment."""

    def __init__(self, producers: Mapping[ServiceName, tuple[Connection, MetaData]]) -> None:
        ends = {name: last_number(conn, metadata) for name, (conn, metadata) in producers.items()}
        self._ends = {f"leeward.{name}": end for name, end in ends.items()}

    def applied(self, reader: Connection, metadata: MetaData) -> bool:
        passed = dict(places_of(reader, metadata))
        return all(passed.get(topic, 0) >= end for topic, end in self._ends.items())


def last_number(conn: Connection, metadata: MetaData) -> int:
    """The number of the last event in an outbox, 0 where there is none."""
    return int(conn.execute(select(func.max(ground_tables(metadata).outbox.c.seq))).scalar() or 0)


@dataclass(frozen=True)
class RenewedLog:
    """A log that was put back: its new identity, its last number, and the ids of the events that readers are at."""

    identity: str
    end: int
    ids: Mapping[int, str]


def places_of(conn: Connection, metadata: MetaData) -> list[tuple[str, int]]:
    """The topics that a consumer reads, each with the last number that it has passed."""
    position = ground_tables(metadata).position
    return [(row.topic, row.seq) for row in conn.execute(select(position.c.topic, position.c.seq))]


def renewed(conn: Connection, metadata: MetaData, places: Collection[int]) -> RenewedLog:
    """Make the log of a database that was put back another one; `places` are the numbers that its readers are at."""
    log, outbox = ground_tables(metadata).log, ground_tables(metadata).outbox
    forgotten = conn.execute(select(log.c.forgotten_seq, log.c.forgotten_id)).one()
    end = max(last_number(conn, metadata), forgotten.forgotten_seq)
    found = conn.execute(select(outbox.c.seq, outbox.c.id).where(outbox.c.seq.in_({end, *places})))
    ids = {forgotten.forgotten_seq: forgotten.forgotten_id, **{row.seq: row.id for row in found}}
    return RenewedLog(renew_log(conn, metadata), end, ids)


def place_reader(conn: Connection, metadata: MetaData, logs: Mapping[str, RenewedLog]) -> None:
    """Have a consumer that was put back go on in the logs that were put back with it, by topic: none begins again.

    It may be past a log's end: it was copied later, and what it has applied of the time that is lost, it keeps.
    """
    position = ground_tables(metadata).position
    for topic, passed in places_of(conn, metadata):
        if log := logs.get(topic):
            seq = min(passed, log.end)
            known = {"seq": seq, "log": log.identity, "event_id": log.ids.get(seq, ""), "passed_seq": 0}
            conn.execute(position.update().where(position.c.topic == topic).values(known))


def waiting_ids(conn: Connection, metadata: MetaData) -> set[str]:
    """The events in an outbox."""
    return set(conn.execute(select(ground_tables(metadata).outbox.c.id)).scalars())

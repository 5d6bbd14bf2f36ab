"""A set of copies: whether its reader has applied all that was published, and where it goes on after a restore."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, MetaData, insert, select

from leeward.bus.coverage import SqliteCoverage, place_reader, places_of, renewed
from leeward.bus.logs import log_identity
from leeward.store import ground_tables
from leeward.store.sqlite import sqlite_engine

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
METADATA = MetaData()
GROUND = ground_tables(METADATA)
TOPIC = "leeward.incident"


@pytest.fixture
def producer(tmp_path: Path) -> Iterator[Connection]:
    yield from database(tmp_path / "incident.db")


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Connection]:
    yield from database(tmp_path / "matching.db")


def database(path: Path) -> Iterator[Connection]:
    engine = sqlite_engine(path)
    METADATA.create_all(engine)
    with engine.connect() as conn:
        yield conn
    engine.dispose()


def publish(conn: Connection, *ids: str) -> None:
    common = {"type": "t", "key": "k", "body": "{}", "accepted_at": NOON, "written_on": NOON.date()}
    conn.execute(insert(GROUND.outbox), [{"id": one, **common} for one in ids])


def passed(conn: Connection, seq: int, event_id: str = "") -> None:
    conn.execute(insert(GROUND.position).values(topic=TOPIC, seq=seq, event_id=event_id, log="before"))


def test_a_reader_covers_what_it_has_applied(producer: Connection, reader: Connection) -> None:
    assert SqliteCoverage({"incident": (producer, METADATA)}).applied(reader, METADATA)
    publish(producer, "a", "b")
    coverage = SqliteCoverage({"incident": (producer, METADATA)})
    assert not coverage.applied(reader, METADATA)
    passed(reader, 1)
    assert not coverage.applied(reader, METADATA)
    reader.execute(GROUND.position.update().values(seq=2))
    # what is published after the moment need not be applied
    publish(producer, "c")
    assert coverage.applied(reader, METADATA)


@pytest.mark.parametrize(
    ("at", "goes_on_at", "event"), [(1, 1, "a"), (3, 3, "c"), (7, 3, "c")], ids=["behind", "at the end", "further"]
)
def test_a_reader_goes_on_in_the_log_that_was_put_back_with_it(
    producer: Connection, reader: Connection, at: int, goes_on_at: int, event: str
) -> None:
    publish(producer, "a", "b", "c")
    passed(reader, at)
    before = log_identity(producer, METADATA)
    log = renewed(producer, METADATA, {number for _, number in places_of(reader, METADATA)})
    place_reader(reader, METADATA, {TOPIC: log})
    assert log.identity == log_identity(producer, METADATA) != before
    row = reader.execute(select(GROUND.position)).one()
    assert (row.seq, row.event_id, row.log) == (goes_on_at, event, log.identity)


def test_of_a_log_that_has_forgotten_all_the_last_number_still_counts(producer: Connection, reader: Connection) -> None:
    producer.execute(GROUND.log.update().values(forgotten_seq=5, forgotten_id="e"))
    passed(reader, 9)
    place_reader(reader, METADATA, {TOPIC: renewed(producer, METADATA, {9})})
    row = reader.execute(select(GROUND.position)).one()
    assert (row.seq, row.event_id) == (5, "e")

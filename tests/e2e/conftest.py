"""A fresh system for each story, stopped surely."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from leeward.settings import ServiceName
from services.demo.servers import Kafka, PostgreSQL
from tests.e2e.distributed import Distributed, Servers
from tests.e2e.harness import LIVE, Mailbox, Member, System
from tests.servers import serving

MakeSystem = Callable[..., System]
MakeDistributed = Callable[..., Distributed]

STAFF = (
    Member("AMY", unit="ICU", profession="nurse"),
    Member("BEN", unit="ICU", profession="physician", columns={"line_managers": "MAX"}),
    Member("MAX", unit="ICU", profession="physician", supporter=True),
    Member("REF", unit="GP", profession="physician"),
    Member("OLD", unit="ED", supporter=True, columns={"training_expires": "2026-01-31"}),
    Member("SUE", unit="ED", profession="nurse", supporter=True),
    Member("TOM", unit="OR", profession="physician", supporter=True),
)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    yield box
    box.stop_thread()


@pytest.fixture
def make_system(tmp_path: Path, mailbox: Mailbox) -> Iterator[MakeSystem]:
    """`make_system(policy, LEEWARD_CLOCK=...)`: a system that is not started yet, its roster not imported."""
    made: list[System] = []

    def make(policy: str = LIVE, **variables: str) -> System:
        folder = tmp_path / f"system{len(made)}"
        folder.mkdir()
        made.append(System(folder, mailbox, policy, **variables))
        return made[-1]

    yield make
    for system in made:
        system.close()


@pytest.fixture
def live(make_system: MakeSystem) -> System:
    """A live system with its roster imported, started at nine on Saturday 21 November 2026."""
    system = make_system(LIVE, LEEWARD_CLOCK="2026-11-21T09:00:00Z")
    system.import_roster(*STAFF)
    system.start()
    return system


@pytest.fixture
def servers(request: pytest.FixtureRequest, tmp_path: Path, postgresql_of_box: PostgreSQL) -> Iterator[Servers]:
    """A Kafka of the test's own: making one takes less time than emptying one that was killed."""
    postgresql: PostgreSQL = request.getfixturevalue(serving(request, "postgresql"))
    with Kafka(tmp_path / "kafka") as kafka:
        found = Servers(kafka, postgresql, postgresql_of_box)
        yield found
        found.restore()


@pytest.fixture
def make_distributed(tmp_path: Path, mailbox: Mailbox, servers: Servers) -> Iterator[MakeDistributed]:
    """`make_distributed(LIVE, {"matching": 2}, LEEWARD_CLOCK=...)`: not started yet, its databases not made."""
    made: list[Distributed] = []

    def make(policy: str = LIVE, replicas: Mapping[ServiceName, int] | None = None, **variables: str) -> Distributed:
        folder = tmp_path / f"distributed{len(made)}"
        folder.mkdir()
        made.append(Distributed(folder, mailbox, servers, policy, replicas, **variables))
        return made[-1]

    yield make
    for system in made:
        system.close()

"""Servers that all test processes of a run share: the first test that needs one starts it, and it ends with the run.

One costs seconds of processor time to start, and a broker costs some as long as it runs. Tests that stop or kill a
server bear the mark `own_servers` and get servers of their test process.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final, TypeVar

import pytest

from services.demo.servers import Kafka, LocalServer, PostgreSQL
from tests import nursery
from tests.browser import Chromium

S = TypeVar("S", bound="Shared")
KINDS: Final[dict[str, type[LocalServer]]] = {
    "kafka": Kafka,
    "postgresql": PostgreSQL,
    "postgresql-box": PostgreSQL,
    "chromium": Chromium,
}
_START: Final = 120.0  # seconds, on a busy machine
# what a test process makes on a server that others use too bears its name
WORKER: Final = os.environ.get("PYTEST_XDIST_WORKER", "gw0")


class Shared(LocalServer):
    """A server that others use too."""

    @property
    def port(self) -> int:
        return int((self.folder / "port").read_text(encoding="utf-8"))

    def start(self) -> None:
        """It runs as long as the run."""

    def kill(self) -> None:
        raise AssertionError(f"{self.NAME} is others' too; mark the test own_servers")

    stop = kill


class SharedKafka(Shared, Kafka):
    """The run's broker."""


class SharedPostgreSQL(Shared, PostgreSQL):
    """The run's cluster, or the box's; this test process sees databases of its own in it."""

    def url(self, database: str) -> str:
        return super().url(f"{WORKER}-{database}")

    def create(self, database: str, template: str = "") -> None:
        super().create(f"{WORKER}-{database}", f"{WORKER}-{template}" if template else "template1")

    def drop(self, database: str) -> None:
        super().drop(f"{WORKER}-{database}")


class SharedChromium(Shared, Chromium):
    """The run's browser."""


def share(name: str, kind: type[S]) -> S:
    """The run's server of this name in `KINDS`, started where nobody has yet."""
    folder = nursery.shared() / name
    with nursery.lock(name):
        if not folder.exists():
            folder.mkdir()
            _start(name, folder)
    return kind(folder)


def serving(request: pytest.FixtureRequest, server: str) -> str:
    """The fixture that this test gets its server from: the run's, or one that it may kill."""
    return f"own_{server}" if request.node.get_closest_marker("own_servers") else server


def _start(name: str, folder: Path) -> None:
    with (folder / "starter.log").open("ab") as log:
        process = nursery.Process(
            [name, folder], os.environ, stdout=log, stderr=log, main="tests.servers:serve", stays=True
        )
    until = time.monotonic() + _START
    while not (folder / "port").exists():
        assert process.poll() is None, (folder / "starter.log").read_text(encoding="utf-8")
        assert time.monotonic() < until, f"{name} does not start"
        time.sleep(0.02)
    process.connection.close()


def serve() -> None:
    """`NAME FOLDER`: start that server, write its port into the folder, and keep it."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    with KINDS[name](folder) as server:
        fresh = folder / "port.new"
        fresh.write_text(str(server.port), encoding="utf-8")
        fresh.rename(folder / "port")
        signal.pause()

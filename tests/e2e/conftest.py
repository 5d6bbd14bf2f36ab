"""A fresh system for each story, stopped surely."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import LIVE, Mailbox, Member, System

MakeSystem = Callable[..., System]

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
    box.stop()


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
        if system.process and system.process.poll() is None:
            system.process.kill()
            system.process.wait()


@pytest.fixture
def live(make_system: MakeSystem) -> System:
    """A live system with its roster imported, started at nine on Saturday 21 November 2026."""
    system = make_system(LIVE, LEEWARD_CLOCK="2026-11-21T09:00:00Z")
    system.import_roster(*STAFF)
    system.start()
    return system

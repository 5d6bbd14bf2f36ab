"""The worlds the contracts are told in: one for each adapter."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from leeward.settings import Settings
from leeward.testing import ManualClock
from tests.contract.adapters import ADAPTERS
from tests.contract.databases import KINDS, Cluster, Databases
from tests.contract.world import World


@pytest_asyncio.fixture(params=ADAPTERS)
async def world(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> AsyncIterator[World]:
    opened = World(ADAPTERS[request.param](request, settings, clock), clock)
    await opened.create()
    yield opened
    await opened.close()


@pytest.fixture(params=KINDS)
def databases(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> Iterator[Databases]:
    """Databases of either kind."""
    found = KINDS[request.param](request, settings, clock)
    yield found
    found.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest, settings: Settings, clock: ManualClock) -> Iterator[Cluster]:
    """Databases of PostgreSQL, for what only replicas can do."""
    found = Cluster(request, settings, clock)
    yield found
    found.close()

"""The worlds the bus contract is told in: one for each adapter."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from leeward.clock import FakeClock
from leeward.settings import Settings
from tests.contract.adapters import ADAPTERS
from tests.contract.world import World


@pytest_asyncio.fixture(params=ADAPTERS)
async def world(request: pytest.FixtureRequest, settings: Settings, clock: FakeClock) -> AsyncIterator[World]:
    ways = ADAPTERS[request.param](request, settings, clock)
    opened = World(ways, clock)
    await opened.create()
    yield opened
    await opened.close()

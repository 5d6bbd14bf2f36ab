"""The worlds the bus contract is told in: one for each adapter."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from leeward.clock import FakeClock
from leeward.settings import Settings
from tests.contract.world import World


@pytest_asyncio.fixture(params=["sqlite"])
async def world(request: pytest.FixtureRequest, settings: Settings, clock: FakeClock) -> AsyncIterator[World]:
    opened = World(request.param, settings, clock)
    yield opened
    await opened.close()

"""Fixtures: matching alone, on a fresh store, with a hospital around it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from leeward.service import Context
from leeward.testing import ManualClock, member
from services.matching import build
from services.matching.models import METADATA
from services.matching.site import site_of
from tests.services.matching.hospital import LIVE, Hospital, Open, supporter, with_policy

MakeContext = Callable[[Any, Any], Context]


@pytest.fixture
def open_hospital(make_context: MakeContext, clock: ManualClock) -> Open:
    """`open_hospital(outreach={...})`: matching with that policy, live unless said otherwise."""

    def open_one(**sections: dict[str, Any]) -> Hospital:
        plain = make_context("matching", METADATA)
        policy = {**sections, "outreach": {**LIVE, "cover_every": None, **sections.get("outreach", {})}}
        context = replace(plain, settings=with_policy(plain.settings, **policy))
        site = site_of(context.settings, context.keys)
        return Hospital(context, clock, site, build(context))

    return open_one


@pytest_asyncio.fixture
async def hospital(open_hospital: Open) -> Hospital:
    """Live, with Ann the nurse of the ICU, and three supporters of other units."""
    found = open_hospital()
    await found.staff(member("ann"), member("bob"), supporter("sue"), supporter("tim"), supporter("una"))
    await found.start()
    return found

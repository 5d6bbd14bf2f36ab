"""From a closed case to a released figure, over real HTTP, with the page's own steps."""

import asyncio

from services.feedback.reports import ITEMS
from tests.services.feedback.conftest import EPOCH, TOKENS, Feedback


async def test_ten_ratings_become_one_release(feedback: Feedback) -> None:
    codes = await feedback.codes(TOKENS)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    await asyncio.gather(*(feedback.spend(code, answer=5, tags=("listening",)) for code in codes[:8]))
    await asyncio.gather(*(feedback.spend(code, answer=1) for code in codes[8:]))
    assert await feedback.reports() == []
    await feedback.window_ends()
    release, = await feedback.reports()
    assert release["n"] == 10
    assert set(release["items"]) == set(ITEMS)

"""notify's figures, and what its start asks for."""

from dataclasses import replace

import pytest

from leeward.settings import SettingsError
from leeward.settings.policy import WebhookChannel
from services.notify import SERVICE
from services.notify.models import METADATA
from tests.conftest import MakeContext
from tests.services.notify.world import ANNA, World


async def test_figures_are_counts_and_codes(world: World) -> None:
    await world.asks(ANNA)
    await world.mailed()
    await world.stop()
    await world.start()
    figures = await world.context.store.read(lambda conn: SERVICE.status(conn, world.context.settings))
    assert figures == {"mode": "live", "recipients": 2, "reachable": 2, "messages": {"handed_off": 1}}


def test_a_webhook_without_its_secret_stops_the_start_in_rehearsal_too(make_context: MakeContext) -> None:
    context = make_context("notify", METADATA)
    policy = context.settings.channels.model_copy(update={"webhook": WebhookChannel(url="https://x.example")})
    without = replace(context, settings=context.settings.model_copy(update={"channels": policy}))
    with pytest.raises(SettingsError, match="LEEWARD_WEBHOOK_SECRET: is missing"):
        SERVICE.build(without)

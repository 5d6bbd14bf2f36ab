"""notify's tables as migrations make them, and its figures."""

from pathlib import Path

from leeward.store.migrate import drift, migrate
from leeward.store.sqlite import sqlite_engine
from services.notify import SERVICE
from services.notify.models import METADATA
from tests.services.notify.world import ANNA, World


def test_migrations_make_what_the_models_say(tmp_path: Path) -> None:
    engine = sqlite_engine(tmp_path / "notify.db")
    with engine.begin() as conn:
        assert migrate(conn, "services.notify", METADATA)
        assert drift(conn, METADATA) == []
    engine.dispose()


async def test_figures_are_counts_and_codes(world: World) -> None:
    await world.asks(ANNA)
    await world.mailed()
    await world.stop()
    await world.start()
    figures = await world.ground.store.read(lambda conn: SERVICE.status(conn, world.ground.settings))
    assert figures == {"mode": "live", "recipients": 2, "reachable": 2, "messages": {"handed_off": 1}}

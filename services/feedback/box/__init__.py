"""`box`: takes anonymous ratings and releases reports; consumes no event and publishes none (DESIGN §7)."""

from typing import Any

from sqlalchemy import Connection, func, select

from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import ground_tables
from services.feedback.box.api import routes
from services.feedback.box.epochs import EpochKeeper
from services.feedback.box.models import EPOCH, METADATA, RELEASE

ground_tables(METADATA)


def build(context: Context) -> Wiring:
    """The box's parts: pages and routes, and the task that follows the issuer's epochs."""
    return Wiring(router=routes(context), tasks=[EpochKeeper(context).run])


def status(conn: Connection, _settings: Settings) -> dict[str, Any]:
    """Windows open, releases made, and whether a window held more answers than tokens, or unreadable ones."""
    windows = conn.execute(select(func.count()).select_from(EPOCH).where(EPOCH.c.state == "rating")).scalar_one()
    doubtful = conn.execute(select(func.count()).select_from(EPOCH).where(EPOCH.c.doubtful > 0)).scalar_one()
    released = conn.execute(select(func.count()).select_from(RELEASE)).scalar_one()
    return {"windows_open": windows, "releases": released, "epochs_in_doubt": doubtful}


SERVICE = Service("box", METADATA, build, status)

__all__ = ["SERVICE"]

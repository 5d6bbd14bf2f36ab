"""`box`: takes anonymous ratings and releases reports; consumes no event and publishes none (DESIGN §7)."""

from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection

from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import ground_tables, table_of
from leeward.timekeeping.moments import Moments
from services.feedback.box import repository
from services.feedback.box.api import data_routes
from services.feedback.box.epochs import EpochKeeper
from services.feedback.box.models import METADATA, RatingEpoch
from services.feedback.box.pages import page_routes

ground_tables(METADATA)


def build(context: Context) -> Wiring:
    """The box's parts: pages and routes, and the task that follows the issuer's epochs."""
    router = APIRouter()
    router.include_router(page_routes(context))
    router.include_router(data_routes(context))
    return Wiring(router=router, tasks=[EpochKeeper(context).run])


def status(conn: Connection, _settings: Settings) -> dict[str, Any]:
    """Windows open, releases made, and whether a window held more answers than tokens, or unreadable ones."""
    return dict(repository.count_rows(conn))


def left_out(conn: Connection) -> tuple[str, ...]:
    """The ratings of a window that is open: two copies would tell which came in between (DESIGN §7)."""
    return ("sealed",) if repository.count_rows(conn)["windows_open"] else ()


def moments(settings: Settings) -> list[Moments]:
    """When the present rating window closes."""
    return [Moments(table_of(RatingEpoch), ("closes_at",), longest=settings.feedback.window)]


SERVICE = Service("box", METADATA, build, status, left_out=left_out, moments=moments)

__all__ = ["SERVICE"]

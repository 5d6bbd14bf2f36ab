"""matching: who is asked to support whom; the only service that maps a person_ref to a recipient_ref."""

import asyncio
from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter

from leeward.people import Member
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import Unit
from leeward.web.login import login_router
from services.matching import inputs
from services.matching.coordinator import board, routes
from services.matching.coordinator.status import status
from services.matching.inputs import hourly, restored, retention
from services.matching.models import METADATA
from services.matching.roster import importing
from services.matching.site import site_of


def build(context: Context) -> Wiring:
    """The running service's routes, handlers, timers and its first act."""
    site = site_of(context.settings, context.keys)
    router = APIRouter()
    routes.add_routes(router, context, site)
    board.add_routes(router, context, site)
    router.include_router(login_router(context))

    async def begin(_stop: asyncio.Event) -> None:
        if context.store.erasures:
            await asyncio.to_thread(context.store.erasures.begin, context.clock.now())
        await context.store.write(lambda unit: hourly.begin(unit, site))

    return Wiring(router, inputs.event_handlers(site), inputs.timer_handlers(site), (begin,), retention.parts())


def import_roster(unit: Unit, members: Sequence[Member], _settings: Settings) -> None:
    """Take over the people of a roster."""
    importing.apply(unit, members)


SERVICE: Final = Service(
    "matching",
    METADATA,
    build,
    status,
    import_roster,
    restored=restored.bring_to_present,
    reads=("leeward.incident", "leeward.notify"),
)

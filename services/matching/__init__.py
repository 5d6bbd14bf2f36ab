"""matching: who is asked to support whom; the only service that maps a person_ref to a recipient_ref."""

import asyncio
from typing import Final

from fastapi import APIRouter

from leeward.service import Ground, Parts, Service, Task
from leeward.web.login import login_router
from services.matching import inputs
from services.matching.coordinator import board, routes
from services.matching.coordinator.status import status
from services.matching.inputs import hourly
from services.matching.models import METADATA
from services.matching.site import Office, office


def build(ground: Ground) -> Parts:
    """The running service's routes, handlers, timers and its first act."""
    mine = office(ground)
    router = APIRouter()
    routes.add_routes(router, ground, mine)
    board.add_routes(router, ground, mine)
    router.include_router(login_router(ground))
    return Parts(router, inputs.event_handlers(mine), inputs.timer_handlers(mine), (_begin(ground, mine),))


def _begin(ground: Ground, mine: Office) -> Task:
    async def begin(_stop: asyncio.Event) -> None:
        await ground.store.write(lambda unit: hourly.begin(unit, mine))

    return begin


SERVICE: Final = Service("matching", METADATA, build, status)

"""matching: who is asked to support whom; the only service that maps a person_ref to a recipient_ref."""

import asyncio
from typing import Final

from fastapi import APIRouter

from leeward.service import Ground, Parts, Service, Task
from leeward.web.login import login_router
from services.matching import api, board, handlers, upkeep
from services.matching.models import METADATA
from services.matching.office import Office, office
from services.matching.status import status


def build(ground: Ground) -> Parts:
    """The running service's routes, handlers, timers and its first act."""
    mine = office(ground)
    router = APIRouter()
    api.add_routes(router, ground, mine)
    board.add_routes(router, ground, mine)
    router.include_router(login_router(ground))
    return Parts(router, handlers.event_handlers(mine), handlers.timer_handlers(mine), (_begin(ground, mine),))


def _begin(ground: Ground, mine: Office) -> Task:
    async def begin(_stop: asyncio.Event) -> None:
        await ground.store.write(lambda unit: upkeep.begin(unit, mine))

    return begin


SERVICE: Final = Service("matching", METADATA, build, status)

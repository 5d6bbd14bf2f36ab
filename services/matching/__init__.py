"""matching: who is asked to support whom; the only service that maps a person_ref to a recipient_ref."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from fastapi import APIRouter

from leeward.contracts.buckets import BUCKET
from leeward.people import Member
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import Unit, table_of
from leeward.store.copies.erasures import check_appendable
from leeward.timekeeping.moments import Moments
from leeward.web.login import login_router
from services.matching import inputs
from services.matching.coordinator import board, routes
from services.matching.coordinator.status import status
from services.matching.inputs import hourly, restored, retention
from services.matching.inputs.cover import FIRST_COVER
from services.matching.lifecycle.steps import LIMIT
from services.matching.models import METADATA, RequestRow, RosterPerson, SupportCase, SupporterLoad
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


def moments(settings: Settings) -> list[Moments]:
    """Times of cases move with them; the others are cut to how far the rules let them lie ahead."""
    outreach, supporters = settings.outreach, settings.supporters
    every = outreach.cover_every or timedelta()
    return [
        Moments(table_of(SupportCase), ("ends_at", "accepted_at", "confirm_by"), stamp="opened_at"),
        Moments(table_of(SupportCase), ("ends_at",), longest=LIMIT),
        Moments(table_of(SupportCase), ("occurred_at",), longest=timedelta()),
        Moments(table_of(RequestRow), ("expires_at",), longest=LIMIT + BUCKET),
        Moments(table_of(RosterPerson), ("quiet_until",), longest=outreach.coalesce),
        Moments(table_of(RosterPerson), ("since",), longest=timedelta()),
        Moments(table_of(SupporterLoad), ("rest_until",), longest=supporters.cool_down),
        Moments(table_of(SupporterLoad), ("exposed_until",), longest=supporters.after_exposure),
        Moments(table_of(RosterPerson), ("cover_due",), longest=every + FIRST_COVER),
    ]


def check(settings: Settings) -> None:
    """Refuse a start whose erasures could not be listed.

    Raises:
        SettingsError: see `check_appendable`.
    """
    check_appendable(settings.erasures)


SERVICE: Final = Service(
    "matching",
    METADATA,
    build,
    status,
    import_roster,
    check,
    moments=moments,
    restored=restored.bring_to_present,
    reads=("leeward.incident", "leeward.notify"),
)

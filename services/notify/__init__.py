"""`notify`: knows who can be reached how, sends neutral messages and shows the pages behind them; never why."""

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import uuid4

from fastapi import APIRouter
from sqlalchemy import Connection

from leeward.contracts.buckets import BUCKET
from leeward.people import Member
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import Unit
from leeward.timekeeping.guard import ahead_by
from leeward.timekeeping.moments import Moments
from leeward.web.look import Pages
from services.notify import public, restored, retention
from services.notify.channels import registry
from services.notify.channels.wording import TEMPLATES
from services.notify.delivery.deliveries import Outgoing
from services.notify.delivery.sender import Dispatch
from services.notify.links import seals
from services.notify.models import CALL, CODE, DELIVERY, METADATA, QUESTION
from services.notify.on_call import LIFE as LIFE_OF_CALLS
from services.notify.on_call import TIMER, OnCallRounds
from services.notify.questions.answers import Answers
from services.notify.questions.pages import MessagePages
from services.notify.questions.question import LONGEST
from services.notify.questions.requests import Handlers
from services.notify.recipients import importing
from services.notify.repository import count_figures
from services.notify.self_request import LIFE as LIFE_OF_CODES
from services.notify.self_request import SelfRequestPages


def build(context: Context) -> Wiring:
    """notify's parts: in rehearsal without any channel, so that nothing can leave.

    Raises:
        SettingsError: when what a channel needs is missing.
    """
    turned_on = registry.entries_on(context.settings)
    # what a rehearsal notes does not depend on which channels are set up already
    rehearsal = context.settings.outreach.mode == "rehearsal"
    channels = registry.CHANNELS if rehearsal else turned_on
    outgoing = Outgoing(context.settings, channels, seals(context.keys), uuid4().hex)
    outgoing.ahead = partial(ahead_by, context.clock)
    dispatch = Dispatch(context, outgoing)
    on_call = OnCallRounds(outgoing)
    look = Pages(TEMPLATES, context.settings)
    router = APIRouter()
    router.include_router(MessagePages(context, look, Answers(outgoing, on_call), on_call).routes())
    router.include_router(SelfRequestPages(context, look, outgoing).routes())
    router.include_router(public.routes(context, look))
    return Wiring(
        router=router,
        handlers=Handlers(outgoing, outgoing.seals).table(),
        timers={TIMER: on_call.fire},
        tasks=[
            dispatch.recovery.run,
            dispatch.pump,
            *(post.run for post in dispatch.posts.values()),
        ],
        retention=retention.parts(),
        unready=[dispatch.unready],
    )


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """How many can be reached, and what became of the messages of the last 14 days."""
    return {"mode": settings.outreach.mode, **count_figures(conn)}


def import_roster(unit: Unit, members: Sequence[Member], _settings: Settings) -> None:
    """Take over the contacts of a roster."""
    importing.apply(unit, members)


def moments(settings: Settings) -> list[Moments]:
    """Times of hand-offs move with them; what another service has asked for until then is cut to what it may ask."""
    ends = {"expires_at": LONGEST, "hold_deadline": settings.outreach.longest_hold + BUCKET}
    return [
        Moments(DELIVERY, ("due_at", "wake_at"), stamp="changed_at"),
        *(Moments(DELIVERY, (column,), stamp="changed_at", longest=longest) for column, longest in ends.items()),
        Moments(QUESTION, ("expires_at",), stamp="accepted_at", longest=LONGEST),
        Moments(QUESTION, ("answered_at", "accepted_at"), longest=timedelta()),
        Moments(CODE, ("expires_at",), longest=LIFE_OF_CODES),
        Moments(CALL, ("expires_at",), longest=LIFE_OF_CALLS),
    ]


SERVICE: Final = Service(
    "notify",
    METADATA,
    build,
    status,
    import_roster,
    registry.entries_on,
    moments=moments,
    restored=restored.bring_to_present,
    reads=("leeward.matching",),
)

__all__ = ["SERVICE"]

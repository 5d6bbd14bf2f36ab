"""`issuer`: knows which closed case may still fetch a token, and signs it without seeing it (DESIGN §7)."""

import asyncio
from typing import Any

from sqlalchemy import Connection, func, select

from leeward.contracts import CaseClosed
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import Unit, ground_tables
from services.feedback.issuer import claims, epochs
from services.feedback.issuer.api import router
from services.feedback.issuer.models import EPOCH, METADATA

ground_tables(METADATA)


def build(context: Context) -> Wiring:
    """The issuer's parts; the first epoch is opened at the first start."""
    safe = epochs.Safe(context.keys)
    policy = context.settings.feedback

    def first(unit: Unit) -> None:
        epochs.issuing(unit, safe, policy)

    async def open_first(_stop: asyncio.Event) -> None:
        await context.store.write(first)

    return Wiring(
        router=router(context, safe),
        handlers={CaseClosed: claims.case_closed},
        timers={
            epochs.CLOSE: epochs.close_epochs(safe, policy),
            epochs.END: epochs.end_epochs,
            claims.FORGET: claims.forget_unused,
        },
        tasks=[open_first],
    )


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """How many epochs there were, and whether one signs now."""
    count = conn.execute(select(func.count()).select_from(EPOCH)).scalar_one()
    signing = conn.execute(select(func.count()).select_from(EPOCH).where(EPOCH.c.issuing == 1)).scalar_one()
    return {"epochs": count, "signing": bool(signing), "tokens_an_epoch": settings.feedback.epoch_tokens}


SERVICE = Service("issuer", METADATA, build, status)

__all__ = ["SERVICE"]

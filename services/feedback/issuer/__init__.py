"""`issuer`: knows which closed case may still fetch a token, and signs it without seeing it (DESIGN §7)."""

import asyncio
from typing import Any

from sqlalchemy import Connection

from leeward.contracts import CaseClosed
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings
from leeward.store import ground_tables
from leeward.timekeeping.moments import past_times
from services.feedback.issuer import claims, epochs, repository
from services.feedback.issuer.api import router
from services.feedback.issuer.models import METADATA

ground_tables(METADATA)


def build(context: Context) -> Wiring:
    """The issuer's parts; the first epoch is opened at the first start."""
    safe = epochs.Safe(context.keys)
    policy = context.settings.feedback

    async def open_first(_stop: asyncio.Event) -> None:
        await context.store.write(lambda unit: epochs.signing_epoch(unit, safe, policy))

    return Wiring(
        router=router(context, safe),
        handlers={CaseClosed: claims.allow_tokens},
        timers={
            epochs.CLOSE: epochs.close_epochs(safe, policy),
            epochs.END: epochs.end_epochs,
            claims.DELETE: claims.delete_unused,
        },
        tasks=[open_first],
    )


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """How many epochs there were, and whether one signs now."""
    count, signing = repository.count_epochs(conn), repository.is_signing(conn)
    return {"epochs": count, "signing": signing, "tokens_an_epoch": settings.feedback.epoch_tokens}


SERVICE = Service(
    "issuer",
    METADATA,
    build,
    status,
    moments=lambda _settings: past_times(METADATA),
    reads=("leeward.matching",),
)

__all__ = ["SERVICE"]

"""incident: takes severe outcomes from the hospital's systems and publishes those that lead to offers.

It knows staff identifiers as keyed hashes that lead to `person_ref`, and patients as keyed hashes alone.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection

from leeward import telemetry
from leeward.listening import listening
from leeward.people import Member
from leeward.service import Context, Restored, Service, Wiring
from leeward.settings import Settings
from leeward.settings.keys import own_key
from leeward.store import Unit
from leeward.store.retention import delete_all
from leeward.timekeeping.moments import past_times
from services.incident import repository, roster
from services.incident.hashing import Hasher
from services.incident.intake.intake import Intake
from services.incident.intake.subscriptions import Silence
from services.incident.models import METADATA
from services.incident.reconciliation import summarize, watch_figures
from services.incident.retention import delete_expired, destroy_keys, resolve_known
from services.incident.review import page, queue_routes
from services.incident.review import routes as review_routes
from services.incident.sealing import KEY_TIMER
from services.incident.sources import routes as source_routes
from services.incident.sources.fhir import routes as fhir_routes
from services.incident.sources.fhir.fetcher import fetchers
from services.incident.sources.hl7v2.listener import Listener
from services.incident.sources.hl7v2.receiver import Hl7Receiver
from services.incident.sources.hl7v2.tls import expiries, peer_verifier_of


def build(context: Context) -> Wiring:
    """Routes, the MLLP listener, the reading from FHIR servers, the destruction of day keys, and retention."""
    hasher, intake = Hasher.of(context.keys), Intake(context)
    receiver = Hl7Receiver(context.settings.sources, context.clock, hasher, intake)
    router = APIRouter()
    source_routes.add_routes(router, context, receiver, intake, hasher)
    review_routes.add_routes(router, context)
    queue_routes.add_routes(router, context, hasher)
    fhir_routes.add_routes(router, context, intake, hasher)
    page.add_routes(router, context, hasher)
    return Wiring(
        router=router,
        timers={KEY_TIMER: partial(destroy_keys, tidy=context.store.untidy.set)},
        tasks=(
            partial(listen, context.settings, receiver),
            *(fetcher.run for fetcher in fetchers(context, intake)),
            Silence(context).run,
            watch_figures(context.store),
        ),
        retention=[resolve_known, delete_expired],
    )


async def listen(settings: Settings, receiver: Hl7Receiver, stop: asyncio.Event) -> None:
    """The MLLP port: elsewhere than on loopback only with an authority that signs every sender (DESIGN §9)."""
    verifier = peer_verifier_of(settings)
    if not settings.on_loopback and not verifier.mutual:
        telemetry.log("mllp_not_started", reason="needs_client_ca", port=settings.mllp_port)
        await stop.wait()
        return
    if verifier.context:
        telemetry.MLLP_CERTIFICATE_EXPIRES.set(min(expiries(settings).values()).timestamp())
    with listening(settings.host, settings.mllp_port, "MLLP_PORT") as bound:
        await Listener(receiver.from_mllp, verifier).run(bound, stop)


def status(conn: Connection, settings: Settings) -> dict[str, Any]:
    """Figures for `leeward status`."""
    counts = repository.count_rows(conn)
    to_fetch = counts.pop("to_fetch")
    return {**counts, "sources": len(settings.sources), "reconciliation": summarize(conn), "to_fetch": to_fetch}


def import_roster(unit: Unit, members: Sequence[Member], settings: Settings) -> None:
    """Take over the identifiers of a roster, hashed with this service's own key."""
    roster.apply(unit, members, own_key(settings, "incident"))


def left_out(_conn: Connection) -> tuple[str, str]:
    """Raw messages and the keys of their days are in no backup (DESIGN §5.12)."""
    return "raw_message", "day_key"


def bring_to_present(unit: Unit, restored: Restored) -> None:
    """After a restore: nobody who has left is found by an identifier any more, and what is too old is deleted."""
    roster.withdraw(unit, restored.persons)
    delete_all(unit, resolve_known, delete_expired)


SERVICE = Service(
    "incident",
    METADATA,
    build,
    status,
    import_roster,
    moments=lambda _settings: past_times(METADATA),
    left_out=left_out,
    restored=bring_to_present,
)

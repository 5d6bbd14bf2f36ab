"""HTTP: what sources send (CONTRACT §Inbound)."""

from typing import Annotated, Final

from fastapi import APIRouter, Header, Request, Response

from leeward import telemetry
from leeward.service import Context
from leeward.timekeeping.guard import bear_out
from leeward.web.access import SOURCE
from leeward.web.problem import Problem
from services.incident.hashing import Hasher
from services.incident.intake.intake import Intake
from services.incident.sources.access import authenticate_source, signed_at
from services.incident.sources.hl7v2.receiver import STORAGE_FAULTS, Hl7Receiver
from services.incident.sources.native import submission
from services.incident.sources.native.submission import CSV, JSON

HL7: Final = "application/hl7-v2"
IdempotencyKey = Annotated[str | None, Header()]  # for openapi.json; what counts is `submissions.idempotency_key`


def add_routes(router: APIRouter, context: Context, receiver: Hl7Receiver, intake: Intake, hasher: Hasher) -> None:
    """`/v1/hl7v2` and `/v1/incidents`."""

    @router.post("/v1/hl7v2", dependencies=[SOURCE])
    async def hl7v2(request: Request) -> Response:
        """An HL7 v2 message; the acknowledgement is the answer, an empty one where the sender wants none."""
        _expect(request, HL7)
        body = await request.body()
        source = authenticate_source(context.settings, "hl7v2", request, body)
        try:
            answers = await receiver.from_http(body, source)
        except STORAGE_FAULTS:
            raise _try_again() from None
        return Response(answers[-1] if answers else b"", media_type=HL7)

    @router.post("/v1/incidents", dependencies=[SOURCE], status_code=202)
    async def incidents(request: Request, idempotency_key: IdempotencyKey = None) -> dict[str, str | int]:
        """A native report, or a table of them; the receipt says that all is safely stored, and nothing about what
        it leads to."""
        media_type = _expect(request, JSON, CSV)
        body = await request.body()
        source = authenticate_source(context.settings, "native", request, body)
        await bear_out(context.clock, signed_at(request))
        key = submission.idempotency_key(request) or request.headers.get("webhook-id")
        item = submission.build_item(body, media_type, source, key, hasher)
        try:
            receipt = submission.receipt_of(await intake(item), source)
        except STORAGE_FAULTS:
            telemetry.MESSAGES_REFUSED.labels("http", "storage").inc()
            raise _try_again() from None
        return {"receipt": receipt, "count": len(item.signals)} if media_type == CSV else {"receipt": receipt}


def _expect(request: Request, *allowed: str) -> str:
    """The media type of a request's body, one of those allowed."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in allowed:
        telemetry.MESSAGES_REFUSED.labels("http", "media_type").inc()
        raise Problem(415, "wrong-media-type", f"Content-Type: must be {' or '.join(allowed)}.")
    return given


def _try_again() -> Problem:
    return Problem(
        503, "try-again", "Nothing was stored; the same request may work later.", headers={"Retry-After": "5"}
    )

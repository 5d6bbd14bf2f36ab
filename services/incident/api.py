"""HTTP: what sources send, and what a coordinator reviews (CONTRACT §Inbound, §HTTP)."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from leeward import telemetry
from leeward.service import Ground
from leeward.web.access import SOURCE, role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.incident import queue, review, submissions
from services.incident.access import sender
from services.incident.domain import State
from services.incident.edge import STORAGE_FAULTS, Edge
from services.incident.intake import Intake
from services.incident.marks import Marks
from services.incident.sealing import identifier_box
from services.incident.sources.native import NativeIdentifier
from services.incident.submissions import CSV, JSON

COORDINATOR: Final = role("coordinator")
HL7: Final = "application/hl7-v2"
Ref = Annotated[str, Path(max_length=36)]
IdempotencyKey = Annotated[str | None, Header()]  # for openapi.json; what counts is `submissions.idempotency_key`


class Resolution(BaseModel):
    """What a coordinator says about an unmatched identifier: whose it is, or that it is nobody's."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    same_as: NativeIdentifier | None = None
    ignore: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Resolution":
        if (self.same_as is None) == (self.ignore is None):
            raise PydanticCustomError("one_of", "exactly one of same_as and ignore is needed")
        return self


def routes(ground: Ground, edge: Edge, intake: Intake, marks: Marks) -> APIRouter:
    """All routes of incident."""
    router = APIRouter()
    _source_routes(router, ground, edge, intake, marks)
    _review_routes(router, ground)
    _queue_routes(router, ground, marks)
    return router


def _source_routes(router: APIRouter, ground: Ground, edge: Edge, intake: Intake, marks: Marks) -> None:
    @router.post("/v1/hl7v2", dependencies=[SOURCE])
    async def hl7v2(request: Request) -> Response:
        """An HL7 v2 message; the acknowledgement is the answer, an empty one where the sender wants none."""
        _expect(request, HL7)
        body = await request.body()
        source = sender(ground.settings, "hl7v2", request, body)
        try:
            answers = await edge.from_http(body, source)
        except STORAGE_FAULTS:
            raise _try_again() from None
        return Response(answers[-1] if answers else b"", media_type=HL7)

    @router.post("/v1/incidents", dependencies=[SOURCE], status_code=202)
    async def incidents(request: Request, idempotency_key: IdempotencyKey = None) -> dict[str, str | int]:
        """A native report, or a table of them; the receipt says that all is safely stored, and nothing about what
        it leads to."""
        media_type = _expect(request, JSON, CSV)
        body = await request.body()
        source = sender(ground.settings, "native", request, body)
        key = submissions.idempotency_key(request) or request.headers.get("webhook-id")
        item = submissions.item(body, media_type, source, key, marks)
        try:
            receipt = submissions.receipt(await intake(item), source)
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


def _review_routes(router: APIRouter, ground: Ground) -> None:
    @router.get("/v1/incidents", dependencies=[COORDINATOR])
    async def listed(state: State | None = None, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        """Incidents, the newest first."""
        start = after(cursor)
        try:
            rows = await ground.store.read(lambda conn: review.listed(conn, state, start, limit + 1))
        except ValueError:
            raise Problem(422, "not-valid", "cursor: is not one that a list of ours gave") from None
        return page(rows, limit, review.sort_key, review.shown)

    @router.get("/v1/incidents/{incident_ref}", dependencies=[COORDINATOR])
    async def one(incident_ref: Ref) -> dict[str, Any]:
        """One incident."""
        return _incident(await ground.store.read(lambda conn: review.find(conn, incident_ref)))

    @router.post("/v1/incidents/{incident_ref}/confirm", dependencies=[COORDINATOR])
    async def confirm(incident_ref: Ref) -> dict[str, Any]:
        """It is one: publish it."""
        return _incident(await _settle(lambda unit: review.confirm(unit, incident_ref)))

    @router.post("/v1/incidents/{incident_ref}/dismiss", dependencies=[COORDINATOR])
    async def dismiss(incident_ref: Ref) -> dict[str, Any]:
        """It is none."""
        return _incident(await _settle(lambda unit: review.dismiss(unit, incident_ref)))

    async def _settle(work: Any) -> Any:
        try:
            return await ground.store.write(work)
        except review.Settled:
            raise Problem(409, "already-settled", "This incident does not wait for a word any more.") from None


def _incident(row: Any) -> dict[str, Any]:
    if row is None:
        raise Problem(404, "unknown-incident", "There is no such incident.")
    return review.shown(row)


def _queue_routes(router: APIRouter, ground: Ground, marks: Marks) -> None:
    box = identifier_box(ground.keys)

    @router.get("/v1/unmatched", dependencies=[COORDINATOR])
    async def unmatched(limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        """Identifiers that led to nobody on the roster; `system` is null where the authority is not a listed one."""
        start = after(cursor)
        rows = await ground.store.read(lambda conn: queue.listed(conn, box, start, limit + 1))
        return page(rows, limit, lambda row: row[0], lambda row: {"id": row[0], **row[1]._asdict()})

    @router.post("/v1/unmatched/{unmatched_ref}/resolve", dependencies=[COORDINATOR])
    async def resolve(unmatched_ref: Ref, resolution: Resolution) -> dict[str, str]:
        """Say whose identifier it is, or that it is nobody's."""
        key = marks.of_staff(resolution.same_as.plain()) if resolution.same_as else None
        try:
            state = await ground.store.write(lambda unit: queue.settle(unit, unmatched_ref, key))
        except queue.NotInQueue:
            raise Problem(404, "unknown-identifier", "There is no such identifier in the work queue.") from None
        except queue.NotOnRoster:
            raise Problem(422, "not-valid", "same_as: must be an identifier of the roster.") from None
        return {"id": unmatched_ref, "state": state}

"""HTTP: what sources send, and what a coordinator reviews (CONTRACT §Inbound, §HTTP)."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from leeward import telemetry
from leeward.service import Ground
from leeward.web.access import SOURCE, role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.incident import queue, review
from services.incident.access import sender
from services.incident.domain import State
from services.incident.edge import STORAGE_FAULTS, Edge
from services.incident.intake import Accepted, Intake, Item, hashed
from services.incident.marks import Marks
from services.incident.sealing import identifier_box
from services.incident.sources.native import NativeIdentifier, NativeIncident

COORDINATOR: Final = role("coordinator")
HL7: Final = "application/hl7-v2"
JSON: Final = "application/json"
Ref = Annotated[str, Path(max_length=36)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


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
    async def incidents(request: Request, idempotency_key: IdempotencyKey = None) -> dict[str, str]:
        """A native report; the receipt says that it is safely stored, and nothing about what it leads to."""
        _expect(request, JSON)
        body = await request.body()
        source = sender(ground.settings, "native", request, body)
        report = parsed(body).report(source)
        given = idempotency_key or request.headers.get("webhook-id")
        names = (b"key", given.encode()) if given else (b"ref", report.source_ref.encode())
        item = Item(
            source=source,
            raw=body,
            mark=marks.of_message(b"native", source.encode(), *names),
            signals=(hashed(report, marks),),
            body_mark=marks.of_message(b"body", body),
        )
        try:
            return _receipt(await intake(item), source)
        except STORAGE_FAULTS:
            telemetry.MESSAGES_REFUSED.labels("http", "storage").inc()
            raise _try_again() from None


def _expect(request: Request, media_type: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != media_type:
        raise Problem(415, "wrong-media-type", f"Content-Type: must be {media_type}.")


def _try_again() -> Problem:
    return Problem(
        503, "try-again", "Nothing was stored; the same request may work later.", headers={"Retry-After": "5"}
    )


def parsed(body: bytes) -> NativeIncident:
    """A native report, checked.

    Raises:
        Problem: 422 naming every place and rule; a key that is not known is not echoed either.
    """
    try:
        return NativeIncident.model_validate_json(body)
    except ValidationError as fault:
        telemetry.MESSAGES_REFUSED.labels("http", "not_valid").inc()
        errors = [_fault(error) for error in fault.errors(include_input=False, include_url=False)]
        raise Problem(422, "not-valid", "Some of the body does not fit; see errors.", errors=errors) from None


def _fault(error: Any) -> dict[str, str]:
    known = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    rule = "holds a key that is not known" if error["type"] == "extra_forbidden" else error["msg"]
    rule = "is not JSON" if error["type"] == "json_invalid" else rule
    return {"place": ".".join(str(part) for part in known) or "body", "rule": rule}


def _receipt(accepted: Accepted, source: str) -> dict[str, str]:
    if accepted.other_body:
        telemetry.MESSAGES_REFUSED.labels("http", "key_reused").inc()
        raise Problem(
            422, "key-reused", "Idempotency-Key: came before with another body; a new report needs a new one."
        )
    (telemetry.MESSAGES_REPEATED if accepted.repeated else telemetry.MESSAGES_ACCEPTED).labels(source).inc()
    return {"receipt": accepted.receipt}


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

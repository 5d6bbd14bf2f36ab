"""HTTP: what a coordinator reviews (CONTRACT §HTTP)."""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from leeward.service import Context
from leeward.web.access import role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.incident.decisions.claims import State
from services.incident.hashing import Hasher
from services.incident.intake import unmatched as work_queue
from services.incident.review import queries
from services.incident.sealing import identifier_box
from services.incident.sources.native.report import NativeIdentifier

COORDINATOR: Final = role("coordinator")
Ref = Annotated[str, Path(max_length=36)]


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


def add_routes(router: APIRouter, context: Context, hasher: Hasher) -> None:
    """Incidents for review, and the queue of unmatched identifiers."""
    _review_routes(router, context)
    _queue_routes(router, context, hasher)


def _review_routes(router: APIRouter, context: Context) -> None:
    @router.get("/v1/incidents", dependencies=[COORDINATOR])
    async def listed(state: State | None = None, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        """Incidents, the newest first."""
        start = after(cursor)
        try:
            rows = await context.store.read(lambda conn: queries.list_incidents(conn, state, start, limit + 1))
        except ValueError:
            raise Problem(422, "not-valid", "cursor: was not issued by a list of this service") from None
        return page(rows, limit, queries.sort_key, queries.describe_incident)

    @router.get("/v1/incidents/{incident_ref}", dependencies=[COORDINATOR])
    async def one(incident_ref: Ref) -> dict[str, Any]:
        """One incident."""
        return _incident(await context.store.read(lambda conn: queries.find_incident(conn, incident_ref)))

    @router.post("/v1/incidents/{incident_ref}/confirm", dependencies=[COORDINATOR])
    async def confirm(incident_ref: Ref) -> dict[str, Any]:
        """It is one: publish it."""
        return _incident(await _settle(lambda unit: queries.confirm_incident(unit, incident_ref)))

    @router.post("/v1/incidents/{incident_ref}/dismiss", dependencies=[COORDINATOR])
    async def dismiss(incident_ref: Ref) -> dict[str, Any]:
        """It is not one."""
        return _incident(await _settle(lambda unit: queries.dismiss_incident(unit, incident_ref)))

    async def _settle(work: Any) -> Any:
        try:
            return await context.store.write(work)
        except queries.Settled:
            raise Problem(409, "already-settled", "This incident has already been decided.") from None


def _incident(row: Any) -> dict[str, Any]:
    if row is None:
        raise Problem(404, "unknown-incident", "There is no such incident.")
    return queries.describe_incident(row)


def _queue_routes(router: APIRouter, context: Context, hasher: Hasher) -> None:
    box = identifier_box(context.keys)

    @router.get("/v1/unmatched", dependencies=[COORDINATOR])
    async def unmatched(limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        """Identifiers that led to nobody on the roster; `system` is null where the authority is not a listed one."""
        start = after(cursor)
        rows = await context.store.read(lambda conn: work_queue.list_open(conn, box, start, limit + 1))
        return page(rows, limit, lambda row: row[0], lambda row: {"id": row[0], **row[1]._asdict()})

    @router.post("/v1/unmatched/{unmatched_ref}/resolve", dependencies=[COORDINATOR])
    async def resolve(unmatched_ref: Ref, resolution: Resolution) -> dict[str, str]:
        """Say whose identifier it is, or that it is nobody's."""
        key = hasher.of_staff(resolution.same_as.plain()) if resolution.same_as else None
        try:
            state = await context.store.write(lambda unit: work_queue.settle_identifier(unit, unmatched_ref, key))
        except work_queue.NotInQueue:
            raise Problem(404, "unknown-identifier", "There is no such identifier in the work queue.") from None
        except work_queue.NotOnRoster:
            raise Problem(422, "not-valid", "same_as: must be an identifier of the roster.") from None
        return {"id": unmatched_ref, "state": state}

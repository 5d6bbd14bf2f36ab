"""HTTP: the queue of identifiers that led to nobody (CONTRACT §HTTP)."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from leeward.service import Context
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.incident.hashing import Hasher
from services.incident.intake import unmatched as work_queue
from services.incident.review.routes import COORDINATOR, Ref
from services.incident.sealing import identifier_box
from services.incident.sources.native.report import NativeIdentifier


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
    """`/v1/unmatched`."""
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

"""What the pages' scripts ask of the box: epochs, a rating, reports. No request leaves a log line or a metric."""

import base64
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy import Connection

from leeward.service import Context
from leeward.store import StoreUnavailable
from leeward.web.access import PUBLIC
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem, validation_problem
from services.feedback import blind
from services.feedback.box import ratings, repository, sealing


def octets(value: object) -> bytes:
    """Bytes from base64. Raises ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError("is not base64")  # noqa: TRY004 - pydantic turns a ValueError alone into a rule
    return base64.b64decode(value, validate=True)


class RatingRequest(BaseModel):
    """The body of `POST /v1/ratings`; every part has one size, so length tells nothing."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    epoch: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    prepared: Annotated[bytes, BeforeValidator(octets), Field(min_length=blind.PREPARED, max_length=blind.PREPARED)]
    signature: Annotated[bytes, BeforeValidator(octets), Field(min_length=384, max_length=384)]
    sealed: Annotated[bytes, BeforeValidator(octets), Field(min_length=sealing.SIZE, max_length=sealing.SIZE)]


REFUSALS: Final[dict[type[Exception], tuple[int, str, str]]] = {
    ratings.NotOpen: (409, "not-open", "Answers with this code are not open now."),
    ratings.NoToken: (403, "no-token", "This is no code of ours."),
    ratings.AlreadyGiven: (409, "already-given", "An answer was given with this code before."),
}


def data_routes(context: Context) -> APIRouter:
    """GET /v1/epochs, POST /v1/ratings and GET /v1/reports."""
    router = APIRouter()

    @router.get("/v1/epochs", dependencies=[PUBLIC])
    async def epochs() -> JSONResponse:
        return JSONResponse({"epochs": await context.store.read(describe_epochs)})

    @router.post("/v1/ratings", dependencies=[PUBLIC])
    async def rate(request: Request) -> JSONResponse:
        try:
            spent = RatingRequest.model_validate_json(await request.body())
        except ValidationError as fault:
            raise validation_problem(fault) from None
        try:
            await context.store.write(ratings.accept_rating(ratings.SpentToken(**spent.model_dump())))
        except tuple(REFUSALS) as refusal:
            raise Problem(*REFUSALS[type(refusal)]) from None
        # the write-ahead log would keep the order in which ratings came; while somebody reads, the keeper does it later
        with suppress(StoreUnavailable):
            await context.store.tidy()
        return JSONResponse({"result": "kept"})

    @router.get("/v1/reports", dependencies=[PUBLIC])
    async def released(limit: Limit = 50, cursor: Cursor = None) -> Response:
        def dated(release: dict[str, Any]) -> dict[str, Any]:
            return {**release, "from": release["from"].isoformat(), "to": release["to"].isoformat()}

        found = await context.store.read(repository.list_releases)
        before = after(cursor)
        rows = [row for row in found if before is None or row["release"] < int(before)]
        return JSONResponse(page(rows[: limit + 1], limit, lambda row: str(row["release"]), dated))

    return router


def describe_epochs(conn: Connection) -> list[dict[str, Any]]:
    """The epochs as pinned, newest first; in a window with the key to seal to and its last day."""
    return [
        {
            "epoch": row.epoch,
            "state": row.state,
            "fingerprint": blind.fingerprint(row.key),
            "opened_on": row.opened_on.isoformat(),
            "closed_on": row.closed_on.isoformat() if row.closed_on else None,
            "closes_on": row.closes_at.date().isoformat() if row.closes_at else None,
            "seal_key": base64.b64encode(row.seal_key).decode() if row.seal_key else None,
        }
        for row in repository.list_epochs(conn)
    ]

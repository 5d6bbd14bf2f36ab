"""The box's pages and routes: the same for everybody, without a cookie, a log line or a metric of any request."""

import base64
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from sqlalchemy import Connection, select

from leeward.service import Context
from leeward.settings import Settings
from leeward.store import StoreUnavailable
from leeward.web.access import PUBLIC
from leeward.web.app import SECURITY_HEADERS
from leeward.web.look import pages
from leeward.web.look.files import files
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem, validation_problem
from services.feedback import blind, reports
from services.feedback.box import ratings, sealing
from services.feedback.box.models import EPOCH

HERE: Final = Path(__file__).parent
SCRIPTS: Final = ("blindrsa.js", "token.js", "keep.js", "rate.js")


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


def routes(context: Context) -> APIRouter:
    """All of the box's routes."""
    router = APIRouter()
    _add_pages(router, context)
    _add_data(router, context)
    for name in SCRIPTS:
        _serve(router, name)
    router.include_router(files(context.settings, context.clock))
    return router


def _add_pages(router: APIRouter, context: Context) -> None:
    look = pages(HERE / "templates", context.settings)
    policy = _policy_with_issuer(context.settings)

    @router.get("/", dependencies=[PUBLIC], include_in_schema=False)
    async def index(request: Request) -> HTMLResponse:
        shown = await context.store.read(lambda conn: (_epochs(conn), ratings.releases(conn)[:1]))
        window = [epoch for epoch in shown[0] if epoch["state"] == "rating"]
        return look.render(request, "index.html", window=window, latest=shown[1], groups=reports.GROUPS)

    @router.get("/keep", dependencies=[PUBLIC], include_in_schema=False)
    async def keep(request: Request) -> HTMLResponse:
        headers = {"Content-Security-Policy": policy}
        return look.render(request, "keep.html", headers=headers, issuer=context.settings.url("issuer"))

    @router.get("/rate", dependencies=[PUBLIC], include_in_schema=False)
    async def rate(request: Request) -> HTMLResponse:
        window = [epoch for epoch in await context.store.read(_epochs) if epoch["state"] == "rating"]
        return look.render(request, "rate.html", window=window, items=reports.ITEMS, tags=reports.TAGS)


def _add_data(router: APIRouter, context: Context) -> None:
    @router.get("/v1/epochs", dependencies=[PUBLIC])
    async def epochs() -> JSONResponse:
        return JSONResponse({"epochs": await context.store.read(_epochs)})

    @router.post("/v1/ratings", dependencies=[PUBLIC])
    async def rate(request: Request) -> JSONResponse:
        spent = _parsed(await request.body())
        try:
            await context.store.write(ratings.take(ratings.SpentToken(**spent.model_dump())))
        except tuple(REFUSALS) as refusal:
            raise Problem(*REFUSALS[type(refusal)]) from None
        # the write-ahead log would keep the order in which ratings came; while somebody reads, the keeper does it later
        with suppress(StoreUnavailable):
            await context.store.tidy()
        return JSONResponse({"result": "kept"})

    @router.get("/v1/reports", dependencies=[PUBLIC])
    async def released(limit: Limit = 50, cursor: Cursor = None) -> Response:
        found = await context.store.read(ratings.releases)
        before = after(cursor)
        rows = [row for row in found if before is None or row["release"] < int(before)]
        return JSONResponse(page(rows[: limit + 1], limit, lambda row: str(row["release"]), _dated))


def _parsed(body: bytes) -> RatingRequest:
    try:
        return RatingRequest.model_validate_json(body)
    except ValidationError as fault:
        raise validation_problem(fault) from None


def _epochs(conn: Connection) -> list[dict[str, Any]]:
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
        for row in conn.execute(select(EPOCH).order_by(EPOCH.c.opened_on.desc(), EPOCH.c.epoch))
    ]


def _dated(release: dict[str, Any]) -> dict[str, Any]:
    return {**release, "from": release["from"].isoformat(), "to": release["to"].isoformat()}


def _policy_with_issuer(settings: Settings) -> str:
    """The usual content policy, and requests to the issuer besides: the page that fetches a token needs both."""
    usual = SECURITY_HEADERS["content-security-policy"]
    return usual.replace("connect-src 'self'", f"connect-src 'self' {settings.url('issuer')}")


def _serve(router: APIRouter, name: str) -> None:
    @router.get(f"/box/{name}", dependencies=[PUBLIC], name=name, include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(HERE / "static" / name, media_type="text/javascript; charset=utf-8")

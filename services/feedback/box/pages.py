"""The box's pages and their scripts, the same for everybody: no cookie, no log line and no metric of any request."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from leeward.service import Context
from leeward.web.access import PUBLIC
from leeward.web.app import SECURITY_HEADERS
from leeward.web.look import pages
from leeward.web.look.files import files
from services.feedback import reports
from services.feedback.box import repository
from services.feedback.box.api import describe_epochs

HERE: Final = Path(__file__).parent
SCRIPTS: Final = ("blindrsa.js", "token.js", "keep.js", "rate.js")


def page_routes(context: Context) -> APIRouter:
    """The pages people open, and the scripts that these load."""
    router = APIRouter()
    look = pages(HERE / "templates", context.settings)
    # the page that fetches a token makes requests to the issuer besides the usual ones
    issuer = context.settings.url("issuer")
    usual = SECURITY_HEADERS["content-security-policy"]
    keep_headers = {"Content-Security-Policy": usual.replace("connect-src 'self'", f"connect-src 'self' {issuer}")}

    @router.get("/", dependencies=[PUBLIC], include_in_schema=False)
    async def index(request: Request) -> HTMLResponse:
        shown = await context.store.read(lambda conn: (describe_epochs(conn), repository.list_releases(conn)[:1]))
        window = [epoch for epoch in shown[0] if epoch["state"] == "rating"]
        return look.render(request, "index.html", window=window, latest=shown[1], groups=reports.GROUPS)

    @router.get("/keep", dependencies=[PUBLIC], include_in_schema=False)
    async def keep(request: Request) -> HTMLResponse:
        return look.render(request, "keep.html", headers=keep_headers, issuer=issuer)

    @router.get("/rate", dependencies=[PUBLIC], include_in_schema=False)
    async def rate(request: Request) -> HTMLResponse:
        window = [epoch for epoch in await context.store.read(describe_epochs) if epoch["state"] == "rating"]
        return look.render(request, "rate.html", window=window, items=reports.ITEMS, tags=reports.TAGS)

    for name in SCRIPTS:
        _serve(router, name)
    router.include_router(files(context.settings, context.clock))
    return router


def _serve(router: APIRouter, name: str) -> None:
    @router.get(f"/box/{name}", dependencies=[PUBLIC], name=name, include_in_schema=False)
    async def script() -> FileResponse:
        return FileResponse(HERE / "static" / name, media_type="text/javascript; charset=utf-8")

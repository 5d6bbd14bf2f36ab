"""Pages for everybody, and the list of supporters' names for matching's board."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from leeward.service import Context
from leeward.web import paging
from leeward.web.access import PUBLIC, SERVICES
from leeward.web.look import Pages
from services.notify.repository import list_supporters


def routes(context: Context, pages: Pages) -> APIRouter:
    """GET /resources, /privacy, / and /v1/supporters."""
    router = APIRouter()
    _serve(router, pages, "resources")
    _serve(router, pages, "privacy")

    @router.api_route("/", methods=["GET", "HEAD"], dependencies=[PUBLIC], include_in_schema=False)
    async def home() -> Response:
        return RedirectResponse("/resources", 303)

    @router.get("/v1/supporters", dependencies=[SERVICES])
    async def supporters(limit: paging.Limit = 50, cursor: paging.Cursor = None) -> dict[str, Any]:
        """Supporters alone, by recipient_ref and display name, in the order of their references."""
        rows = await context.store.read(lambda conn: list_supporters(conn, paging.after(cursor), limit + 1))

        def item(row: Any) -> dict[str, str]:
            return {"recipient_ref": row.recipient_ref, "display_name": row.display_name}

        return paging.page(rows, limit, lambda row: str(row.recipient_ref), item)

    return router


def _serve(router: APIRouter, pages: Pages, name: str) -> None:
    async def page(request: Request) -> Response:
        return pages.render(request, f"{name}.html")

    router.add_api_route(
        f"/{name}", page, methods=["GET", "HEAD"], dependencies=[PUBLIC], include_in_schema=False, name=name
    )

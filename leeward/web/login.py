"""One-time sign-in links: GET shows a button and changes nothing, POST uses the link up and opens a session."""

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import delete

from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import COOKIE, LINK, SESSION, AccessControl, find, token_hash
from leeward.web.look import pages

TEMPLATES: Final = Path(__file__).parent / "sign_in"


def login_router(context: Context) -> APIRouter:
    """GET and POST /login/{code}, for whoever holds a link that `leeward login` printed."""
    router = APIRouter(include_in_schema=False)
    look = pages(TEMPLATES, context.settings)
    control = AccessControl(context)

    def ended(request: Request) -> HTMLResponse:
        return look.render(request, "ended.html", status=401)

    @router.get("/login/{code}", dependencies=[LINK])
    async def ask(request: Request, code: str) -> Response:
        now = context.clock.now()
        alive = await context.store.read(lambda conn: find(conn, context, code, "login", now))
        return look.render(request, "sign_in.html") if alive else ended(request)

    @router.post("/login/{code}", dependencies=[LINK])
    async def sign_in(request: Request, code: str) -> Response:
        role = await context.store.write(use_up(code))
        if role is None:
            return ended(request)
        answer = RedirectResponse("/", status_code=303)
        secure = urlsplit(context.settings.public_url).scheme == "https"
        life = int(SESSION.total_seconds())
        session = control.open_session(role)
        answer.set_cookie(COOKIE, session, max_age=life, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    return router


def use_up(code: str) -> Callable[[Unit], str | None]:
    """Work: use a link up; gives its role, None where the link has expired or was used before."""

    def work(unit: Unit) -> str | None:
        table = unit.tables.access
        alive = (table.c.token_hash == token_hash(code)) & (table.c.kind == "login") & (table.c.expires_at > unit.now)
        role: str | None = unit.conn.execute(delete(table).where(alive).returning(table.c.role)).scalar()
        return role

    return work

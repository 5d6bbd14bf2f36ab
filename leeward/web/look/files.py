"""Serves the look's own files and the neutral page that *Leave this page* leads to."""

import calendar
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse

from leeward.clock import Clock
from leeward.settings import Settings
from leeward.web.access import PUBLIC
from leeward.web.look import LOOK, pages
from leeward.web.look.languages import day_name, first_weekday, month_name

FILES = {
    "look.css": "text/css; charset=utf-8",
    "leave.js": "text/javascript; charset=utf-8",
    "now.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def files(settings: Settings, clock: Clock) -> APIRouter:
    """GET /look/<file> and GET /look/calendar, for everybody; each app serves them: no page needs another host."""
    router = APIRouter(include_in_schema=False)
    neutral = pages(LOOK / "templates", settings)

    for name, media_type in FILES.items():
        _serve(router, LOOK / name, media_type)

    @router.get("/look/calendar", dependencies=[PUBLIC])
    def month(request: Request) -> HTMLResponse:
        today = clock.now().date()
        locale = neutral.locale_of(request)
        week = calendar.Calendar(first_weekday(locale))
        return neutral.render(
            request,
            "calendar.html",
            month=month_name(today.month, locale),
            days=[day_name(day, locale) for day in week.iterweekdays()],
            year=today.year,
            today=today.day,
            weeks=week.monthdayscalendar(today.year, today.month),
        )

    return router


def _serve(router: APIRouter, path: Path, media_type: str) -> None:
    @router.get(f"/look/{path.name}", dependencies=[PUBLIC], name=path.name)
    def file() -> FileResponse:
        return FileResponse(path, media_type=media_type, headers={"Cache-Control": "public, max-age=3600"})

"""The coordinator's board: what needs somebody, as sentences, most urgent first, with one thing to do about each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import Connection

from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import csrf, role
from leeward.web.look import pages
from leeward.web.problem import Problem
from services.matching.cases import repository
from services.matching.cases.candidates import read_state
from services.matching.coordinator import queries, routes
from services.matching.coordinator.status import figures
from services.matching.lifecycle.case import ACTIONS, URGENCY, Case
from services.matching.site import Site

SHOWN: Final = 200
PATIENCE: Final = 2.0
COORDINATOR: Final = role("coordinator")
ENTRIES: Final = ("on_call_silent", queries.DEAD_LETTER, "nobody_to_reach", "retracted_after_sending", "group_session")
_REVIEWED: Final = frozenset({"nobody_to_reach", "group_session"})
_ACTIONS: Final[Mapping[str, Callable[[Unit, Site, str], Case]]] = {
    "reassign": routes.reassign,
    "close": routes.close,
    "attended": routes.attend,
    "seen": routes.see,
}


@dataclass(frozen=True, slots=True)
class BoardLine:
    """One sentence of the list: its reason, the short code it is known by, since when, and where its button leads.

    `action` is empty for what nobody can settle from here.
    """

    reason: str
    code: str
    since: date
    action: str
    target: str
    review: str = ""


@dataclass(frozen=True, slots=True)
class BoardView:
    """All that the board shows; `free` are recipient_refs of supporters and whether one can take a case now."""

    lines: list[BoardLine]
    more: bool
    free: dict[str, bool]
    figures: dict[str, Any]
    today: date


def add_routes(router: APIRouter, context: Context, site: Site) -> None:
    """GET / and the forms on it."""
    look = pages(Path(__file__).parents[1] / "templates", context.settings)

    @router.get("/", dependencies=[COORDINATOR], include_in_schema=False)
    async def board(request: Request) -> HTMLResponse:
        view = await context.store.read(lambda conn: read_board(conn, context, site))
        names = await supporter_names(context)
        people = name_supporters(view.free, names)
        review = f"{context.settings.url('incident')}/"
        return look.render(request, "board.html", view=view, people=people, csrf=csrf(request), review=review)

    @router.post("/board/cases/{case_ref}/{action}", dependencies=[COORDINATOR], include_in_schema=False)
    async def act(case_ref: str, action: str) -> RedirectResponse:
        if action not in _ACTIONS:
            raise Problem(404, "unknown-action", "There is no such action.")
        await context.store.write(lambda unit: _ACTIONS[action](unit, site, case_ref))
        return RedirectResponse("/", 303)

    @router.post("/board/entries/{entry_ref}/seen", dependencies=[COORDINATOR], include_in_schema=False)
    async def seen(entry_ref: str) -> RedirectResponse:
        await context.store.write(lambda unit: queries.delete_entry(unit.conn, entry_ref))
        return RedirectResponse("/", 303)


def read_board(conn: Connection, context: Context, site: Site) -> BoardView:
    """What the board shows now."""
    now = context.clock.now()
    order = [*dict.fromkeys((*ENTRIES[:2], *URGENCY, *ENTRIES))]
    lines = [*_case_lines(conn), *_entry_lines(conn, context.settings.url("incident")), *_own_dead_letters(conn)]
    lines.sort(
        key=lambda line: (
            order.index(line.reason) if line.reason in order else len(order),
            line.since,
            line.code,
        )
    )
    free = free_supporters(conn, site, now)
    return BoardView(lines[:SHOWN], len(lines) > SHOWN, free, figures(conn, context.settings, now), now.date())


def _case_lines(conn: Connection) -> list[BoardLine]:
    return [
        BoardLine(
            reason=reason,
            code=case.case_ref[:8],
            since=case.opened_at.date(),
            action=ACTIONS[reason],
            target=f"/board/cases/{case.case_ref}/{ACTIONS[reason]}",
        )
        for case in repository.read_cases(conn, queries.is_stuck())
        for reason in case.attention
    ]


def _entry_lines(conn: Connection, incident_url: str) -> list[BoardLine]:
    return [
        BoardLine(
            reason=row.kind,
            code=row.about[:8],
            since=row.created_at.date(),
            action="seen" if row.kind != queries.DEAD_LETTER else "",
            target=f"/board/entries/{row.entry_ref}/seen",
            review=f"{incident_url}/review/signals/{row.about}" if row.kind in _REVIEWED else "",
        )
        for row in queries.read_entries(conn)
    ]


def _own_dead_letters(conn: Connection) -> list[BoardLine]:
    since = queries.own_dead_letters(conn)
    return [BoardLine(queries.DEAD_LETTER, "matching", since, action="", target="")] if since else []


def free_supporters(conn: Connection, site: Site, now: datetime) -> dict[str, bool]:
    """Supporters by recipient_ref, and whether each can take a case now; never why not."""
    people = site.roster.read(conn)
    today = read_state(conn, now, site)
    return {
        people.known[ref].recipient_ref: supporter.ready and supporter.trained(today.today) and today.allows(supporter)
        for ref, supporter in people.pool.supporters.items()
        if people.known[ref].here
    }


async def supporter_names(context: Context) -> dict[str, str] | None:
    """Display names of supporters by recipient_ref, from notify; None while it cannot be asked."""
    url, headers = f"{context.settings.url('notify')}/v1/supporters", context.call_headers()
    names: dict[str, str] = {}
    cursor = ""
    try:
        while True:
            params = {"limit": "200"} | ({"cursor": cursor} if cursor else {})
            answer = await context.http.get(url, params=params, headers=headers, timeout=PATIENCE)
            page = answer.raise_for_status().json()
            names.update((item["recipient_ref"], item["display_name"]) for item in page["items"])
            cursor = page.get("next") or ""
            if not cursor:
                return names
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def name_supporters(free: Mapping[str, bool], names: Mapping[str, str] | None) -> list[tuple[str, bool]] | None:
    """Names with availability, in the order of the names; None where names are not at hand."""
    if names is None:
        return None
    return sorted((names[ref], can) for ref, can in free.items() if ref in names)

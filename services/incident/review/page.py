"""The coordinator's review page: signals that wait for a word, and identifiers that led to nobody, as sentences.

It shows of a signal what CONTRACT §HTTP does, and of an identifier neither what it came with nor when.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from sqlalchemy import Connection

from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import csrf, role
from leeward.web.look import Pages, pages
from leeward.web.problem import Problem
from services.incident.decisions.claims import Identifier
from services.incident.hashing import Hasher
from services.incident.intake import unmatched
from services.incident.review import queries
from services.incident.sealing import Box, identifier_box
from services.incident.sources.native.report import NativeIdentifier

SHOWN: Final = 100
COORDINATOR: Final = role("coordinator")
SAID: Final = ("confirmed", "dismissed", "resolved", "ignored")
Ref = Annotated[str, PathParameter(max_length=36)]
_ACTIONS: Final[Mapping[str, tuple[Callable[[Unit, str], Any], str]]] = {
    "confirm": (queries.confirm_incident, "confirmed"),
    "dismiss": (queries.dismiss_incident, "dismissed"),
}


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One signal: the short code it is known by, its kind and reasons as codes, and its day."""

    ref: str
    code: str
    state: str
    category: str
    reasons: list[str]
    day: date


@dataclass(frozen=True, slots=True)
class ReviewView:
    """All that the page shows."""

    signals: list[ReviewItem]
    more_signals: bool
    identifiers: list[tuple[str, Identifier]]
    more_identifiers: bool


@dataclass(frozen=True, slots=True)
class Typed:
    """A form that must be corrected: what was typed about which row, and what is wrong by the field's name."""

    ref: str = ""
    system: str = ""
    value: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)


def add_routes(router: APIRouter, context: Context, hasher: Hasher) -> None:
    """GET /, one signal by itself, and the forms on them."""
    review = ReviewPage(context, hasher)
    signal, identifier = "/review/signals/{incident_ref}", "/review/identifiers/{unmatched_ref}"
    for method, path, route in (
        ("GET", "/", review.show_page),
        ("GET", signal, review.show_signal),
        ("POST", signal + "/{action}", review.settle_signal),
        ("POST", identifier + "/same-as", review.resolve_identifier),
        ("POST", identifier + "/ignore", review.ignore_identifier),
    ):
        router.add_api_route(path, route, methods=[method], dependencies=[COORDINATOR], include_in_schema=False)


class ReviewPage:
    """The page and what its forms do."""

    def __init__(self, context: Context, hasher: Hasher) -> None:
        self._context = context
        self._hasher = hasher
        self._box = identifier_box(context.keys)
        self._look = pages(Path(__file__).parents[1] / "templates", context.settings)

    async def show_page(self, request: Request, said: str = "") -> Response:
        """Everything that waits; `said` is what has just been done."""
        return await self._page(request, said=said if said in SAID else "")

    async def show_signal(self, request: Request, incident_ref: Ref) -> Response:
        """One signal in whatever state it is, for links from the board."""
        row = await self._context.store.read(lambda conn: queries.find_incident(conn, incident_ref))
        if row is None:
            return await self._page(request, 404, said="gone")
        return self._render(request, "signal.html", 200, line=_signal(row))

    async def settle_signal(self, request: Request, incident_ref: Ref, action: str) -> Response:
        """Confirm or dismiss."""
        if action not in _ACTIONS:
            raise Problem(404, "unknown-action", "There is no such action.")
        work, said = _ACTIONS[action]
        try:
            row = await self._context.store.write(lambda unit: work(unit, incident_ref))
        except queries.Settled:
            return await self._page(request, 409, said="settled")
        return _back(said) if row is not None else await self._page(request, 404, said="gone")

    async def resolve_identifier(self, request: Request, unmatched_ref: Ref) -> Response:
        """The identifier is another one of somebody on the roster."""
        async with request.form() as form:
            given = {name: typed if isinstance(typed := form.get(name), str) else "" for name in ("system", "value")}
        problems = find_faults(given)
        if not problems:
            key = self._hasher.of_staff(NativeIdentifier(**given).plain())
            try:
                return await self._resolve(request, unmatched_ref, key)
            except unmatched.NotOnRoster:
                problems = {"value": "not_on_roster"}
        return await self._page(request, 422, typed=Typed(unmatched_ref, **given, problems=problems))

    async def ignore_identifier(self, request: Request, unmatched_ref: Ref) -> Response:
        """The identifier is nobody's."""
        return await self._resolve(request, unmatched_ref, None)

    async def _resolve(self, request: Request, unmatched_ref: str, key: str | None) -> Response:
        try:
            return _back(
                await self._context.store.write(lambda unit: unmatched.settle_identifier(unit, unmatched_ref, key))
            )
        except unmatched.NotInQueue:
            return await self._page(request, 404, said="gone")

    async def _page(
        self, request: Request, status: int = 200, *, said: str = "", typed: Typed | None = None
    ) -> Response:
        view = await self._context.store.read(lambda conn: list_waiting(conn, self._box))
        return self._render(request, "review.html", status, view=view, said=said, typed=typed or Typed())

    def _render(self, request: Request, template: str, status: int, **context: Any) -> Response:
        return self._look.render(
            request,
            template,
            status,
            **context,
            csrf=csrf(request),
            today=self._context.clock.now().date(),
            board=f"{self._context.settings.url('matching')}/",
            kind=lambda category: name_category(self._look, request, category),
        )


def list_waiting(conn: Connection, box: Box) -> ReviewView:
    """What waits now: the newest signals first, identifiers in the order of their random references."""
    rows = queries.list_incidents(conn, "review", None, SHOWN + 1)
    identifiers = unmatched.list_open(conn, box, None, SHOWN + 1)
    signals = [_signal(row) for row in rows[:SHOWN]]
    return ReviewView(signals, len(rows) > SHOWN, identifiers[:SHOWN], len(identifiers) > SHOWN)


def name_category(look: Pages, request: Request, category: str) -> str:
    """A category in words; one of the site's own is its code without the underscores."""
    known = look.texts[look.locale_of(request)].get(f"category.{category}")
    return str(known) if known else category.replace("_", " ").capitalize()


def find_faults(given: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with a typed identifier, as keys of texts by field."""
    try:
        NativeIdentifier.model_validate(given)
    except ValidationError as fault:
        places = [str(error["loc"][0]) for error in fault.errors(include_input=False)]
        return {place: "not_fitting" if given[place].strip() else "missing" for place in places}
    return {}


def _signal(row: Any) -> ReviewItem:
    shown = queries.describe_incident(row)
    return ReviewItem(
        ref=shown["incident_ref"],
        code=shown["incident_ref"][:8],
        state=shown["state"],
        category=shown["category"],
        reasons=shown["reasons"],
        day=row.occurred_at.date(),
    )


def _back(said: str) -> Response:
    return RedirectResponse(f"/?said={said}", 303)

"""HTTP: what a coordinator reviews (CONTRACT §HTTP)."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path

from leeward.service import Context
from leeward.web.access import role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.incident.decisions.claims import State
from services.incident.review import queries

COORDINATOR: Final = role("coordinator")
Ref = Annotated[str, Path(max_length=36)]


def add_routes(router: APIRouter, context: Context) -> None:
    """Incidents for review: listed, shown, confirmed, dismissed."""

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

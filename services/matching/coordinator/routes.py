"""Cases by opaque code for the coordinator, and who is introduced to whom for notify."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Query
from sqlalchemy import Connection

from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import SERVICES, role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.matching.cases import repository
from services.matching.cases.session import CaseSession
from services.matching.coordinator import queries
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Case, State, Transition
from services.matching.site import Site

COORDINATOR: Final = role("coordinator")


def case_json(case: Case) -> dict[str, Any]:
    """A case as others may see it; nothing about unit, profession, language, incident or answer."""
    day = case.opened_at.date().isoformat()
    return {"case_ref": case.case_ref, "state": case.state, "reasons": case.reasons, "day": day}


def add_routes(router: APIRouter, context: Context, site: Site) -> None:
    """GET /v1/cases, GET /v1/cases/{case_ref}, POST …/reassign and …/close, GET …/introduction."""
    store = context.store

    @router.get("/v1/cases", dependencies=[COORDINATOR])
    async def cases(state: State | None = None, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        found = await store.read(lambda conn: list_cases(conn, state, limit + 1, after(cursor)))
        return page(found, limit, lambda case: case.case_ref, case_json)

    @router.get("/v1/cases/{case_ref}", dependencies=[COORDINATOR])
    async def one_case(case_ref: str) -> dict[str, Any]:
        return case_json(await store.read(lambda conn: read_case(conn, case_ref)))

    @router.post("/v1/cases/{case_ref}/reassign", dependencies=[COORDINATOR])
    async def reassign_case(case_ref: str) -> dict[str, Any]:
        return case_json(await store.write(lambda unit: reassign(unit, site, case_ref)))

    @router.post("/v1/cases/{case_ref}/close", dependencies=[COORDINATOR])
    async def close_case(case_ref: str) -> dict[str, Any]:
        return case_json(await store.write(lambda unit: close(unit, site, case_ref)))

    @router.get("/v1/cases/{case_ref}/introduction", dependencies=[SERVICES])
    async def introduction(case_ref: str, recipient: str = Query(alias="for", max_length=36)) -> dict[str, str]:
        return {"recipient_ref": await store.read(lambda conn: other_side(conn, case_ref, recipient))}


def list_cases(conn: Connection, state: State | None, limit: int, last: str | None) -> list[Case]:
    """Cases in the order of their references, which tell nothing."""
    condition = None
    if state:
        condition = queries.is_stuck() if state == "needs_attention" else queries.is_at(state)
    return queries.cases_after(conn, last, limit, condition)


def read_case(conn: Connection, case_ref: str) -> Case:
    """One case.

    Raises:
        Problem: 404 when there is none.
    """
    found = repository.read_cases(conn, repository.has_ref(case_ref))
    if not found:
        raise Problem(404, "unknown-case", "There is no such case.")
    return found[0]


def reassign(unit: Unit, site: Site, case_ref: str) -> Case:
    """Another supporter once the person has accepted, the offer again before.

    Raises:
        Problem: 404 for no case, 409 for one that is over.
    """

    def try_again(case: Case) -> Transition:
        if case.over or case.stage == "following_up":
            raise Problem(409, "case-over", "This case needs no supporter any more.")
        return transitions.reassign(case, unit.now, site.rules)

    return _change(unit, site, case_ref, try_again)


def close(unit: Unit, site: Site, case_ref: str) -> Case:
    """End a case; closing a closed one changes nothing.

    Raises:
        Problem: 404 for no case.
    """
    return _change(unit, site, case_ref, lambda case: transitions.coordinator_close(case, unit.now, site.rules))


def attend(unit: Unit, site: Site, case_ref: str) -> Case:
    """The coordinator has seen to what an alarm was about.

    Raises:
        Problem: 404 for no case.
    """
    return _change(unit, site, case_ref, transitions.attended)


def see(unit: Unit, site: Site, case_ref: str) -> Case:
    """The coordinator knows that somebody was never reached.

    Raises:
        Problem: 404 for no case.
    """
    return _change(unit, site, case_ref, transitions.seen)


def _change(unit: Unit, site: Site, case_ref: str, choose: Callable[[Case], Transition]) -> Case:
    """Apply a transition to a case; gives the case when all is done.

    Raises:
        Problem: 404 for no case.
    """
    session = CaseSession(unit, site)
    session.load([case_ref])
    case = session.case(case_ref) or read_case(unit.conn, case_ref)
    session.apply(choose(case))
    session.write()
    return session.case(case_ref) or case


def other_side(conn: Connection, case_ref: str, recipient_ref: str) -> str:
    """Whom a recipient of a case is introduced to; only once the supporter has confirmed.

    Raises:
        Problem: 404 otherwise, the same for every reason.
    """
    unknown = Problem(404, "no-introduction", "There is nobody to introduce.")
    found = repository.read_cases(conn, repository.has_ref(case_ref))
    if not found or found[0].stage != "supported" or not found[0].supporter or not found[0].person_ref:
        raise unknown
    both = queries.recipients_of(conn, (found[0].person_ref, found[0].supporter))
    if recipient_ref not in both or len(both) != 2:
        raise unknown
    return (both - {recipient_ref}).pop()

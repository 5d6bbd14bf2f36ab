"""Cases by opaque code for the coordinator, and who is introduced to whom for notify."""

from typing import Any, Final

from fastapi import APIRouter, Query
from sqlalchemy import Connection, select

from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import SERVICES, role
from leeward.web.paging import Cursor, Limit, after, page
from leeward.web.problem import Problem
from services.matching.cases import repository
from services.matching.cases.repository import CASE
from services.matching.cases.session import PERSON, CaseSession
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import STAGES, Case, State, Transition
from services.matching.site import Site

COORDINATOR: Final = role("coordinator")


def shown(case: Case) -> dict[str, Any]:
    """A case as others may see it; nothing about unit, profession, language, incident or answer."""
    day = case.opened_at.date().isoformat()
    return {"case_ref": case.case_ref, "state": case.state, "reasons": case.reasons, "day": day}


def add_routes(router: APIRouter, context: Context, site: Site) -> None:
    """GET /v1/cases, GET /v1/cases/{case_ref}, POST …/reassign and …/close, GET …/introduction."""
    store = context.store

    @router.get("/v1/cases", dependencies=[COORDINATOR])
    async def cases(state: State | None = None, limit: Limit = 50, cursor: Cursor = None) -> dict[str, Any]:
        found = await store.read(lambda conn: listed(conn, state, limit + 1, after(cursor)))
        return page(found, limit, lambda case: case.case_ref, shown)

    @router.get("/v1/cases/{case_ref}", dependencies=[COORDINATOR])
    async def one_case(case_ref: str) -> dict[str, Any]:
        return shown(await store.read(lambda conn: the_case(conn, case_ref)))

    @router.post("/v1/cases/{case_ref}/reassign", dependencies=[COORDINATOR])
    async def reassign_case(case_ref: str) -> dict[str, Any]:
        return shown(await store.write(lambda unit: reassign(unit, site, case_ref)))

    @router.post("/v1/cases/{case_ref}/close", dependencies=[COORDINATOR])
    async def close_case(case_ref: str) -> dict[str, Any]:
        return shown(await store.write(lambda unit: close(unit, site, case_ref)))

    @router.get("/v1/cases/{case_ref}/introduction", dependencies=[SERVICES])
    async def introduction(case_ref: str, recipient: str = Query(alias="for", max_length=36)) -> dict[str, str]:
        return {"recipient_ref": await store.read(lambda conn: other_side(conn, case_ref, recipient))}


def listed(conn: Connection, state: State | None, limit: int, last: str | None) -> list[Case]:
    """Cases in the order of their references, which tell nothing."""
    conditions: list[Any] = [CASE.c.case_ref > last] if last else []
    if state == "needs_attention":
        conditions.append(CASE.c.attention.is_not(None))
    elif state in STAGES:
        conditions += [CASE.c.stage == state, CASE.c.attention.is_(None)]
    query = repository.SELECT_CASES.where(*conditions).order_by(CASE.c.case_ref).limit(limit)
    return [repository.case_of(row) for row in conn.execute(query)]


def the_case(conn: Connection, case_ref: str) -> Case:
    """One case.

    Raises:
        Problem: 404 when there is none.
    """
    found = repository.cases(conn, CASE.c.case_ref == case_ref)
    if not found:
        raise Problem(404, "unknown-case", "There is no such case.")
    return found[0]


def reassign(unit: Unit, site: Site, case_ref: str) -> Case:
    """Another supporter once the person has accepted, the offer again before.

    Raises:
        Problem: 404 for no case, 409 for one that is over.
    """
    session, case = _on_desk(unit, site, case_ref)
    if case.over or case.stage == "following_up":
        raise Problem(409, "case-over", "This case needs no supporter any more.")
    return _done(session, transitions.reassign(case, unit.now, site.rules, session.find))


def close(unit: Unit, site: Site, case_ref: str) -> Case:
    """End a case; closing a closed one changes nothing.

    Raises:
        Problem: 404 for no case.
    """
    session, case = _on_desk(unit, site, case_ref)
    return _done(session, transitions.coordinator_close(case, unit.now, site.rules))


def attend(unit: Unit, site: Site, case_ref: str) -> Case:
    """The coordinator has seen to what an alarm was about.

    Raises:
        Problem: 404 for no case.
    """
    session, case = _on_desk(unit, site, case_ref)
    return _done(session, transitions.attended(case))


def _on_desk(unit: Unit, site: Site, case_ref: str) -> tuple[CaseSession, Case]:
    session = CaseSession(unit, site)
    session.load([the_case(unit.conn, case_ref).case_ref])
    return session, session.cases[case_ref]


def _done(session: CaseSession, step: Transition) -> Case:
    case = session.take(step)
    session.write()
    return case


def other_side(conn: Connection, case_ref: str, recipient_ref: str) -> str:
    """Whom a recipient of a case is introduced to; only once the supporter has confirmed.

    Raises:
        Problem: 404 otherwise, the same for every reason.
    """
    unknown = Problem(404, "no-introduction", "There is nobody to introduce.")
    found = repository.cases(conn, CASE.c.case_ref == case_ref, CASE.c.stage == "supported")
    if not found or not found[0].supporter or not found[0].person_ref:
        raise unknown
    sides = (found[0].person_ref, found[0].supporter)
    query = select(PERSON.c.recipient_ref).where(PERSON.c.person_ref.in_(sides))
    both: set[str] = set(conn.execute(query).scalars())
    if recipient_ref not in both or len(both) != 2:
        raise unknown
    return (both - {recipient_ref}).pop()

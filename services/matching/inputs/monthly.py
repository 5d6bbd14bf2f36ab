"""Monthly check-ins where death is expected: offered once, sent to those who opted in."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from leeward.store import Timer, Unit
from services.matching.cases.session import CaseSession
from services.matching.inputs import queries
from services.matching.lifecycle.case import RequestMessage
from services.matching.site import Site

MONTH: Final = timedelta(days=30)
MONTHLY_ENDS: Final = timedelta(days=28)


def offer_monthly(unit: Unit, site: Site) -> None:
    """Where death is expected nobody is written to after one; everybody there is asked once if they like check-ins."""
    if not site.expected_units:
        return
    session = CaseSession(unit, site)
    rows = queries.without_monthly_offer(unit.conn, site.expected_units)
    for row in rows:
        message = RequestMessage("monthly_offer", "monthly_offer", "person")
        session.send_outside_a_case(message, row.recipient_ref, MONTHLY_ENDS)
    session.write()
    queries.set_monthly(unit.conn, [row.person_ref for row in rows], "offered")


def send_monthly(unit: Unit, timers: Sequence[Timer], site: Site) -> None:
    """The monthly check-in of somebody in a unit of expected deaths who opted in to it."""
    session = CaseSession(unit, site)
    for row in queries.with_monthly(unit.conn, [timer.key for timer in timers]):
        if session.is_here(row.person_ref):
            message = RequestMessage(f"monthly-{unit.now:%Y%m}", "check_in", "person")
            session.send_outside_a_case(message, row.recipient_ref, MONTH)
            unit.set_timer("monthly", row.person_ref, unit.now + MONTH)
    session.write()


def begin_monthly(session: CaseSession, person_ref: str) -> None:
    """Somebody opted in."""
    queries.set_monthly(session.unit.conn, [person_ref], "yes")
    session.unit.set_timer("monthly", person_ref, session.now + MONTH)


def end_monthly(session: CaseSession, person_ref: str) -> None:
    """Somebody opted out."""
    queries.set_monthly(session.unit.conn, [person_ref], "no")
    session.unit.cancel_timer("monthly", person_ref)

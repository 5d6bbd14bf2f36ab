"""Where death is expected: opt-in monthly check-ins, offered once."""

from datetime import timedelta
from typing import Final

from leeward.store import Unit
from services.matching.cases.session import PERSON, CaseSession
from services.matching.inputs.sending import A_BATCH, alone
from services.matching.lifecycle.case import Message
from services.matching.site import Site

MONTHLY_ENDS: Final = timedelta(days=28)


def offer_monthly(unit: Unit, site: Site) -> None:
    """Where death is expected nobody is written to after one; everybody there is asked once if they like check-ins."""
    if not site.expected_units:
        return
    query = PERSON.select().where(
        PERSON.c.unit.in_(site.expected_units),
        PERSON.c.monthly == "none",
        PERSON.c.status == "active",
        PERSON.c.reachable,
    )
    found = unit.conn.execute(query.limit(A_BATCH)).all()
    session = CaseSession(unit, site)
    for row in found:
        message = Message("monthly_offer", "monthly_offer", "person")
        session.send(alone(unit, site, message, row.recipient_ref, MONTHLY_ENDS), loose=True)
    asked = PERSON.c.person_ref.in_([row.person_ref for row in found])
    unit.conn.execute(PERSON.update().where(asked).values(monthly="offered"))

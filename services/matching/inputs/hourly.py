"""Every hour: what is over is forgotten, what is stuck is shown, who waits is tried again, cover messages leave."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import and_, or_, select

from leeward.store import Timer, Unit
from services.matching.cases.repository import CASE
from services.matching.cases.session import PERSON, CaseSession
from services.matching.inputs import cover, monthly, retention, timers
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import UNANSWERED
from services.matching.lifecycle.steps import LIMIT
from services.matching.roster.people import GONE
from services.matching.site import Site

EVERY: Final = timedelta(hours=1)
_OPEN: Final = CASE.c.stage.not_in(("closed", "ended"))


def begin(unit: Unit, site: Site) -> None:
    """At the start: going live ends what was only rehearsed, and the hourly round begins."""
    if not site.rules.rehearsal:
        session = CaseSession(unit, site)
        for case in session.fetch(CASE.c.notes.contains("rehearsal"), CASE.c.person_ref.is_not(None)):
            session.take(transitions.rehearsal_over(case, unit.now))
        session.write()
    unit.set_timer("hourly", "all", unit.now)


def hourly(unit: Unit, _fired: Sequence[Timer], site: Site) -> None:
    """One round; the next is set for an hour later."""
    _cases(unit, site)
    retention.forget(unit)
    cover.send_covers(unit, site)
    monthly.offer_monthly(unit, site)
    unit.set_timer("hourly", "all", unit.now + EVERY)


def _cases(unit: Unit, site: Site) -> None:
    session, now, rules = CaseSession(unit, site), unit.now, site.rules
    tied = CASE.c.person_ref.is_not(None)
    over = and_(CASE.c.stage.in_((*UNANSWERED, "ended")), CASE.c.ends_at <= now)
    unsent = and_(CASE.c.stage == "waiting", CASE.c.attention.is_(None), CASE.c.ends_at <= now + rules.coalesce)
    alone = CASE.c.attention == "no_supporter"
    old = CASE.c.occurred_at <= now - LIMIT
    for case in session.fetch(tied, or_(over, unsent, alone, old)):
        after = session.take(transitions.lapse(case, now))
        after = session.take(transitions.limit(after, now))
        after = session.take(transitions.not_sent(after))
        session.take(transitions.find_again(after, now, rules, session.find))
    _gone(session)
    session.write()


def _gone(session: CaseSession) -> None:
    """A case opened, or a supporter asked, in the moment in which another process imported that they had left."""
    conn = session.unit.conn
    tied = select(CASE.c.person_ref).where(_OPEN).union(select(CASE.c.supporter).where(_OPEN))
    gone = PERSON.c.status.in_(GONE) & PERSON.c.person_ref.in_(tied)
    if refs := conn.execute(select(PERSON.c.person_ref).where(gone)).scalars().all():
        timers.part(session, refs)

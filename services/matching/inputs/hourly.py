"""Every hour: what is over is forgotten, what is stuck is shown, who waits is tried again, cover messages leave."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import and_, or_, select

from leeward.store import Timer, Unit
from services.matching.cases.repository import CASE
from services.matching.cases.session import PERSON, Desk
from services.matching.inputs import cover, monthly, retention, timers
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import UNANSWERED
from services.matching.lifecycle.steps import LIMIT
from services.matching.roster.people import GONE
from services.matching.site import Office

EVERY: Final = timedelta(hours=1)
_OPEN: Final = CASE.c.stage.not_in(("closed", "ended"))


def begin(unit: Unit, office: Office) -> None:
    """At the start: going live ends what was only rehearsed, and the hourly round begins."""
    if not office.rules.rehearsal:
        desk = Desk(unit, office)
        for case in desk.fetch(CASE.c.notes.contains("rehearsal"), CASE.c.person_ref.is_not(None)):
            desk.take(transitions.rehearsal_over(case, unit.now))
        desk.write()
    unit.set_timer("hourly", "all", unit.now)


def hourly(unit: Unit, _fired: Sequence[Timer], office: Office) -> None:
    """One round; the next is set for an hour later."""
    _cases(unit, office)
    retention.forget(unit)
    cover.send_covers(unit, office)
    monthly.offer_monthly(unit, office)
    unit.set_timer("hourly", "all", unit.now + EVERY)


def _cases(unit: Unit, office: Office) -> None:
    desk, now, rules = Desk(unit, office), unit.now, office.rules
    tied = CASE.c.person_ref.is_not(None)
    over = and_(CASE.c.stage.in_((*UNANSWERED, "ended")), CASE.c.ends_at <= now)
    unsent = and_(CASE.c.stage == "waiting", CASE.c.attention.is_(None), CASE.c.ends_at <= now + rules.coalesce)
    alone = CASE.c.attention == "no_supporter"
    old = CASE.c.occurred_at <= now - LIMIT
    for case in desk.fetch(tied, or_(over, unsent, alone, old)):
        after = desk.take(transitions.lapse(case, now))
        after = desk.take(transitions.limit(after, now))
        after = desk.take(transitions.not_sent(after))
        desk.take(transitions.find_again(after, now, rules, desk.find))
    _gone(desk)
    desk.write()


def _gone(desk: Desk) -> None:
    """A case opened, or a supporter asked, in the moment in which another process imported that they had left."""
    conn = desk.unit.conn
    tied = select(CASE.c.person_ref).where(_OPEN).union(select(CASE.c.supporter).where(_OPEN))
    gone = PERSON.c.status.in_(GONE) & PERSON.c.person_ref.in_(tied)
    if refs := conn.execute(select(PERSON.c.person_ref).where(gone)).scalars().all():
        timers.part(desk, refs)

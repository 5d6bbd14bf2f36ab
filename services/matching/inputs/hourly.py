"""Every hour: cases that are over end, stuck ones are listed, a supporter is looked for again, cover messages leave."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from leeward import telemetry
from leeward.store import Timer, Unit
from services.matching.cases import repository
from services.matching.cases.repository import ON_ITS_WAY
from services.matching.cases.session import CaseSession
from services.matching.inputs import cover, monthly, queries, timers
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import UNANSWERED
from services.matching.site import Site

EVERY: Final = timedelta(hours=1)


def begin(unit: Unit, site: Site) -> None:
    """At the start: going live ends what was only rehearsed, and the hourly round begins."""
    if not site.rules.rehearsal:
        session = CaseSession(unit, site)
        for case in session.fetch(repository.was_rehearsed()):
            session.apply(transitions.rehearsal_over(case, unit.now))
        session.write()
    unit.set_timer("hourly", "all", unit.now)


def run_hourly(unit: Unit, _fired: Sequence[Timer], site: Site) -> None:
    """One round; the next is set for an hour later."""
    advance_cases(unit, site)
    cover.send_covers(unit, site)
    monthly.offer_monthly(unit, site)
    unit.set_timer("hourly", "all", unit.now + EVERY)


def advance_cases(unit: Unit, site: Site) -> None:
    """End what is over, list what is stuck, and look for supporters again."""
    session, now = CaseSession(unit, site), unit.now
    cases = session.fetch(repository.may_be_due(now, now + site.rules.coalesce))
    lapsing = [case.case_ref for case in cases if case.stage in UNANSWERED and case.ends_at <= now]
    reached = repository.cases_with_offer_sent(unit.conn, lapsing, ON_ITS_WAY) if lapsing else set()
    for case in cases:
        after = session.apply(transitions.lapse(case, now, reached=case.case_ref in reached))
        after = session.apply(transitions.limit(after, now))
        after = session.apply(transitions.not_sent(after))
        if "never_reached" in after.attention and "never_reached" not in case.attention:
            unit.after_commit(telemetry.NEVER_REACHED.inc)
        session.apply(transitions.find_again(after))
    # a case was opened, or a supporter asked, in the moment in which another process imported that they had left
    if gone := queries.gone_in_open_cases(unit.conn):
        timers.end_ties(session, gone)
    session.write()

"""Choosing a supporter with what the database knows now: loads, refusals, who was around the same outcome."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, bindparam, false, literal_column, null, or_, select, true, union_all

from leeward.store import Insert
from leeward.store.lookup import in_list
from services.matching.cases.availability import availability
from services.matching.cases.repository import REQUEST
from services.matching.lifecycle.case import Case, Find, Found, Release
from services.matching.models import Exposure, Load, Refusal, Shift, table
from services.matching.pairing.scoring import Load as Carried
from services.matching.pairing.scoring import Search, State
from services.matching.roster.people import People
from services.matching.site import Site

EXPOSURE: Final = table(Exposure)
REFUSAL: Final = table(Refusal)
SHIFT: Final = table(Shift)
LOAD: Final = table(Load)
_REF: Final = 36
_NEW_LOADS: Final = Insert(
    LOAD, ("supporter_ref", "active", "month", "minutes"), conflict="nothing", keys=("supporter_ref",)
)


_STATE: Final = union_all(
    select(LOAD, false().label("on_call")).where(
        or_(
            LOAD.c.active > 0,
            LOAD.c.month == bindparam("month"),
            LOAD.c.rest_until > bindparam("now"),
            LOAD.c.exposed_until > bindparam("now"),
        )
    ),
    select(
        SHIFT.c.person_ref, literal_column("0"), literal_column("''"), literal_column("0"), null(), null(), true()
    ).where(SHIFT.c.on_call, SHIFT.c.ends_at > bindparam("now"), SHIFT.c.starts_at <= bindparam("now")),
)
_AROUND: Final = select(EXPOSURE.c.incident_ref, EXPOSURE.c.who).where(in_list(EXPOSURE.c.incident_ref, "incidents"))


def month(now: datetime) -> str:
    return now.strftime("%Y-%m")


def state(conn: Connection, now: datetime, site: Site) -> State:
    """Today's loads that are not zero, and who is on duty for support."""
    found = conn.execute(_STATE, {"now": now, "month": month(now)}).all()
    loads = {row.supporter_ref: _carried(row, now) for row in found if not row.on_call}
    return State(now.date(), loads, frozenset(row.supporter_ref for row in found if row.on_call), site.caps)


def _carried(row: Any, now: datetime) -> Carried:
    rests = any(until is not None and until > now for until in (row.rest_until, row.exposed_until))
    return Carried(row.active, row.minutes if row.month == month(now) else 0, rests)


def around(conn: Connection, incidents: Collection[str]) -> dict[str, set[str]]:
    """Who was around each of these outcomes, reviewers too: references, or digests of them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for incident, who in conn.execute(_AROUND, {"incidents": list(incidents)}):
        found[incident].add(who)
    return found


Near = Mapping[str, Collection[str]]


def search(people: People, site: Site, case: Case, barred: Iterable[str], near: Near) -> Search:
    """The search for a case's person; `near` are those around the person's outcomes, by outcome."""
    person_ref = case.person_ref or ""
    never = people.barred_for(person_ref).union(barred, *near.values())
    digests = {incident: who for incident, who in near.items() if any(len(one) > _REF for one in who)}
    also = partial(_marked, site, digests) if digests else None
    return Search(case.case_ref, people.known[person_ref].profile, never, also)


def _marked(site: Site, digests: Near, person_ref: str) -> bool:
    return any(site.fingerprint(incident, person_ref) in who for incident, who in digests.items())


class Chooser:
    """Finds and takes a supporter for one case at a time, in one transaction."""

    def __init__(self, conn: Connection, now: datetime, site: Site, people: People) -> None:
        self._conn = conn
        self._now = now
        self._office = site
        self._people = people

    @property
    def find(self) -> Find:
        return self._find

    def _find(self, case: Case) -> Found | None:
        if case.person_ref is None or case.person_ref not in self._people.known:
            return None
        today = state(self._conn, self._now, self._office)
        barred, near = self._barred(case), self._near(case)
        while True:
            looked = search(self._people, self._office, case, barred, near)
            proposed = case.proposed if case.proposed and self._people.pool.may(looked, case.proposed, today) else None
            best = proposed or getattr(self._people.pool.best(looked, today), "person_ref", None)
            if best is None:
                return None
            if self.take(best):
                return Found(best, self._people.known[best].timezone)
            barred.add(best)

    def _barred(self, case: Case) -> set[str]:
        """Whom this person refused, and whom this case has asked before."""
        person = case.person_ref or ""
        asked = select(REQUEST.c.recipient_ref).where(
            REQUEST.c.case_ref == case.case_ref, REQUEST.c.template == "supporter_request"
        )
        before = {self._people.by_recipient.get(recipient, "") for recipient in self._conn.execute(asked).scalars()}
        return before | availability(self._conn, [person], self._now).refused.get(person, set())

    def _near(self, case: Case) -> Near:
        mine = select(EXPOSURE.c.incident_ref).where(EXPOSURE.c.who == case.person_ref)
        incidents = {*self._conn.execute(mine).scalars(), *filter(None, [case.incident_ref])}
        return around(self._conn, incidents)

    def take(self, supporter_ref: str) -> bool:
        """Take one place of a supporter, if there is one left when the row is locked."""
        supporter = self._people.pool.supporters[supporter_ref]
        most = self._office.caps.active if supporter.max_active is None else supporter.max_active
        _NEW_LOADS.run(self._conn, [(supporter_ref, 0, "", 0)])
        taken = self._conn.execute(
            LOAD.update()
            .where(LOAD.c.supporter_ref == supporter_ref, LOAD.c.active < min(most, self._office.caps.active))
            .values(active=LOAD.c.active + 1)
        )
        return taken.rowcount == 1

    def give_back(self, release: Release) -> None:
        """Give a place back, book minutes to this month, and let the supporter rest."""
        mine = LOAD.c.supporter_ref == release.supporter
        row = self._conn.execute(select(LOAD).where(mine).with_for_update()).one()
        this_month = month(self._now)
        minutes = (row.minutes if row.month == this_month else 0) + release.minutes
        rest = max((until for until in (row.rest_until, release.rest_until) if until), default=None)
        changes = {"active": max(0, row.active - 1), "month": this_month, "minutes": minutes, "rest_until": rest}
        self._conn.execute(LOAD.update().where(mine).values(**changes))

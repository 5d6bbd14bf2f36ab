"""Supporters for the cases of a batch, chosen with what the database knows now, and their places taken."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from leeward.store import Unit
from services.matching.cases import repository
from services.matching.lifecycle.case import Case, ChosenSupporter
from services.matching.pairing.batch import Need, solve
from services.matching.pairing.scoring import Proposal, Search, State, Workload
from services.matching.roster.people import People
from services.matching.site import Site

_REFERENCE: Final = 36  # characters; a digest of one is longer


class Exclusions(NamedTuple):
    """Who may not support a case's person, besides what the roster says.

    `barred` were refused by the person or asked for the case before; `around` are those around the person's incidents,
    by incident: references, or digests of them.
    """

    barred: Collection[str]
    around: Mapping[str, Collection[str]]


def read_state(conn: Connection, now: datetime, site: Site) -> State:
    """Today's loads that are not zero, and who is on duty for support."""

    def workload(row: Any) -> Workload:
        rests = any(until is not None and until > now for until in (row.rest_until, row.exposed_until))
        return Workload(row.active, row.minutes if row.month == repository.month_of(now) else 0, rests)

    rows = repository.load_rows(conn, now)
    loads = {row.supporter_ref: workload(row) for row in rows if not row.on_call}
    return State(now.date(), site.caps, loads, frozenset(row.supporter_ref for row in rows if row.on_call))


def read_exclusions(conn: Connection, cases: Sequence[Case], people: People) -> dict[str, Exclusions]:
    """The exclusions of each case, by case_ref; a fixed handful of statements for all of them."""
    if not cases:
        return {}
    persons = {case.person_ref for case in cases if case.person_ref}
    refused, asked, incidents, around = (defaultdict[str, set[str]](set) for _ in range(4))
    for person, supporter in repository.refused_by(conn, persons):
        refused[person].add(supporter)
    for case_ref, recipient in repository.asked_before(conn, (case.case_ref for case in cases)):
        asked[case_ref].add(people.by_recipient.get(recipient, ""))
    for person, incident in repository.incidents_of(conn, persons):
        incidents[person].add(incident)
    for case in cases:
        incidents[case.person_ref or ""].update(filter(None, [case.incident_ref]))
    for incident, who in repository.those_around(conn, set().union(*incidents.values())):
        around[incident].add(who)
    return {
        case.case_ref: Exclusions(
            barred=refused[case.person_ref or ""] | asked[case.case_ref],
            around={incident: around[incident] for incident in incidents[case.person_ref or ""]},
        )
        for case in cases
    }


def make_search(people: People, site: Site, case: Case, exclusions: Exclusions) -> Search:
    """The search for a supporter of a case whose person is on the roster."""
    person_ref = case.person_ref or ""
    digests = {
        incident: who for incident, who in exclusions.around.items() if any(len(one) > _REFERENCE for one in who)
    }

    def was_around(supporter_ref: str) -> bool:
        return any(site.fingerprint(incident, supporter_ref) in who for incident, who in digests.items())

    also_barred: Callable[[str], bool] | None = was_around if digests else None
    never = people.barred_for(person_ref).union(exclusions.barred, *exclusions.around.values())
    return Search(case.case_ref, people.known[person_ref].profile, never, also_barred)


def choose_supporters(
    unit: Unit,
    site: Site,
    people: People,
    wanted: Sequence[tuple[Case, bool]],
    exclusions: Mapping[str, Exclusions],
) -> dict[str, ChosenSupporter]:
    """Choose for all cases together; those for whom there is nobody are missing from the result, by case_ref.

    Args:
        wanted: the cases in the order in which they are served, and whether a place of the chosen one is taken.
        exclusions: what is known already; of the other cases it is read.
    """
    cases = [case for case, _ in wanted if case.person_ref in people.known]
    known = {**read_exclusions(unit.conn, [c for c in cases if c.case_ref not in exclusions], people), **exclusions}
    needs = [
        Need(make_search(people, site, case, known[case.case_ref]), case.proposed, takes_place)
        for case, takes_place in wanted
        if case.person_ref in people.known
    ]
    found: dict[str, str] = {}
    while needs:
        answers = solve(people.pool, needs, read_state(unit.conn, unit.now, site))
        answered = [(need, proposal) for need, proposal in zip(needs, answers, strict=True) if proposal]
        refused = _take_places(unit.conn, site, people, answered)
        found |= {need.search.key: proposal.person_ref for need, proposal in answered if need.search.key not in refused}
        needs = [_without(need, refused[need.search.key]) for need in needs if need.search.key in refused]
    return {case_ref: ChosenSupporter(ref, people.known[ref].timezone) for case_ref, ref in found.items()}


def _take_places(
    conn: Connection, site: Site, people: People, answered: Sequence[tuple[Need, Proposal]]
) -> dict[str, str]:
    """Take a place for each need that takes one; gives the supporters who had none left, by the need's key."""
    taking = [(need.search.key, proposal.person_ref) for need, proposal in answered if need.takes_place]
    repository.insert_loads(conn, {supporter_ref for _, supporter_ref in taking})
    full = {}
    for key, supporter_ref in taking:
        most = site.caps.most_active(people.pool.supporters[supporter_ref])
        if not repository.take_place(conn, supporter_ref, most):
            full[key] = supporter_ref
    return full


def _without(need: Need, supporter_ref: str) -> Need:
    return need._replace(search=replace(need.search, barred={*need.search.barred, supporter_ref}))

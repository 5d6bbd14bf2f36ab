"""Outcomes come in: who was around, who may be written to now, and one new case for each of them.

The hot path: a batch costs a fixed handful of bulk statements, whatever its size.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import bindparam, select

from leeward.contracts import CaseOpened, Event, IncidentAmended, IncidentRecorded, IncidentRetracted, Involved
from leeward.refs import new_ref
from leeward.store import Insert, Unit
from leeward.store.lookup import in_list
from services.matching.cases import repository
from services.matching.cases.availability import Availability, availability
from services.matching.cases.candidates import EXPOSURE, LOAD, SHIFT, search, state
from services.matching.cases.repository import CASE, MAY_BE_THERE, REQUEST, Draft
from services.matching.cases.session import ENTRY, INSERT_ENTRIES, CaseSession, OpenedElsewhere
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Attention, Case, Message, Transition
from services.matching.lifecycle.hours import hold_until
from services.matching.lifecycle.steps import LIMIT
from services.matching.models import PublishedIncident, table
from services.matching.pairing.batch import propose
from services.matching.pairing.scoring import Proposal
from services.matching.roster.people import Colleague, People
from services.matching.site import Site

INCIDENT: Final = table(PublishedIncident)
GROUP: Final = 5
_LONGEST_SHIFT: Final = timedelta(days=3)
_INCIDENT_COLUMNS: Final = ("incident_ref", "urgency", "listed", "expected", "retracted", "occurred_at")
_INSERT_INCIDENTS: Final = Insert(INCIDENT, _INCIDENT_COLUMNS, conflict="nothing", keys=("incident_ref",))
_INSERT_EXPOSURES: Final = Insert(
    EXPOSURE, ("incident_ref", "who", "reviewer"), conflict="nothing", returning=("incident_ref", "who")
)
_EXPOSE: Final = Insert(
    LOAD,
    ("supporter_ref", "active", "month", "minutes", "exposed_until"),
    conflict="nothing",
    keys=("supporter_ref",),
    returning=("supporter_ref",),
)

_DUTY: Final = select(SHIFT.c.unit, SHIFT.c.person_ref, SHIFT.c.starts_at, SHIFT.c.ends_at).where(
    in_list(SHIFT.c.unit, "units"),
    SHIFT.c.starts_at <= bindparam("last"),
    SHIFT.c.starts_at > bindparam("longest"),
    SHIFT.c.ends_at > bindparam("first"),
    SHIFT.c.on_call.is_(False),
)


@dataclass(slots=True)
class Incident:
    """What is needed of an outcome. `around` are those involved and on shift, reviewers apart."""

    incident_ref: str
    urgency: str
    listed: bool
    expected: bool
    occurred_at: datetime
    around: dict[str, None] = field(default_factory=dict)
    reviewers: set[str] = field(default_factory=set)
    accepted_at: datetime | None = None

    @property
    def everybody(self) -> set[str]:
        return {*self.around, *self.reviewers}

    def involve(self, involved: Iterable[Involved]) -> None:
        for one in involved:
            if one.reviewer:
                self.reviewers.add(one.person_ref)
            else:
                self.around[one.person_ref] = None


def recorded(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Store outcomes and who was around, and open cases; what would be forgotten at once has no effect."""
    outcomes = {}
    units = {}
    for event in events:
        data = event.data
        if isinstance(data, IncidentRecorded) and data.occurred_at > unit.now - LIMIT:
            outcome = _outcome(data, site)
            outcome.accepted_at = event.accepted_at
            outcome.involve(data.involved)
            outcomes[outcome.incident_ref] = outcome
            units[outcome.incident_ref] = data.unit
    _add_those_on_shift(unit, outcomes, units)
    _INSERT_INCIDENTS.run(
        unit.conn, [(o.incident_ref, o.urgency, o.listed, o.expected, False, o.occurred_at) for o in outcomes.values()]
    )
    people = site.roster.read(unit.conn)
    _reach(unit, site, people, outcomes)
    _tell(unit, people, outcomes.values())


def amended(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """People who became known later are treated as if they had been named at once."""
    refs = {event.data.incident_ref for event in events if isinstance(event.data, IncidentAmended)}
    found = unit.conn.execute(
        select(INCIDENT).where(INCIDENT.c.incident_ref.in_(refs), INCIDENT.c.retracted.is_(False))
    )
    outcomes = {
        row.incident_ref: Incident(row.incident_ref, row.urgency, row.listed, row.expected, row.occurred_at)
        for row in found
    }
    for event in events:
        if isinstance(event.data, IncidentAmended) and event.data.incident_ref in outcomes:
            outcomes[event.data.incident_ref].involve(event.data.involved)
            outcomes[event.data.incident_ref].accepted_at = event.accepted_at
    people = site.roster.read(unit.conn)
    _reach(unit, site, people, outcomes)
    _relieve(unit, site, outcomes)
    _settle(unit, outcomes)


def retracted(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """The evidence was taken back; who was around another outcome as well keeps their offer for that one."""
    refs = [event.data.incident_ref for event in events if isinstance(event.data, IncidentRetracted)]
    unit.conn.execute(INCIDENT.update().where(INCIDENT.c.incident_ref.in_(refs)).values(retracted=True))
    unit.conn.execute(ENTRY.delete().where(ENTRY.c.about.in_(refs)))
    session = CaseSession(unit, site)
    found = session.fetch(CASE.c.incident_ref.in_(refs))
    others = _other_outcomes(unit, [case.person_ref for case in found if case.person_ref])
    left = _sent(unit, [case.case_ref for case in found])
    availability = set()
    for case in found:
        other = others.get(case.person_ref or "")
        if other and not case.over:
            availability.add(other)
            session.take(transitions.moved(case, other))
        else:
            session.take(transitions.retract(case, unit.now, sent=case.case_ref in left))
    session.write()
    # written: a replica that takes one of these back at this moment has not seen the case that rests on it now
    rested_on = INCIDENT.c.incident_ref.in_(availability)
    unit.conn.execute(INCIDENT.update().where(rested_on).values(retracted=INCIDENT.c.retracted))


def _sent(unit: Unit, case_refs: Sequence[str]) -> set[str | None]:
    """The cases of which an offer has left, or may have."""
    offers = REQUEST.c.case_ref.in_(case_refs) & (REQUEST.c.template == "offer")
    return {asked.case_ref for asked in repository.requests(unit.conn, offers, REQUEST.c.outcome.in_(MAY_BE_THERE))}


def _outcome(data: IncidentRecorded, site: Site) -> Incident:
    listed = data.category in site.listed
    expected = data.unit in site.expected_units and data.severity.level == "death" and not listed
    return Incident(data.incident_ref, data.urgency, listed, expected, data.occurred_at)


def _add_those_on_shift(unit: Unit, outcomes: Mapping[str, Incident], units: Mapping[str, str]) -> None:
    """The message names physicians; nurses and technicians stand in the unit's rota."""
    if not outcomes:
        return
    moments = [outcome.occurred_at for outcome in outcomes.values()]
    first = min(moments)
    span = {"first": first, "longest": first - _LONGEST_SHIFT, "last": max(moments)}
    duty: defaultdict[str, list[tuple[str, datetime, datetime]]] = defaultdict(list)
    for name, person, starts, ends in unit.conn.execute(_DUTY, {**span, "units": list(set(units.values()))}):
        duty[name].append((person, starts, ends))
    for ref, outcome in outcomes.items():
        for person, starts, ends in duty.get(units[ref], ()):
            if starts <= outcome.occurred_at < ends:
                outcome.around[person] = None


def _reach(unit: Unit, site: Site, people: People, outcomes: Mapping[str, Incident]) -> None:
    """Note who was around, and open a case for everybody who is new to the outcome and may be written to."""
    listed = [
        (o.incident_ref, who, reviewer)
        for o in outcomes.values()
        for group, reviewer in ((o.reviewers, True), (o.around.keys() - o.reviewers, False))
        for who in sorted(group)
        if who in people.known
    ]
    fresh = {(row.incident_ref, row.who) for row in _INSERT_EXPOSURES.run(unit.conn, listed)}
    new = [(outcomes[ref], who) for ref, who, reviewer in listed if (ref, who) in fresh and not reviewer]
    _rest_supporters(unit, site, people, new)
    _bar_reviewers(unit, people, [who for ref, who, reviewer in listed if (ref, who) in fresh and reviewer])
    wanted = [(o, who) for o, who in new if not o.expected and people.known[who].here]
    _open(unit, site, people, wanted)


def _rest_supporters(unit: Unit, site: Site, people: People, new: Sequence[tuple[Incident, str]]) -> None:
    """A supporter who was around an outcome supports nobody for a while."""
    until = {who: outcome.occurred_at + site.after_exposure for outcome, who in new if who in people.pool.supporters}
    made = _EXPOSE.run(unit.conn, [(who, 0, "", 0, moment) for who, moment in sorted(until.items())])
    for who in sorted(until.keys() - {row.supporter_ref for row in made}):
        unit.conn.execute(LOAD.update().where(LOAD.c.supporter_ref == who).values(exposed_until=until[who]))


def _bar_reviewers(unit: Unit, people: People, reviewers: Sequence[str]) -> None:
    """Who reviews an event supports nobody of it: a replica that chooses one at this moment chooses again."""
    barred = sorted({who for who in reviewers if who in people.pool.supporters})
    made = _EXPOSE.run(unit.conn, [(who, 0, "", 0, None) for who in barred])
    if known := set(barred) - {row.supporter_ref for row in made}:
        unit.conn.execute(LOAD.update().where(LOAD.c.supporter_ref.in_(known)).values(active=LOAD.c.active))


def _first_each(unit: Unit, wanted: Sequence[tuple[Incident, str]], found: Availability) -> dict[str, Incident]:
    """One outcome a person; nobody in their quiet time, but for a listed category, and nobody with a case open."""
    if found.with_open_case:
        # written: a replica that ends one of these cases at this moment must see that another outcome rests on it
        theirs = CASE.c.person_ref.in_(found.with_open_case) & CASE.c.stage.not_in(("closed", "ended"))
        unit.conn.execute(CASE.update().where(theirs).values(stage=CASE.c.stage))
    chosen: dict[str, Incident] = {}
    for outcome, who in wanted:
        if who not in found.with_open_case and (who not in found.quiet or outcome.listed):
            chosen.setdefault(who, outcome)
    return chosen


def _open(unit: Unit, site: Site, people: People, wanted: Sequence[tuple[Incident, str]]) -> None:
    if not wanted:
        return
    found = availability(unit.conn, {who for _, who in wanted}, unit.now)
    chosen = _first_each(unit, wanted, found)
    if not chosen:
        return
    cases = [_new_case(unit, site, who, outcome) for who, outcome in chosen.items()]
    near = {outcome.incident_ref: outcome.everybody for outcome in chosen.values()}
    searches = [
        search(people, site, case, found.refused.get(who, ()), {o.incident_ref: near[o.incident_ref]})
        for case, (who, o) in zip(cases, chosen.items(), strict=True)
    ]
    proposals = propose(people.pool, searches, state(unit.conn, unit.now, site))
    steps = []
    for case, proposal in zip(cases, proposals, strict=True):
        colleague = people.known[case.person_ref or ""]
        hold = hold_until(unit.now, found.shifts.get(colleague.person_ref, ()), colleague.timezone)
        steps.append(_opened(case, colleague, proposal, hold, site))
    _store(unit, site, people, steps, chosen)


def _new_case(unit: Unit, site: Site, who: str, outcome: Incident) -> Case:
    return Case(
        case_ref=new_ref(),
        person_ref=who,
        incident_ref=outcome.incident_ref,
        urgency="urgent" if outcome.urgency == "urgent" else "routine",
        notes=("rehearsal",) if site.rules.rehearsal else (),
        opened_at=unit.now,
        occurred_at=outcome.occurred_at,
        ends_at=unit.now + site.rules.longest_hold + site.rules.coalesce,
    )


def _opened(
    case: Case, colleague: Colleague, proposal: Proposal | None, hold: datetime | None, site: Site
) -> Transition:
    stuck: Attention | None = None if proposal else "no_supporter"
    if hold and hold > case.opened_at + site.rules.longest_hold and case.urgency != "urgent":
        stuck = "held_too_long"
    if not colleague.reachable:
        stuck = "unreachable"
    case = replace(case, proposed=proposal.person_ref if proposal else None)
    return transitions.opened(case, not_before=hold, stuck=stuck)


def _store(unit: Unit, site: Site, people: People, steps: Sequence[Transition], chosen: Mapping[str, Incident]) -> None:
    """Cases, requests and events of all new cases, in bulk; like `Desk`, which does it one by one."""
    stored = repository.INSERT_CASES.run(unit.conn, [repository.case_row(step.case) for step in steps])
    if len(stored) < len(steps):
        raise OpenedElsewhere
    deadline = unit.now + site.rules.longest_hold
    events = []
    for step in steps:
        accepted_at = chosen[step.case.person_ref or ""].accepted_at
        unit.emit(CaseOpened(case_ref=step.case.case_ref), accepted_at)
        for message in (effect for effect in step.effects if isinstance(effect, Message)):
            recipient = people.known[step.case.person_ref or ""].recipient_ref
            event = repository.requested(Draft(step.case.case_ref, message, recipient, step.case.ends_at, deadline))
            unit.emit(event, accepted_at)
            events.append((event, False))
    repository.insert_requests(unit.conn, events)


def _tell(unit: Unit, people: People, outcomes: Iterable[Incident]) -> None:
    """What is for the coordinator: nobody to write to, or so many that they might like to meet (DESIGN §5.9)."""
    notes = [
        (new_ref(), kind, outcome.incident_ref, unit.now)
        for outcome in outcomes
        if not outcome.expected and (kind := _note(people, outcome))
    ]
    INSERT_ENTRIES.run(unit.conn, notes)


def _note(people: People, outcome: Incident) -> str | None:
    here = [people.known[who] for who in outcome.around if who in people.known and people.known[who].here]
    around = [colleague for colleague in here if colleague.person_ref not in outcome.reviewers]
    if not around:
        return "nobody_to_reach"
    several = len({colleague.profile.unit for colleague in around}) > 1
    return "group_session" if len(around) > GROUP or several else None


def _relieve(unit: Unit, site: Site, outcomes: Mapping[str, Incident]) -> None:
    """Nobody supports a case of an outcome that they were around themselves: somebody else is asked (DESIGN §5.4)."""
    session = CaseSession(unit, site)
    found = session.fetch(CASE.c.incident_ref.in_(outcomes.keys()), CASE.c.supporter.is_not(None))
    mixed = [case for case in found if case.supporter in outcomes[case.incident_ref or ""].everybody]
    for case in mixed:
        session.take(transitions.supporter_gone(case, unit.now, site.rules, session.find))
    session.write()


def _settle(unit: Unit, outcomes: Mapping[str, Incident]) -> None:
    """Somebody was found after all."""
    about = ENTRY.c.about.in_(outcomes.keys())
    unit.conn.execute(ENTRY.delete().where(about, ENTRY.c.kind == "nobody_to_reach"))


def _other_outcomes(unit: Unit, persons: Sequence[str]) -> dict[str, str]:
    """Another outcome, not retracted, that each of these persons was around."""
    joined = EXPOSURE.join(INCIDENT, EXPOSURE.c.incident_ref == INCIDENT.c.incident_ref)
    query = (
        select(EXPOSURE.c.who, EXPOSURE.c.incident_ref)
        .select_from(joined)
        .where(EXPOSURE.c.who.in_(persons), EXPOSURE.c.reviewer.is_(False))
        .where(INCIDENT.c.retracted.is_(False), INCIDENT.c.expected.is_(False))
    )
    return {row.who: row.incident_ref for row in unit.conn.execute(query.order_by(INCIDENT.c.occurred_at))}

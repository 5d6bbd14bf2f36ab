"""Incidents come in: who was around, who may be written to now, and one new case for each of them.

The hot path: a batch costs a fixed handful of bulk statements, whatever its size.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from leeward.contracts import Event, IncidentAmended, IncidentRecorded, IncidentRetracted, Involved
from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases import repository
from services.matching.cases.availability import Availability, availability
from services.matching.cases.candidates import Exclusions
from services.matching.cases.session import CaseSession
from services.matching.inputs import queries
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import Attention, Case
from services.matching.lifecycle.hours import hold_until
from services.matching.lifecycle.steps import LIMIT
from services.matching.roster.people import People
from services.matching.site import Site

GROUP: Final = 5


@dataclass(slots=True)
class Incident:
    """What is needed of an incident. `around` are those involved and on shift, reviewers apart."""

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


def apply_recorded(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """Store incidents and who was around, and open cases; what would be forgotten at once has no effect."""
    incidents, units = {}, {}
    for event in events:
        data = event.data
        if isinstance(data, IncidentRecorded) and data.occurred_at > unit.now - LIMIT:
            listed = data.category in site.listed
            expected = data.unit in site.expected_units and data.severity.level == "death" and not listed
            incident = Incident(data.incident_ref, data.urgency, listed, expected, data.occurred_at)
            incident.accepted_at = event.accepted_at
            incident.involve(data.involved)
            incidents[incident.incident_ref] = incident
            units[incident.incident_ref] = data.unit
    _add_those_on_shift(unit, incidents, units)
    queries.insert_incidents(
        unit.conn, [(i.incident_ref, i.urgency, i.listed, i.expected, False, i.occurred_at) for i in incidents.values()]
    )
    session = CaseSession(unit, site)
    _reach(session, incidents)
    for incident in incidents.values():
        if not incident.expected and (kind := _note(session.people, incident)):
            session.list_for_coordinator(kind, incident.incident_ref)
    session.write()


def apply_amended(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """People who became known later are treated as if they had been named at once."""
    refs = {event.data.incident_ref for event in events if isinstance(event.data, IncidentAmended)}
    incidents = {
        row.incident_ref: Incident(row.incident_ref, row.urgency, row.listed, row.expected, row.occurred_at)
        for row in queries.incidents_by_ref(unit.conn, refs)
    }
    for event in events:
        if isinstance(event.data, IncidentAmended) and event.data.incident_ref in incidents:
            incidents[event.data.incident_ref].involve(event.data.involved)
            incidents[event.data.incident_ref].accepted_at = event.accepted_at
    session = CaseSession(unit, site)
    _reach(session, incidents)
    # nobody supports a case of an incident that they were around themselves: somebody else is asked (DESIGN §5.4)
    for case in session.fetch(repository.is_about(incidents.keys()) & repository.has_supporter()):
        if case.supporter in incidents[case.incident_ref or ""].everybody:
            session.apply(transitions.supporter_gone(case, site.rules))
    session.write()
    queries.delete_nobody_to_reach(unit.conn, incidents.keys())


def apply_retracted(unit: Unit, events: Sequence[Event], site: Site) -> None:
    """The evidence was taken back; who was around another incident as well keeps their offer for that one."""
    refs = [event.data.incident_ref for event in events if isinstance(event.data, IncidentRetracted)]
    queries.retract_incidents(unit.conn, refs)
    session = CaseSession(unit, site)
    cases = session.fetch(repository.is_about(refs))
    others = queries.other_incidents(unit.conn, [case.person_ref for case in cases if case.person_ref])
    sent = repository.cases_with_offer_sent(unit.conn, [case.case_ref for case in cases])
    rested_on = set()
    for case in cases:
        other = others.get(case.person_ref or "")
        if other and not case.over:
            rested_on.add(other)
            session.apply(transitions.moved(case, other))
        else:
            session.apply(transitions.retract(case, unit.now, sent=case.case_ref in sent))
    session.write()
    # a replica that takes one of these back at this moment has not seen the case that rests on it now
    queries.conflict_on_incidents(unit, rested_on)


def _add_those_on_shift(unit: Unit, incidents: Mapping[str, Incident], units: Mapping[str, str]) -> None:
    """The message names physicians; nurses and technicians stand in the unit's rota."""
    if not incidents:
        return
    moments = [incident.occurred_at for incident in incidents.values()]
    duty = queries.on_shift(unit.conn, set(units.values()), min(moments), max(moments))
    for ref, incident in incidents.items():
        for person, starts, ends in duty.get(units[ref], ()):
            if starts <= incident.occurred_at < ends:
                incident.around[person] = None


def _reach(session: CaseSession, incidents: Mapping[str, Incident]) -> None:
    """Note who was around, and open a case for everybody who is new to the incident and may be written to."""
    unit, people = session.unit, session.people
    named = [
        (i.incident_ref, who, reviewer)
        for i in incidents.values()
        for group, reviewer in ((i.reviewers, True), (i.around.keys() - i.reviewers, False))
        for who in sorted(group)
        if who in people.known
    ]
    fresh = queries.insert_exposures(unit.conn, named)
    new = [(incidents[ref], who) for ref, who, reviewer in named if (ref, who) in fresh and not reviewer]
    # a supporter who was around an incident supports nobody for a while
    rest = session.site.after_exposure
    queries.rest_supporters(
        unit.conn, {who: incident.occurred_at + rest for incident, who in new if who in people.pool.supporters}
    )
    # who reviews an incident supports nobody of it: a replica that chooses one at this moment chooses again
    queries.conflict_on_supporters(
        unit, {who for ref, who, reviewer in named if reviewer and (ref, who) in fresh} & people.pool.supporters.keys()
    )
    wanted = [(incident, who) for incident, who in new if not incident.expected and people.known[who].here]
    if not wanted:
        return
    known = availability(unit.conn, {who for _, who in wanted}, unit.now)
    for who, incident in _first_each(unit, wanted, known).items():
        _open_case(session, who, incident, known)


def _first_each(unit: Unit, wanted: Sequence[tuple[Incident, str]], known: Availability) -> dict[str, Incident]:
    """One incident a person; nobody in their quiet time, but for a listed category, and nobody with a case open."""
    if known.with_open_case:
        # a replica that ends one of these cases at this moment must see that another incident rests on it
        queries.conflict_on_open_cases(unit, known.with_open_case)
    chosen: dict[str, Incident] = {}
    for incident, who in wanted:
        if who not in known.with_open_case and (who not in known.quiet or incident.listed):
            chosen.setdefault(who, incident)
    return chosen


def _open_case(session: CaseSession, who: str, incident: Incident, known: Availability) -> None:
    """A new case and its offer, whose message waits while the person is on shift."""
    now, rules, colleague = session.now, session.rules, session.people.known[who]
    case = Case(
        case_ref=new_ref(),
        person_ref=who,
        incident_ref=incident.incident_ref,
        urgency="urgent" if incident.urgency == "urgent" else "routine",
        notes=("rehearsal",) if rules.rehearsal else (),
        opened_at=now,
        occurred_at=incident.occurred_at,
        ends_at=now + rules.longest_hold + rules.coalesce,
    )
    hold = hold_until(now, known.shifts.get(who, ()), colleague.timezone)
    stuck: Attention | None = None
    if hold and hold > now + rules.longest_hold and case.urgency != "urgent":
        stuck = "held_too_long"
    if not colleague.reachable:
        stuck = "unreachable"
    around = {incident.incident_ref: incident.everybody}
    session.add(case, Exclusions(known.refused.get(who, ()), around))
    session.apply(transitions.opened(case, not_before=hold, stuck=stuck), incident.accepted_at)


def _note(people: People, incident: Incident) -> str | None:
    """What the coordinator is shown: nobody to write to, or so many that they might like to meet (DESIGN §5.9)."""
    here = [people.known[who] for who in incident.around if who in people.known and people.known[who].here]
    around = [colleague for colleague in here if colleague.person_ref not in incident.reviewers]
    if not around:
        return "nobody_to_reach"
    several = len({colleague.profile.unit for colleague in around}) > 1
    return "group_session" if len(around) > GROUP or several else None

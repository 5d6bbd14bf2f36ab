"""What one batch decides, gathered and then written: incidents, who was listed, the work queue, and the events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import delete, select, update

from leeward.contracts import (
    IncidentAmended,
    IncidentRecorded,
    IncidentRetracted,
    Involved,
    Severity,
    bucket_down,
)
from leeward.refs import new_ref
from leeward.store import Insert, Unit, Update
from leeward.store.lookup import in_list, rows_of
from services.incident.decisions.claims import (
    DEATH,
    DENIED,
    Action,
    Current,
    Mention,
    PatientClaim,
    Person,
    Report,
    SignalDecision,
    Visit,
    current_of,
)
from services.incident.hashing import Hasher
from services.incident.intake.unmatched import Queue, touch
from services.incident.models import IncidentRow, InvolvedRow, StaffIdentifier, Told, UnmatchedLink, table_of

INCIDENT: Final = table_of(IncidentRow)
INVOLVED: Final = table_of(InvolvedRow)
LINK: Final = table_of(UnmatchedLink)
TOLD: Final = table_of(Told)
_STAFF: Final = table_of(StaffIdentifier)
_NEW: Final = Insert(INCIDENT, [column.name for column in INCIDENT.columns])
_TOLD: Final = Insert(TOLD, ("source_ref", "incident_ref"), conflict="nothing")
_STATE: Final = Update(INCIDENT, ("incident_ref",), ("state",))
_INVOLVED: Final = Insert(
    INVOLVED,
    ("incident_ref", "person_ref", "reviewer"),
    conflict="nothing",
    keys=("incident_ref", "person_ref"),
    returning=("incident_ref", "person_ref"),
)
_FIND_STAFF: Final = select(_STAFF.c.key_hash, _STAFF.c.person_ref, _STAFF.c.active).where(in_list(_STAFF.c.key_hash))
_FIND_REPORTED: Final = select(INCIDENT).where(in_list(INCIDENT.c.source_ref))
FIND_TOLD: Final = (
    select(TOLD.c.source_ref.label("fingerprint"), INCIDENT)
    .join(INCIDENT, INCIDENT.c.incident_ref == TOLD.c.incident_ref)
    .where(in_list(TOLD.c.source_ref))
)


@dataclass(frozen=True, slots=True)
class OpenedIncident:
    """A new incident with what its row and its event say."""

    current: Current
    signal: PatientClaim | Report
    decision: SignalDecision


@dataclass(frozen=True, slots=True)
class AddedPeople:
    """People for an incident there is."""

    current: Current
    mentions: Sequence[Mention]


@dataclass(frozen=True, slots=True)
class EndedIncident:
    """An incident that is over; `told` when others have heard of it."""

    current: Current
    told: bool


class Records:
    """The steps of one batch, in the order they were decided."""

    def __init__(self, unit: Unit, hasher: Hasher, queue: Queue, reports: Iterable[Report]) -> None:
        self._unit = unit
        self._hasher = hasher
        self._queue = queue
        self._steps: list[OpenedIncident | AddedPeople | EndedIncident] = []
        refs = [self._source_ref(report) for report in reports]
        self._reported = {
            row.source_ref: current_of(dict(row._mapping)) for row in rows_of(unit.conn, _FIND_REPORTED, refs)
        }
        self._told = {row.fingerprint: current_of(dict(row._mapping)) for row in rows_of(unit.conn, FIND_TOLD, refs)}
        self._newly_told: dict[str, str] = {}
        self._passed_on: list[tuple[str, str]] = []

    def open(self, signal: PatientClaim | Report, decision: SignalDecision, replaced: Current | None) -> Current:
        """A new incident; an open doubt about the same patient that it settles is dismissed."""
        if replaced and replaced.state == "review":
            self.dismiss(replaced)
        made = Current(
            incident_ref=new_ref(),
            state="recorded" if decision.action == Action.RECORD else "review",
            certain=decision.certain,
            by_disposition=isinstance(signal, PatientClaim) and signal.disposition == "dead",
            source=signal.source,
            visit=signal.visit if isinstance(signal, PatientClaim) else Visit(),
            accepted_at=bucket_down(self._unit.now),
            denied=DENIED in decision.reasons,
        )
        if isinstance(signal, Report):
            self._reported[self._source_ref(signal)] = made
        if replaced and replaced.state != "recorded":
            self._pass_on(replaced.incident_ref, made)
        self._steps.append(OpenedIncident(made, signal, decision))
        return made

    def add(self, current: Current, mentions: Sequence[Mention]) -> None:
        """Further people around an incident that is not over."""
        if current.state in ("recorded", "review"):
            self._steps.append(AddedPeople(current, mentions))

    def retract(self, current: Current) -> None:
        """The source took it back."""
        self._end(current, "retracted")

    def dismiss(self, current: Current) -> None:
        """A doubt that something else has settled."""
        self._end(current, "dismissed")

    def opened(self, report: Report) -> Current | None:
        """The incident that a report under the same reference has made."""
        return self._reported.get(self._source_ref(report))

    def reported(self, report: Report) -> Current | None:
        """The incident a source reported before under the same reference, whoever told of it first."""
        return self.opened(report) or self._told.get(self._source_ref(report))

    def tell(self, current: Current, report: Report) -> None:
        """A report told of an incident that there was: its reference stands for it from now on."""
        ref = self._source_ref(report)
        self._told[ref] = current
        self._newly_told[ref] = current.incident_ref

    def _source_ref(self, report: Report) -> str:
        return self._hasher.of_message(b"source_ref", report.source.encode(), report.source_ref.encode())

    def _end(self, current: Current, state: str) -> None:
        self._steps.append(EndedIncident(current, told=current.state == "recorded"))
        current.state = "retracted" if state == "retracted" else "dismissed"

    def _pass_on(self, over: str, made: Current) -> None:
        """Reports that told of an incident that is over stand for the one that took its place."""
        self._told = {ref: made if one.incident_ref == over else one for ref, one in self._told.items()}
        self._newly_told = {ref: made.incident_ref if one == over else one for ref, one in self._newly_told.items()}
        self._passed_on.append((over, made.incident_ref))

    # ---- writing

    def write(self) -> None:
        """Everything in a few statements; events in the order of the steps."""
        for over, made in self._passed_on:
            self._unit.conn.execute(update(TOLD).where(TOLD.c.incident_ref == over).values(incident_ref=made))
        _TOLD.run(self._unit.conn, sorted(self._newly_told.items()))
        if not self._steps:
            return
        opened = [step for step in self._steps if isinstance(step, OpenedIncident)]
        ended = [step.current for step in self._steps if isinstance(step, EndedIncident)]
        _NEW.run(self._unit.conn, [self._row(step) for step in opened])
        touch(self._unit, {step.current.incident_ref for step in self._steps if isinstance(step, AddedPeople)})
        people = self._people()
        self._link(people)
        close(self._unit, ended)
        self._publish(people)

    def _row(self, step: OpenedIncident) -> tuple[object, ...]:
        current, signal, severity = step.current, step.signal, step.signal.severity
        native = isinstance(signal, Report)
        return (
            current.incident_ref,
            current.state,
            current.source,
            self._source_ref(signal) if isinstance(signal, Report) else None,
            signal.category if isinstance(signal, Report) else DEATH,
            severity.scheme,
            severity.code,
            severity.level,
            signal.unit,
            signal.urgency if isinstance(signal, Report) else "routine",
            " ".join(step.decision.reasons),
            self._occurred_at(signal),
            current.accepted_at,
            current.certain,
            current.by_disposition and not native,
            *current.visit,
        )

    def _occurred_at(self, signal: PatientClaim | Report) -> datetime:
        """Never later than now: what is kept until so long after it would be kept for ever."""
        return bucket_down(min(signal.occurred_at or self._unit.now, self._unit.now))

    def _people(self) -> dict[int, list[Person]]:
        """For every step who of its mentions is new to its incident; by the step's place."""
        mentions = [mentions_of(step) for step in self._steps]
        hashes = [[self._hasher.of_staff(one.identifier) for one in group] for group in mentions]
        staff = find_staff(self._unit, {key for group in hashes for key in group})
        people: dict[int, list[Person]] = {}
        for place, (group, keys) in enumerate(zip(mentions, hashes, strict=True)):
            ref = self._steps[place].current.incident_ref
            for mention, key in zip(group, keys, strict=True):
                if key not in staff:
                    self._queue.put(key, mention, ref)
            known = [(staff[key], one.reviewer) for one, key in zip(group, keys, strict=True) if staff.get(key)]
            people[place] = _each_once(known)
        self._queue.write(self._unit)
        return people

    def _link(self, people: dict[int, list[Person]]) -> None:
        """Store who is involved, and leave in `people` those who were not yet."""
        rows = {
            (self._steps[place].current.incident_ref, person.person_ref): person.reviewer
            for place, group in reversed(people.items())
            for person in group
        }
        new = {tuple(row) for row in _INVOLVED.run(self._unit.conn, [(*key, flag) for key, flag in rows.items()])}
        for place, group in people.items():
            ref = self._steps[place].current.incident_ref
            people[place] = [person for person in group if (ref, person.person_ref) in new]
            new -= {(ref, person.person_ref) for person in group}

    def _publish(self, people: dict[int, list[Person]]) -> None:
        for place, step in enumerate(self._steps):
            involved = tuple(_involved(person) for person in people[place])
            if isinstance(step, OpenedIncident) and step.decision.action == Action.RECORD:
                self._unit.emit(self._event(step, involved))
            elif isinstance(step, AddedPeople) and involved and step.current.state == "recorded":
                self._unit.emit(IncidentAmended(incident_ref=step.current.incident_ref, involved=involved))
            elif isinstance(step, EndedIncident) and step.told:
                self._unit.emit(IncidentRetracted(incident_ref=step.current.incident_ref))

    def _event(self, step: OpenedIncident, involved: tuple[Involved, ...]) -> IncidentRecorded:
        signal = step.signal
        return IncidentRecorded(
            incident_ref=step.current.incident_ref,
            category=signal.category if isinstance(signal, Report) else DEATH,
            severity=Severity(**signal.severity._asdict()),
            unit=signal.unit,
            occurred_at=self._occurred_at(signal),
            urgency=signal.urgency if isinstance(signal, Report) else "routine",
            involved=involved,
        )


def mentions_of(step: OpenedIncident | AddedPeople | EndedIncident) -> Sequence[Mention]:
    """The people a step lists."""
    if isinstance(step, OpenedIncident):
        return step.signal.mentions
    return step.mentions if isinstance(step, AddedPeople) else ()


def find_staff(unit: Unit, hashes: set[str]) -> dict[str, str]:
    """person_refs by an identifier's hash; "" for somebody who has left: known, and nobody to write to."""
    rows = rows_of(unit.conn, _FIND_STAFF, hashes)
    return {row.key_hash: row.person_ref if row.active else "" for row in rows}


def close(unit: Unit, ended: Sequence[Current]) -> None:
    """Store that incidents are over, and forget who was listed around them."""
    if not ended:
        return
    _STATE.run(unit.conn, [(current.incident_ref, current.state) for current in ended])
    refs = [current.incident_ref for current in ended]
    for table in (INVOLVED, LINK):
        unit.conn.execute(delete(table).where(table.c.incident_ref.in_(refs)))


def _each_once(known: Iterable[tuple[str, bool]]) -> list[Person]:
    """A person listed twice is listed once, as a reviewer if either says so."""
    found: dict[str, bool] = {}
    for ref, reviewer in known:
        found[ref] = found.get(ref, False) or reviewer
    return [Person(ref, reviewer) for ref, reviewer in found.items()]


def _involved(person: Person) -> Involved:
    return Involved(person_ref=person.person_ref, reviewer=person.reviewer)

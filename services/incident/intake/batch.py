"""What one batch decides, gathered and then written: incidents, who was listed, the work queue, and the events."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from leeward.contracts import IncidentAmended, IncidentRecorded, IncidentRetracted, Involved, Severity, bucket_down
from leeward.refs import new_ref
from leeward.store import Unit
from services.incident.decisions.claims import (
    DEATH,
    DENIED,
    Action,
    Current,
    Mention,
    PatientClaim,
    Report,
    SignalDecision,
    Visit,
    current_of,
)
from services.incident.hashing import Hasher
from services.incident.intake import repository
from services.incident.intake.unmatched import Queue


@dataclass(frozen=True, slots=True)
class OpenedIncident:
    """A new incident with what its row and its event say."""

    current: Current
    said: PatientClaim | Report
    decision: SignalDecision

    @property
    def mentions(self) -> Sequence[Mention]:
        """The people it lists."""
        return self.said.mentions


@dataclass(frozen=True, slots=True)
class AddedPeople:
    """People for an incident there is."""

    current: Current
    mentions: Sequence[Mention]


@dataclass(frozen=True, slots=True)
class EndedIncident:
    """An incident that is over."""

    current: Current
    published: bool
    mentions: Sequence[Mention] = ()


class Records:
    """The steps of one batch, in the order they were decided."""

    def __init__(self, unit: Unit, hasher: Hasher, queue: Queue, reports: Iterable[Report]) -> None:
        self._unit = unit
        self._hasher = hasher
        self._queue = queue
        self._steps: list[OpenedIncident | AddedPeople | EndedIncident] = []
        refs = [self._source_ref(report) for report in reports]
        reported, told = repository.find_reported(unit.conn, refs), repository.find_told(unit.conn, refs)
        self._reported = {ref: current_of(row._mapping) for ref, row in reported.items()}
        self._told = {ref: current_of(row._mapping) for ref, row in told.items()}
        self._newly_told: dict[str, str] = {}
        self._passed_on: list[tuple[str, str]] = []

    def open(self, said: PatientClaim | Report, decision: SignalDecision, replaced: Current | None) -> Current:
        """A new incident; an open doubt about the same patient that it settles is dismissed."""
        if replaced and replaced.state == "review":
            self.dismiss(replaced)
        claim = said if isinstance(said, PatientClaim) else None
        made = Current(
            incident_ref=new_ref(),
            state="recorded" if decision.action == Action.RECORD else "review",
            certain=decision.certain,
            by_disposition=bool(claim and claim.disposition == "dead"),
            source=said.source,
            visit=claim.visit if claim else Visit(),
            accepted_at=bucket_down(self._unit.now),
            occurred_at=self._occurred_at(said),
            denied=DENIED in decision.reasons,
        )
        if isinstance(said, Report):
            self._reported[self._source_ref(said)] = made
        if replaced and replaced.state != "recorded":
            # reports that told of an incident that is over stand for the one that took its place
            over = replaced.incident_ref
            self._told = {ref: made if one.incident_ref == over else one for ref, one in self._told.items()}
            self._newly_told = {ref: made.incident_ref if one == over else one for ref, one in self._newly_told.items()}
            self._passed_on.append((over, made.incident_ref))
        self._steps.append(OpenedIncident(made, said, decision))
        return made

    def add(self, current: Current, mentions: Sequence[Mention]) -> None:
        """Further people around an incident that is not over."""
        if current.state in ("recorded", "review"):
            self._steps.append(AddedPeople(current, mentions))

    def retract(self, current: Current) -> None:
        """The source took it back."""
        self._steps.append(EndedIncident(current, published=current.state == "recorded"))
        current.state = "retracted"

    def dismiss(self, current: Current) -> None:
        """A doubt that something else has settled."""
        self._steps.append(EndedIncident(current, published=current.state == "recorded"))
        current.state = "dismissed"

    def find_opened(self, report: Report) -> Current | None:
        """The incident that a report under the same reference has made."""
        return self._reported.get(self._source_ref(report))

    def find_told(self, report: Report) -> Current | None:
        """The incident that something else had told of before a report under the same reference came."""
        return self._told.get(self._source_ref(report))

    def link(self, current: Current, report: Report) -> None:
        """A report told of an incident that there was: its reference stands for that from now on."""
        ref = self._source_ref(report)
        if ref not in self._reported and ref not in self._told:
            self._told[ref] = current
            self._newly_told[ref] = current.incident_ref

    def _source_ref(self, report: Report) -> str:
        return self._hasher.of_message(b"source_ref", report.source.encode(), report.source_ref.encode())

    # ---- writing

    def write(self) -> None:
        """Everything in a few statements; events in the order of the steps."""
        unit = self._unit
        for over, made in self._passed_on:
            repository.move_told(unit.conn, over, made)
        repository.insert_told(unit.conn, sorted(self._newly_told.items()))
        if not self._steps:
            return
        opened = [step for step in self._steps if isinstance(step, OpenedIncident)]
        repository.insert_incidents(unit.conn, [self._row(step) for step in opened])
        added = {step.current.incident_ref for step in self._steps if isinstance(step, AddedPeople)}
        repository.conflict_on_incidents(unit, added)
        people = self._new_people()
        repository.close_incidents(unit.conn, [step.current for step in self._steps if isinstance(step, EndedIncident)])
        for step, involved in zip(self._steps, people, strict=True):
            if isinstance(step, OpenedIncident) and step.decision.action == Action.RECORD:
                said = step.said
                recorded = IncidentRecorded(
                    incident_ref=step.current.incident_ref,
                    category=said.category if isinstance(said, Report) else DEATH,
                    severity=Severity(**said.severity._asdict()),
                    unit=said.unit,
                    occurred_at=step.current.occurred_at,
                    urgency=said.urgency if isinstance(said, Report) else "routine",
                    involved=involved,
                )
                unit.emit(recorded)
            elif isinstance(step, AddedPeople) and involved and step.current.state == "recorded":
                unit.emit(IncidentAmended(incident_ref=step.current.incident_ref, involved=involved))
            elif isinstance(step, EndedIncident) and step.published:
                unit.emit(IncidentRetracted(incident_ref=step.current.incident_ref))

    def _row(self, step: OpenedIncident) -> tuple[object, ...]:
        current, said = step.current, step.said
        report = said if isinstance(said, Report) else None
        return (
            current.incident_ref,
            current.state,
            current.source,
            self._source_ref(report) if report else None,
            report.category if report else DEATH,
            *said.severity,
            said.unit,
            report.urgency if report else "routine",
            " ".join(step.decision.reasons),
            current.occurred_at,
            current.accepted_at,
            current.certain,
            current.by_disposition,
            *current.visit,
        )

    def _occurred_at(self, said: PatientClaim | Report) -> datetime:
        """Never later than now: what is kept until so long after it would be kept for ever."""
        return bucket_down(min(said.occurred_at or self._unit.now, self._unit.now))

    def _new_people(self) -> list[tuple[Involved, ...]]:
        """For every step who of its mentions is new to its incident; a person listed twice is listed once, as a
        reviewer if either says so. Identifiers that lead to nobody go to the work queue.
        """
        hashes = [[self._hasher.of_staff(one.identifier) for one in step.mentions] for step in self._steps]
        staff = repository.find_staff(self._unit.conn, {key for group in hashes for key in group})
        listed: list[dict[str, bool]] = []
        for step, keys in zip(self._steps, hashes, strict=True):
            people: dict[str, bool] = {}
            for mention, key in zip(step.mentions, keys, strict=True):
                if key not in staff:
                    self._queue.put(key, mention, step.current.incident_ref, step.current.occurred_at)
                elif ref := staff[key]:
                    people[ref] = people.get(ref, False) or mention.reviewer
            listed.append(people)
        self._queue.write(self._unit)
        # where two steps list the same person, what the first says counts
        rows = {
            (step.current.incident_ref, ref): (reviewer, step.current.occurred_at)
            for step, people in zip(reversed(self._steps), reversed(listed), strict=True)
            for ref, reviewer in people.items()
        }
        stored = repository.insert_involved(self._unit.conn, [(*key, *values) for key, values in rows.items()])
        new = {(row.incident_ref, row.person_ref) for row in stored}
        groups = []
        for step, people in zip(self._steps, listed, strict=True):
            pairs = [(step.current.incident_ref, ref) for ref in people if (step.current.incident_ref, ref) in new]
            groups.append(tuple(Involved(person_ref=ref, reviewer=people[ref]) for _, ref in pairs))
            new.difference_update(pairs)
        return groups

"""Carries out what the state machine asks for: cases of one batch are read once, changed in memory, written in bulk."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete

from leeward.contracts import CaseAssigned, CaseClosed, CaseErased, CaseOpened, EventData, MessageCancelled
from leeward.refs import new_ref
from leeward.store import Insert, Unit, Update
from services.matching.cases import repository
from services.matching.cases.candidates import EXPOSURE, REFUSAL, Chooser
from services.matching.cases.repository import CASE, MAY_BE_THERE, REQUEST, Draft, StoredRequest
from services.matching.lifecycle.case import (
    Cancel,
    Case,
    DropTimer,
    Effect,
    Forget,
    Message,
    Publish,
    Quiet,
    Refuse,
    Release,
    SetTimer,
    Tell,
    Transition,
)
from services.matching.lifecycle.steps import LIMIT
from services.matching.models import Entry, Person, PublishedIncident, table
from services.matching.site import Site

ENTRY: Final = table(Entry)
PERSON: Final = table(Person)
_INCIDENT: Final = table(PublishedIncident)
INSERT_ENTRIES: Final = Insert(
    ENTRY, ("entry_ref", "kind", "about", "created_at"), conflict="nothing", keys=("kind", "about")
)
_INSERT_REFUSALS: Final = Insert(REFUSAL, ("person_ref", "supporter_ref"), conflict="nothing")
_MARK_EXPOSURES: Final = Insert(EXPOSURE, ("incident_ref", "who", "reviewer"), conflict="nothing")
_SET_QUIET: Final = Update(PERSON, ("person_ref",), ("quiet_until",))
_CASE_EVENTS: Final[dict[str, Callable[[str], EventData]]] = {
    "opened": lambda ref: CaseOpened(case_ref=ref),
    "assigned": lambda ref: CaseAssigned(case_ref=ref),
    "closed": lambda ref: CaseClosed(case_ref=ref),
    "erased": lambda ref: CaseErased(case_ref=ref),
}


class OpenedElsewhere(Exception):
    """Another replica has opened a case for the same person meanwhile: the work runs again and finds it."""


@dataclass(frozen=True, slots=True)
class _At:
    """Where an effect happens: the case before the step, the case after it, when the chain's signal was accepted."""

    before: Case
    after: Case
    accepted_at: datetime | None


class CaseSession:
    """The cases of one transaction. Call `write` once at the end."""

    def __init__(self, unit: Unit, site: Site) -> None:
        self.unit = unit
        self.site = site
        self.now = unit.now
        self.rules = site.rules
        self.people = site.roster.read(unit.conn)
        self.chooser = Chooser(unit.conn, unit.now, site, self.people)
        self.find = self.chooser.find
        self.cases: dict[str, Case] = {}
        self._changed: set[str] = set()
        self._new: set[str] = set()
        self._quiet: dict[str, datetime] = {}
        self._do: dict[type[Any], Callable[[Any, _At], None]] = {
            Message: self._message,
            Cancel: self._cancel,
            SetTimer: lambda effect, at: unit.set_timer(effect.name, at.after.case_ref, effect.due_at),
            DropTimer: lambda effect, at: unit.cancel_timer(effect.name, at.after.case_ref),
            Publish: self._publish,
            Release: lambda effect, _at: self.chooser.give_back(effect),
            Refuse: self._refuse,
            Quiet: self._hush,
            Tell: lambda effect, at: self.tell(effect.kind, at.before.incident_ref or at.before.case_ref),
            Forget: self._forget,
        }

    # --- reading ---

    def load(self, refs: Iterable[str]) -> None:
        """Read the cases that are not here yet; locked where the database can."""
        missing = set(refs) - self.cases.keys()
        if missing:
            found = self.unit.conn.execute(repository.THESE_CASES, {"refs": list(missing)})
            self.cases.update((row.case_ref, repository.case_of(row)) for row in found)

    def fetch(self, *conditions: Any) -> list[Case]:
        """The cases that fit, as this transaction has them; locked where the database can."""
        self._write_cases()
        query = repository.SELECT_CASES.where(*conditions).with_for_update()
        found = [repository.case_of(row) for row in self.unit.conn.execute(query)]
        return [self.cases.setdefault(case.case_ref, case) for case in found]

    def requests(self, refs: Collection[str]) -> dict[str, StoredRequest]:
        """Requests by reference, with their cases loaded; those we have forgotten are missing."""
        found = repository.these_requests(self.unit.conn, refs)
        self.load(asked.case_ref for asked in found.values() if asked.case_ref)
        return found

    def open_case(self, person_ref: str) -> Case | None:
        """The person's open case, if there is one."""
        found = self.fetch(CASE.c.person_ref == person_ref, CASE.c.stage.not_in(("closed", "ended")))
        return found[0] if found else None

    # --- changing ---

    def add(self, case: Case) -> None:
        """A new case, of which nothing is stored yet."""
        self.cases[case.case_ref] = case
        self._new.add(case.case_ref)

    def take(self, step: Transition, accepted_at: datetime | None = None) -> Case:
        """Carry one step out.

        Its case is written whatever it does: of two steps of one case at once, on two replicas, the second must fail
        and be taken again, though the first has only sent something.
        """
        after = step.case
        at = _At(self.cases[after.case_ref], after, accepted_at)
        if at.before != after or step.effects:
            self.cases[after.case_ref] = after
            self._changed.add(after.case_ref)
        for effect in step.effects:
            self._effect(effect, at)
        return after

    def _effect(self, effect: Effect, at: _At) -> None:
        self._do[type(effect)](effect, at)

    def tell(self, kind: str, about: str) -> None:
        """Put something on the coordinator's list that is no case; once."""
        INSERT_ENTRIES.run(self.unit.conn, [(new_ref(), kind, about, self.now)])

    def send(self, draft: Draft, accepted_at: datetime | None = None, *, loose: bool) -> str:
        """Ask notify for a message; gives the request's reference."""
        event = repository.requested(draft)
        repository.insert_requests(self.unit.conn, [(event, loose)])
        self.unit.emit(event, accepted_at)
        return event.request_ref

    # --- effects ---

    def _message(self, message: Message, at: _At) -> None:
        person = at.before.person_ref if message.to == "person" else at.after.supporter
        if person is None or person not in self.people.known:
            return
        recipient = self.people.known[person].recipient_ref
        self.send(self.draft(at.after, message, recipient), at.accepted_at, loose=message.loose)

    def draft(self, case: Case, message: Message, recipient_ref: str) -> Draft:
        """A message of a case with its times: an offer ends with the case's, a supporter's link with the case."""
        ends = max(case.ends_at, self.now + self.rules.coalesce)
        expires = self.now + LIMIT if message.template == "supporter_request" else ends
        return Draft(case.case_ref, message, recipient_ref, expires, self.now + self.rules.longest_hold)

    def _cancel(self, cancel: Cancel, at: _At) -> None:
        conditions = [REQUEST.c.case_ref == at.after.case_ref, REQUEST.c.ended.is_(False)]
        if cancel.which == "unsent":
            conditions.append(REQUEST.c.outcome.is_(None))
        if cancel.which == "supporter":
            conditions += [REQUEST.c.template == "supporter_request"]
        found = [asked.request_ref for asked in repository.requests(self.unit.conn, *conditions)]
        for request_ref in found:
            self.unit.emit(MessageCancelled(request_ref=request_ref), at.accepted_at, key=at.after.case_ref)
        self.unit.conn.execute(REQUEST.update().where(REQUEST.c.request_ref.in_(found)).values(ended=True))

    def _publish(self, publish: Publish, at: _At) -> None:
        self.unit.emit(_CASE_EVENTS[publish.what](at.after.case_ref), at.accepted_at)

    def _refuse(self, refuse: Refuse, _at: _At) -> None:
        _INSERT_REFUSALS.run(self.unit.conn, [(refuse.person, refuse.supporter)])

    def _hush(self, quiet: Quiet, _at: _At) -> None:
        self._quiet[quiet.person] = max(quiet.until, self._quiet.get(quiet.person, quiet.until))

    def _forget(self, forget: Forget, at: _At) -> None:
        """Requests go with their case; a supporter's presence at an outcome stays as a digest for others' cases.

        Of an outcome itself it stays known that an offer had left.
        """
        conn = self.unit.conn
        left = (
            REQUEST.c.case_ref == at.after.case_ref,
            REQUEST.c.template == "offer",
            REQUEST.c.outcome.in_(MAY_BE_THERE),
        )
        offered = bool(repository.requests(conn, *left))
        conn.execute(delete(REQUEST).where(REQUEST.c.case_ref == at.after.case_ref))
        gone = delete(EXPOSURE).where(EXPOSURE.c.who == forget.person).returning(EXPOSURE.c.incident_ref)
        incidents = conn.execute(gone).scalars().all()
        if forget.person in self.people.pool.supporters:
            marks = [(incident, self.site.fingerprint(incident, forget.person), False) for incident in incidents]
            _MARK_EXPOSURES.run(conn, marks)
        if offered:
            conn.execute(_INCIDENT.update().where(_INCIDENT.c.incident_ref.in_(incidents)).values(offered=True))

    # --- writing ---

    def write(self) -> None:
        """Write what has changed."""
        self._write_cases()
        _SET_QUIET.run(self.unit.conn, sorted(self._quiet.items()))
        self._quiet.clear()

    def _write_cases(self) -> None:
        conn = self.unit.conn
        new = [repository.case_row(self.cases[ref]) for ref in self._new]
        changed = [repository.case_row(self.cases[ref]) for ref in sorted(self._changed - self._new)]
        if len(repository.INSERT_CASES.run(conn, new)) < len(new):
            raise OpenedElsewhere
        repository.UPDATE_CASES.run(conn, changed)
        self._new.clear()
        self._changed.clear()

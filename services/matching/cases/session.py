"""Carries out what the state machine asks for: cases of one batch are read once, changed in memory, written in bulk.

What needs a supporter is gathered and solved together: when the session is written, or as soon as a case that waits
for one is looked at again. The answers go back into the machine.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, assert_never

from leeward.contracts import (
    CaseAssigned,
    CaseClosed,
    CaseErased,
    CaseOpened,
    EventData,
    MessageCancelled,
    MessageRequested,
    bucket_up,
)
from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases import repository
from services.matching.cases.candidates import Exclusions, choose_supporters
from services.matching.cases.repository import Condition, StoredRequest
from services.matching.lifecycle import transitions
from services.matching.lifecycle.case import (
    CancelRequests,
    Case,
    DropTimer,
    Effect,
    ForgetPerson,
    KeepQuiet,
    ListForCoordinator,
    NeedsSupporter,
    Publish,
    RecordRefusal,
    ReleaseSupporter,
    RequestMessage,
    SetTimer,
    Transition,
)
from services.matching.lifecycle.steps import LIMIT
from services.matching.site import Site

_CASE_EVENTS: Final[dict[Literal["opened", "assigned", "closed", "erased"], Callable[[str], EventData]]] = {
    "opened": lambda ref: CaseOpened(case_ref=ref),
    "assigned": lambda ref: CaseAssigned(case_ref=ref),
    "closed": lambda ref: CaseClosed(case_ref=ref),
    "erased": lambda ref: CaseErased(case_ref=ref),
}


class _At(NamedTuple):
    """Where an effect happens: the case before and after, and when the signal that began the chain was accepted."""

    before: Case
    after: Case
    accepted_at: datetime | None


class _Waiting(NamedTuple):
    """A case that waits for a supporter."""

    takes_place: bool
    accepted_at: datetime | None


class CaseSession:
    """The cases of one transaction. Call `write` once at the end."""

    def __init__(self, unit: Unit, site: Site) -> None:
        self.unit = unit
        self.site = site
        self.now = unit.now
        self.rules = site.rules
        self.people = site.roster.read(unit.conn)
        self._cases: dict[str, Case] = {}
        self._changed: set[str] = set()
        self._new: dict[str, None] = {}
        self._exclusions: dict[str, Exclusions] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._requests: list[tuple[MessageRequested, bool]] = []
        self._entries: list[tuple[str, str]] = []
        self._quiet: dict[str, datetime] = {}

    # --- reading ---

    def load(self, refs: Iterable[str]) -> None:
        """Read the cases that are not here yet; locked where the database can."""
        if missing := set(refs) - self._cases.keys():
            self._cases.update((case.case_ref, case) for case in repository.lock_by_ref(self.unit.conn, missing))

    def fetch(self, condition: Condition) -> list[Case]:
        """The cases that fit, as this transaction has them; locked where the database can."""
        self._write_cases()
        found = repository.lock_cases(self.unit.conn, condition)
        return [self._cases.setdefault(case.case_ref, case) for case in found]

    def case(self, ref: str | None) -> Case | None:
        """A case that has been loaded, as it is after all that this session has done."""
        if ref in self._waiting:
            self._find_supporters()
        return self._cases.get(ref or "")

    def requests(self, refs: Collection[str]) -> dict[str, StoredRequest]:
        """Requests by reference, with their cases loaded; those that are forgotten are missing."""
        found = repository.requests_by_ref(self.unit.conn, refs)
        self.load(request.case_ref for request in found.values() if request.case_ref)
        return found

    def open_case(self, person_ref: str) -> Case | None:
        """The person's open case, if there is one."""
        found = self.fetch(repository.is_open_of([person_ref]))
        return found[0] if found else None

    def is_here(self, person_ref: str) -> bool:
        """Whether somebody is on the roster and has neither left nor died."""
        return person_ref in self.people.known and self.people.known[person_ref].here

    # --- changing ---

    def add(self, case: Case, exclusions: Exclusions | None = None) -> None:
        """A new case, of which nothing is stored yet; `exclusions` where they are known without reading them."""
        self._cases[case.case_ref] = case
        self._new[case.case_ref] = None
        if exclusions:
            self._exclusions[case.case_ref] = exclusions

    def apply(self, transition: Transition, accepted_at: datetime | None = None) -> Case:
        """Carry one transition out.

        Its case is written whatever it does: of two transitions of one case at once, on two replicas, the second must
        fail and be tried again, though the first has only sent something.

        Raises:
            RuntimeError: when the case waits for a supporter, so that the transition cannot be of the case as it is.
        """
        after = transition.case
        if after.case_ref in self._waiting:
            raise RuntimeError("a case that waits for a supporter is changed without being read again")
        at = _At(self._cases[after.case_ref], after, accepted_at)
        if any(not isinstance(effect, NeedsSupporter) for effect in transition.effects) or at.before != after:
            self._cases[after.case_ref] = after
            self._changed.add(after.case_ref)
        for effect in transition.effects:
            self._carry_out(effect, at)
        return after

    def list_for_coordinator(self, kind: str, about: str) -> None:
        """Put something on the coordinator's list that is no case; once."""
        self._entries.append((kind, about))

    def send_outside_a_case(self, message: RequestMessage, recipient_ref: str, lasts: timedelta) -> None:
        """Request a message under a case reference of its own, which is no case."""
        self._request(new_ref(), message, recipient_ref, self.now + lasts, loose=True)

    # --- effects ---

    def _carry_out(self, effect: Effect, at: _At) -> None:  # noqa: C901, PLR0912 - a branch for each effect
        case_ref = at.after.case_ref
        match effect:
            case RequestMessage():
                self._request_message(effect, at)
            case CancelRequests():
                self._flush_requests()
                for request_ref in repository.end_requests(self.unit.conn, case_ref, effect.which):
                    self.unit.emit(MessageCancelled(request_ref=request_ref), at.accepted_at, key=case_ref)
            case SetTimer():
                self.unit.set_timer(effect.name, case_ref, effect.due_at)
            case DropTimer():
                self.unit.cancel_timer(effect.name, case_ref)
            case Publish():
                self.unit.emit(_CASE_EVENTS[effect.what](case_ref), at.accepted_at)
                if effect.what == "erased":
                    self.unit.note_erased(self.site.erasure_hash("case", case_ref))
            case ReleaseSupporter():
                repository.release_place(self.unit.conn, effect.supporter, self.now, effect.minutes, effect.rest_until)
            case RecordRefusal():
                repository.insert_refusal(self.unit.conn, effect.person, effect.supporter)
            case KeepQuiet():
                self._quiet[effect.person] = max(effect.until, self._quiet.get(effect.person, effect.until))
            case ListForCoordinator():
                self.list_for_coordinator(effect.kind, at.before.incident_ref or at.before.case_ref)
            case ForgetPerson():
                self._forget_person(effect.person, case_ref)
            case NeedsSupporter():
                self._waiting[case_ref] = _Waiting(effect.purpose == "request", at.accepted_at)
            case _:
                assert_never(effect)

    def _request_message(self, message: RequestMessage, at: _At) -> None:
        """A message of a case: an offer ends with the case's, a supporter's link with the case."""
        person = at.before.person_ref if message.to == "person" else at.after.supporter
        if person is None or person not in self.people.known:
            return
        ends = max(at.after.ends_at, self.now + self.rules.coalesce)
        expires_at = self.now + LIMIT if message.template == "supporter_request" else ends
        recipient = self.people.known[person].recipient_ref
        self._request(at.after.case_ref, message, recipient, expires_at, at.accepted_at, loose=message.loose)

    def _request(
        self,
        case_ref: str,
        message: RequestMessage,
        recipient_ref: str,
        expires_at: datetime,
        accepted_at: datetime | None = None,
        *,
        loose: bool,
    ) -> None:
        """Ask notify for a message; times go up to whole buckets."""
        event = MessageRequested(
            request_ref=new_ref(),
            case_ref=case_ref,
            step=message.message_name,
            recipient_ref=recipient_ref,
            template=message.template,
            options=message.options,
            urgency=message.urgency,
            not_before=bucket_up(message.not_before) if message.not_before else None,
            hold_deadline=bucket_up(self.now + self.rules.longest_hold),
            expires_at=bucket_up(expires_at),
        )
        self._requests.append((event, loose))
        self.unit.emit(event, accepted_at)

    def _forget_person(self, person_ref: str, case_ref: str) -> None:
        """Requests go with their case; a supporter's presence at an incident stays as a digest for others' cases."""
        self._flush_requests()
        incidents = repository.forget_person(self.unit.conn, case_ref, person_ref)
        if person_ref in self.people.pool.supporters:
            digests = [(incident_ref, self.site.fingerprint(incident_ref, person_ref)) for incident_ref in incidents]
            repository.insert_fingerprints(self.unit.conn, digests)

    def _find_supporters(self) -> None:
        """Solve what has been gathered and give the machine its answers."""
        if not self._waiting:
            return
        self._flush_requests()
        waiting, self._waiting = self._waiting, {}
        wanted = [(self._cases[ref], one.takes_place) for ref, one in waiting.items()]
        found = choose_supporters(self.unit, self.site, self.people, wanted, self._exclusions)
        for case_ref, one in waiting.items():
            case, chosen = self._cases[case_ref], found.get(case_ref)
            if chosen:
                transition = transitions.supporter_found(case, chosen, self.now, self.rules)
            else:
                transition = transitions.nobody_free(case)
            self.apply(transition, one.accepted_at)

    # --- writing ---

    def write(self) -> None:
        """Find the supporters that are still needed, and write what has changed."""
        self._write_cases()
        self._flush_requests()
        repository.insert_entries(self.unit.conn, self._entries, self.now)
        repository.set_quiet(self.unit.conn, self._quiet)
        self._entries.clear()
        self._quiet.clear()

    def _write_cases(self) -> None:
        self._find_supporters()
        conn = self.unit.conn
        repository.insert_cases(conn, [self._cases[ref] for ref in self._new])
        repository.update_cases(conn, [self._cases[ref] for ref in sorted(self._changed - self._new.keys())])
        self._new.clear()
        self._changed.clear()

    def _flush_requests(self) -> None:
        repository.insert_requests(self.unit.conn, self._requests)
        self._requests.clear()

"""Replay: stored messages of a source decided anew, after a rule was mended (`leeward hl7 replay`).

What is recent goes by when a message came; what is published goes by now. A death that is recorded stays one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Connection, func, or_, select

from leeward.clock import FixedClock
from leeward.contracts import IncidentAmended, bucket_down
from leeward.sealing import CannotOpen
from leeward.settings import Settings
from leeward.settings.keys import Keyring
from leeward.settings.policy import Source, SourceKind
from leeward.store import Store, Unit
from leeward.store.lookup import in_list, rows_of
from services.incident.decisions.claims import (
    Action,
    Current,
    Patient,
    PatientClaim,
    Report,
    SignalDecision,
    current_of,
    limit_to_evidence,
)
from services.incident.decisions.policy import decide_claim, decide_report
from services.incident.hashing import Hasher
from services.incident.intake.batch import INCIDENT, Records
from services.incident.intake.intake import Signal, apply, hash_signal
from services.incident.intake.patients import Book, combine
from services.incident.intake.subscriptions import is_behind
from services.incident.intake.unmatched import Queue
from services.incident.models import DayKey, RawMessage, table_of
from services.incident.replay.trial import Stored, Trial, Tried
from services.incident.sealing import Box, DayKeys, identifier_box
from services.incident.sources.fhir.routes import said_by, turn_of
from services.incident.sources.fhir.tree import JsonError
from services.incident.sources.hl7v2.receiver import read_hl7
from services.incident.sources.native.report import NativeIncident
from services.incident.sources.native.table import TableError, read_table

AT_ONCE: Final = 256
DONE: Final = MappingProxyType({Action.RECORD: "recorded", Action.REVIEW: "reviewed", Action.RETRACT: "retracted"})
_RAW: Final = table_of(RawMessage)
_KEY: Final = table_of(DayKey)
_STORED: Final = select(*(_RAW.c[name] for name in Stored._fields))
_SEALED: Final = select(_RAW.c.raw_ref, _RAW.c.sealed).where(in_list(_RAW.c.raw_ref))
_FROM_BEFORE: Final = INCIDENT.c.state.in_(("review", "recorded"))


class UnreadableMessage(Exception):
    """A stored message that these rules do not take."""


# ---- readers, by the kind of a source


def _hl7v2(raw: bytes, name: str, source: Source, at: datetime) -> Sequence[PatientClaim | Report]:
    reading = read_hl7(raw, {name: source}, FixedClock(at), name)
    if reading.fault:
        raise UnreadableMessage(reading.fault.reason)
    return reading.said


def _native(raw: bytes, name: str, _source: Source, _at: datetime) -> Sequence[PatientClaim | Report]:
    """JSON or a table; what was accepted is one of the two, unless the rules for it have changed."""
    try:
        found = [NativeIncident.model_validate_json(raw)] if raw.lstrip()[:1] == b"{" else read_table(raw)
    except (TableError, ValueError):
        raise UnreadableMessage("not_valid") from None
    return [one.report(name) for one in found]


def _fhir(raw: bytes, name: str, source: Source, at: datetime) -> Sequence[PatientClaim | Report]:
    try:
        return said_by(raw, name, source, at)
    except JsonError as fault:
        raise UnreadableMessage(fault.reason) from None


Reader = Callable[[bytes, str, Source, datetime], Sequence[PatientClaim | Report]]
READERS: Final[Mapping[SourceKind, Reader]] = MappingProxyType({"hl7v2": _hl7v2, "native": _native, "fhir": _fhir})


class Inbox:
    """The raw inbox, read with the keys that are left and by the rules that hold now."""

    def __init__(self, settings: Settings, keys: Keyring, since: datetime) -> None:
        self._sources = settings.sources
        self._hasher = Hasher.of(keys)
        self._day_keys = DayKeys(keys)
        self._since = since
        self._boxes: dict[str, Box | None] = {}
        self._read: set[str] = set()
        self._last: dict[tuple[str, str], int] = {}  # the last event of each subscription
        self.refused: Counter[str] = Counter()

    def unread(self, conn: Connection) -> list[Stored]:
        """What has come since and was not read yet, in its order."""
        rows = conn.execute(_STORED.where(_RAW.c.accepted_at >= self._since))
        found = [Stored(*row) for row in rows if row.raw_ref not in self._read]
        return sorted(found, key=lambda one: (one.place, one.accepted_at))

    def read(self, conn: Connection, stored: Sequence[Stored]) -> Iterator[tuple[Stored, list[Signal]]]:
        """What each says; those that cannot be read are counted, by reason."""
        sealed = {row.raw_ref: row.sealed for row in rows_of(conn, _SEALED, (one.raw_ref for one in stored))}
        for one in stored:
            self._read.add(one.raw_ref)
            try:
                said = self._said(conn, one, sealed.get(one.raw_ref))
            except UnreadableMessage as fault:
                self.refused[str(fault)] += 1
                continue
            yield one, [hash_signal(each, self._hasher) for each in said]

    def _said(self, conn: Connection, one: Stored, sealed: str | None) -> Sequence[PatientClaim | Report]:
        if one.key_ref not in self._boxes:
            self._boxes[one.key_ref] = self._day_keys.open(conn, one.key_ref)
        box, source = self._boxes[one.key_ref], self._sources.get(one.source)
        if box is None or sealed is None:
            raise UnreadableMessage("key_destroyed")
        if source is None:
            raise UnreadableMessage("no_such_source")
        try:
            raw = box.open(sealed, one.raw_ref)
        except CannotOpen:
            raise UnreadableMessage("not_whole") from None
        said = READERS[source.kind](raw, one.source, source, one.accepted_at)
        return [limit_to_evidence(each) for each in said] if source.kind == "fhir" and self._behind(one, raw) else said

    def _behind(self, one: Stored, raw: bytes) -> bool:
        """Whether a notification came after later events of its subscription."""
        turn = turn_of(raw)
        if turn is None:
            return False
        key, last = (one.source, turn[0]), self._last.get((one.source, turn[0]), 0)
        self._last[key] = max(last, turn[1])
        return is_behind(turn[1], last)


def oldest_key(conn: Connection) -> datetime | None:
    """When the first of the keys was made that are left: nothing of before then can be read."""
    found: datetime | None = conn.execute(select(func.min(_KEY.c.made_at))).scalar()
    return found


# ---- deciding anew


@dataclass(frozen=True, slots=True)
class Decided:
    """What a message led to; nothing of a patient."""

    raw_ref: str
    came: datetime  # start of its 15-minute bucket
    action: str  # recorded, reviewed, retracted, changed
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Replayed:
    """What a replay came to."""

    messages: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    oldest_key: datetime | None = None
    decided: list[Decided] = field(default_factory=list)


def _try(trial: Trial, inbox: Inbox, stored: Sequence[Stored], conn: Connection) -> None:
    trial.feed(conn, inbox.read(conn, stored))


class _Undo(Exception):
    """Ends a transaction of which nothing is to remain."""


class Replay:
    """The messages of one source that came in [since, until)."""

    def __init__(self, store: Store, settings: Settings, keys: Keyring, source: str) -> None:
        self._store = store
        self._settings = settings
        self._keys = keys
        self._source = source
        self._hasher = Hasher.of(keys)
        self._rules = settings.incident

    async def run(self, since: datetime, until: datetime, *, dry_run: bool) -> Replayed:
        """Decide and, unless it is a dry run, store and publish what is different now.

        Raises:
            leeward.store.StoreUnavailable: the database is away; batches before that are stored.
        """
        inbox, trial = Inbox(self._settings, self._keys, since), Trial(self._hasher, self._rules, since)
        found = Replayed(oldest_key=await self._store.read(oldest_key))
        while waiting := await self._store.read(inbox.unread):
            for start in range(0, len(waiting), AT_ONCE):
                await self._store.read(partial(_try, trial, inbox, waiting[start : start + AT_ONCE]))
            found.messages += sum(self._concerns(one, until) for one in waiting)
        done: set[str] = set()
        # what is undone after each batch would be decided again in the next
        most = None if dry_run else AT_ONCE
        while batch := self._batch(trial, until, done, most):
            found.decided += await self._decide(inbox, trial, batch, since, dry_run=dry_run)
            done |= {one.stored.raw_ref for one in batch}
        found.refused = dict(sorted(inbox.refused.items()))
        return found

    def _concerns(self, stored: Stored, until: datetime) -> bool:
        return stored.source == self._source and stored.accepted_at < until

    def _batch(self, trial: Trial, until: datetime, done: set[str], most: int | None) -> list[Tried]:
        """The next messages, each whole."""
        left = [one for one in trial.standing() if self._concerns(one.stored, until) and one.stored.raw_ref not in done]
        refs = list(dict.fromkeys(one.stored.raw_ref for one in left))[:most]
        wanted = set(refs)
        return [one for one in left if one.stored.raw_ref in wanted]

    async def _decide(
        self, inbox: Inbox, trial: Trial, batch: Sequence[Tried], since: datetime, *, dry_run: bool
    ) -> list[Decided]:
        found: list[Decided] = []

        def work(unit: Unit) -> None:
            # what has come in the meantime may have taken something back
            _try(trial, inbox, inbox.unread(unit.conn), unit.conn)
            standing = {id(one) for one in trial.standing()}
            found[:] = _Anew(self, unit, since).run([one for one in batch if id(one) in standing])
            if dry_run:
                raise _Undo

        with suppress(_Undo):
            await self._store.write(work)
        return found

    @property
    def parts(self) -> tuple[Settings, Keyring, Hasher]:
        return self._settings, self._keys, self._hasher


class _Anew:
    """One batch inside its transaction."""

    def __init__(self, replay: Replay, unit: Unit, since: datetime) -> None:
        settings, keys, self._hasher = replay.parts
        self._rules = settings.incident
        self._box = identifier_box(keys)
        self._unit = unit
        self._since = bucket_down(since)
        self._decided: list[Decided] = []
        self._added: dict[str, Decided] = {}
        self._opened: set[str] = set()

    def run(self, batch: Sequence[Tried]) -> list[Decided]:
        """What became of it, in the order of the messages."""
        reports = [one.signal.said for one in batch if isinstance(one.signal.said, Report)]
        book = Book(self._unit.conn, self._unit.now.date(), (key for one in batch for key in one.signal.all_keys()))
        records = Records(self._unit, self._hasher, Queue(self._box), reports)
        for one in batch:
            said = one.signal.said
            if isinstance(said, Report):
                self._report(one, said, book, records)
            else:
                self._claim(one, said, book, records)
        records.write()
        book.write(self._unit.conn)
        amended = [event.data.incident_ref for event in self._unit.emitted if isinstance(event.data, IncidentAmended)]
        self._decided += [self._added[ref] for ref in dict.fromkeys(amended) if ref in self._added]
        return self._decided

    def _claim(self, one: Tried, claim: PatientClaim, book: Book, records: Records) -> None:
        shows = claim.kind in ("evidence", "update")
        patients = book.found(one.signal.keys) if shows else book.known(one.signal.keys)
        if not patients:
            return
        current = combine(patients).current or self._same_visit(claim)
        if current and combine(patients).current is None:
            # the same visit under another name of the patient's: no second incident
            for patient in patients:
                patient.current = current
                book.touch(patient)
        view = Patient("", known=True, indicator=one.indicator, current=current)
        decision = self._guarded(decide_claim(claim, view, self._rules, one.stored.accepted_at), current, one)
        apply(records, decision, patients, book, claim)
        self._tell(one, decision, combine(patients).current)

    def _report(self, one: Tried, report: Report, book: Book, records: Records) -> None:
        if report.withdrawn:
            opened = records.opened(report)
            if opened and opened.state in ("recorded", "review"):
                records.retract(opened)
                self._tell(one, SignalDecision(Action.RETRACT, ("evidence_withdrawn",)), opened)
            return
        if known := records.reported(report):
            records.add(known, report.mentions)
            self._tell(one, SignalDecision(Action.ADD, ("known",)), known)
            return
        patients = book.found(one.signal.keys) if one.signal.keys else []
        view = combine(patients) if patients else None
        decision = decide_report(report, view, self._rules, one.stored.accepted_at)
        decision = self._guarded(decision, view.current if view else None, one)
        apply(records, decision, patients, book, report)
        self._tell(one, decision, combine(patients).current if patients else None)

    def _guarded(self, decision: SignalDecision, current: Current | None, one: Tried) -> SignalDecision:
        """A replay takes nothing back that is newer than the message, and says again by itself nothing taken back."""
        if decision.action == Action.RETRACT and current and current.accepted_at > one.stored.accepted_at:
            return SignalDecision(Action.NOTHING, ("known",))
        again = current and current.state == "retracted" and current.accepted_at >= self._since
        if decision.action == Action.RECORD and again and current and current.incident_ref not in self._opened:
            return SignalDecision(Action.REVIEW, (*decision.reasons, "retracted_before"), decision.certain)
        return decision

    def _same_visit(self, claim: PatientClaim) -> Current | None:
        """A recorded incident of the same visit, whose patient had another identifier when it was made."""
        same = [
            column == value
            for column, value in ((INCIDENT.c.visit, claim.visit.number), (INCIDENT.c.account, claim.visit.account))
            if value
        ]
        if not same:
            return None
        query = select(INCIDENT).where(INCIDENT.c.source == claim.source, _FROM_BEFORE, or_(*same))
        row: Any = self._unit.conn.execute(query.limit(1)).one_or_none()
        return current_of(dict(row._mapping)) if row else None

    def _tell(self, one: Tried, decision: SignalDecision, current: Current | None) -> None:
        stored = one.stored
        action = DONE.get(decision.action)
        decided = Decided(stored.raw_ref, bucket_down(stored.accepted_at), action or "changed", decision.reasons)
        if action:
            self._decided.append(decided)
        if current and decision.action == Action.RECORD:
            self._opened.add(current.incident_ref)
        if current and decision.action == Action.ADD and current.incident_ref not in self._opened:
            self._added.setdefault(current.incident_ref, decided)

"""Intake: one group commit for MLLP and both HTTP routes. Decide, store and publish in the same transaction.

A batch costs the same few statements whether it holds one message or 256: what is known of the messages, the patients
and the staff is read in one query each, and everything is written in bulk.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select

from leeward.refs import new_ref
from leeward.service import Context
from leeward.store import Insert, Unit
from leeward.store.lookup import in_list, rows_of
from services.incident.decisions.claims import Action, Patient, PatientClaim, Report, SignalDecision, limit_to_evidence
from services.incident.decisions.policy import decide_claim, decide_report
from services.incident.hashing import Hasher
from services.incident.intake.batch import Records
from services.incident.intake.fetch_queue import FetchRequest, delete_fetched, enqueue
from services.incident.intake.patients import Book, combine
from services.incident.intake.subscriptions import Heard, Noted, record_heard
from services.incident.intake.unmatched import Queue
from services.incident.models import RawMessage, Receipt, Seen, table_of
from services.incident.sealing import DayKeys, identifier_box

_SEEN: Final = table_of(Seen)
_RECEIPT: Final = table_of(Receipt)
_NEW_SEEN: Final = Insert(
    _SEEN, ("message_hash", "accepted_at"), conflict="nothing", keys=("message_hash",), returning=("message_hash",)
)
_NEW_RECEIPT: Final = Insert(
    _RECEIPT,
    ("key_hash", "body_hash", "receipt", "accepted_at"),
    conflict="nothing",
    keys=("key_hash",),
    returning=("key_hash",),
)
_FIND_SEEN: Final = select(_SEEN).where(in_list(_SEEN.c.message_hash))
_FIND_RECEIPTS: Final = select(_RECEIPT).where(in_list(_RECEIPT.c.key_hash))
_RAW: Final = Insert(table_of(RawMessage), ("raw_ref", "key_ref", "source", "accepted_at", "sealed", "place"))


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that a message says, visits and patients already hashed.

    `keys` lead to its patient, `merges` are (surviving keys, prior keys).
    """

    said: PatientClaim | Report
    keys: tuple[str, ...] = ()
    merges: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()

    def all_keys(self) -> Iterator[str]:
        """The keys of every patient it names."""
        yield from self.keys
        for surviving, prior in self.merges:
            yield from surviving
            yield from prior


@dataclass(frozen=True, slots=True)
class Item:
    """One message at the door. It is stored, and all it says decided, in one transaction.

    `fingerprint` is what a repetition shares with it; what is answered with a receipt also has its body's hash.
    """

    source: str
    raw: bytes
    fingerprint: str
    signals: tuple[Signal, ...] = ()
    body_fingerprint: str = ""
    heard: Heard | None = None  # the FHIR subscription that it came through
    wanted: tuple[FetchRequest, ...] = ()  # what it leaves to be read
    fetched: tuple[str, ...] = ()  # what was left to be read, and is it


@dataclass(frozen=True, slots=True)
class Accepted:
    """Safely stored, now or when it came first.

    `receipt` is a native report's answer; `other_body`: its key came before with another body, and nothing was done.
    """

    accepted_at: datetime
    repeated: bool = False
    receipt: str = ""
    other_body: bool = False


def hash_signal(said: PatientClaim | Report, hasher: Hasher) -> Signal:
    """What goes on to the database: patients and visits as keyed hashes; a report is about one only where they died."""
    if isinstance(said, Report):
        patient = said.patient if said.severity.level == "death" else ()
        return Signal(replace(said, patient=()), hasher.of_patients(patient))
    return Signal(
        said=replace(said, visit=hasher.of_visit(said.visit), patient=(), merges=()),
        keys=hasher.of_patients(said.patient),
        merges=tuple((hasher.of_patients(pair.surviving), hasher.of_patients(pair.prior)) for pair in said.merges),
    )


class Intake:
    """Awaiting `intake(item)` gives what became of it once it is committed.

    Raises:
        leeward.store.StoreUnavailable: nothing was stored.
    """

    def __init__(self, context: Context) -> None:
        self._rules = context.settings.incident
        self._sources = context.settings.sources
        self._hasher = Hasher.of(context.keys)
        self._day_keys = DayKeys(context.keys)
        self._box = identifier_box(context.keys)
        self._group = context.store.group(self._work)
        self._place = 0
        self.left = asyncio.Event()  # something is to be read

    async def __call__(self, item: Item) -> Accepted:
        return await self._group(item)

    def _work(self, unit: Unit, items: Sequence[Item]) -> list[Accepted]:
        answers = admit(unit, items)
        fresh = [item for item, answer in zip(items, answers, strict=True) if not answer.repeated]
        if fresh:
            self._keep_raw(unit, fresh)
            noted = record_heard(unit, [item.heard for item in fresh if item.heard])
            self._decide(unit, fresh, noted.behind)
            self._leave(unit, fresh, noted)
        return answers

    def _keep_raw(self, unit: Unit, items: Sequence[Item]) -> None:
        key = self._day_keys.today(unit)
        rows = []
        for item in items:
            ref = new_ref()
            rows.append((ref, key.key_ref, item.source, unit.now, key.box.seal(item.raw, ref), self._next_place()))
        _RAW.run(unit.conn, rows)

    def _next_place(self) -> int:
        # messages of one batch share their time, and our clock may be set back; a replay goes by this
        self._place = max(self._place + 1, time.time_ns())
        return self._place

    def _leave(self, unit: Unit, items: Sequence[Item], noted: Noted) -> None:
        """What FHIR subscriptions leave to be read."""
        wanted = [one for item in items for one in item.wanted]
        wanted += [FetchRequest(source) for source in sorted(noted.gaps) if self._sources[source].base_url]
        if wanted:
            searches = [one if one.path else replace(one, since=noted.since[one.source]) for one in wanted]
            enqueue(unit, self._day_keys, searches)
            unit.after_commit(self.left.set)
        delete_fetched(unit, [ref for item in items for ref in item.fetched])

    def _decide(self, unit: Unit, items: Sequence[Item], behind: set[Heard]) -> None:
        signals = [
            replace(one, said=limit_to_evidence(one.said)) if item.heard in behind else one
            for item in items
            for one in item.signals
        ]
        book = Book(unit.conn, unit.now.date(), (key for signal in signals for key in signal.all_keys()))
        reports = [signal.said for signal in signals if isinstance(signal.said, Report)]
        records = Records(unit, self._hasher, Queue(self._box), reports)
        for signal in signals:
            if isinstance(signal.said, Report):
                self._decide_report(signal.said, signal, book, records, unit.now)
            else:
                self._decide_claim(signal.said, signal, book, records, unit.now)
        records.write()
        book.write(unit.conn)

    def _decide_claim(self, claim: PatientClaim, signal: Signal, book: Book, records: Records, now: datetime) -> None:
        for surviving, prior in signal.merges:
            for doubt in book.merge(surviving, prior):
                records.dismiss(doubt)
        shows = claim.kind in ("evidence", "update")
        patients = joined(signal.keys, book, records) if shows else book.known(signal.keys)
        if not patients:
            return
        view = combine(patients)
        decision = decide_claim(claim, view, self._rules, now)
        apply(records, decision, patients, book, claim)
        for patient in patients:
            _note(patient, claim, book)

    def _decide_report(self, report: Report, signal: Signal, book: Book, records: Records, now: datetime) -> None:
        if report.withdrawn:
            if opened := records.opened(report):
                records.retract(opened)
            return
        if known := records.reported(report):
            records.add(known, report.mentions)
            return
        patients = joined(signal.keys, book, records) if signal.keys else []
        view = combine(patients) if patients else None
        apply(records, decide_report(report, view, self._rules, now), patients, book, report)
        for patient in patients:
            patient.known = True


def joined(keys: Sequence[str], book: Book, records: Records) -> list[Patient]:
    """The patient of a message. Several whom it names as one are one from now on, in whatever order feeds come;
    unless each has a recorded death, since two incidents are out then.
    """
    patients = book.found(keys)
    deaths = {one.current.incident_ref for one in patients if one.current and one.current.state == "recorded"}
    if len(patients) == 1 or len(deaths) > 1:
        return patients
    for doubt in book.merge(keys, ()):
        records.dismiss(doubt)
    return book.known(keys)


def admit(unit: Unit, items: Sequence[Item]) -> list[Accepted]:
    """Insert first and see what was new: that order also fences a second process."""
    messages = [(item.fingerprint, unit.now) for item in items if not item.body_fingerprint]
    reports = [
        (item.fingerprint, item.body_fingerprint, new_ref(), unit.now) for item in items if item.body_fingerprint
    ]
    new = {
        row[0] for row in (*_NEW_SEEN.run(unit.conn, sorted(messages)), *_NEW_RECEIPT.run(unit.conn, sorted(reports)))
    }
    stored = _stored(unit, items, new)
    answers = []
    for item in items:
        row = stored.get(item.fingerprint)
        other = bool(row and item.body_fingerprint and row.body_hash != item.body_fingerprint)
        receipt = row.receipt if row and item.body_fingerprint and not other else ""
        # two with one key may come in one batch: the one whose row was stored is new, whichever came first
        answers.append(
            Accepted(row.accepted_at if row else unit.now, other or item.fingerprint not in new, receipt, other)
        )
        if not other:
            new.discard(item.fingerprint)
    return answers


def _stored(unit: Unit, items: Sequence[Item], new: set[str]) -> dict[str, Any]:
    """Rows of messages that came before, and of every report: its receipt is in its row."""
    old = {item.fingerprint for item in items if not item.body_fingerprint} - new
    reports = {item.fingerprint for item in items if item.body_fingerprint}
    return {
        **{row.message_hash: row for row in rows_of(unit.conn, _FIND_SEEN, old)},
        **{row.key_hash: row for row in rows_of(unit.conn, _FIND_RECEIPTS, reports)},
    }


def apply(
    records: Records,
    decision: SignalDecision,
    patients: Sequence[Patient],
    book: Book,
    signal: PatientClaim | Report,
) -> None:
    """Carry a decision about these patients out."""
    current = combine(patients).current if patients else None
    if decision.action in (Action.RECORD, Action.REVIEW):
        made = records.open(signal, decision, replaced=current)
        if current is None or current.state != "recorded":
            for patient in patients:
                patient.current = made
                book.touch(patient)
    elif current and decision.action == Action.ADD:
        records.add(current, signal.mentions)
    elif current and decision.action == Action.RETRACT:
        records.retract(current)
    if current and "known" in decision.reasons and isinstance(signal, Report):
        records.tell(current, signal)


def _note(patient: Patient, claim: PatientClaim, book: Book) -> None:
    """Remember the death indicator of this message; an empty field changes nothing."""
    patient.known = True
    indicator = "" if claim.indicator == "null" else claim.indicator or patient.indicator
    if indicator != patient.indicator:
        patient.indicator = indicator
        book.touch(patient)

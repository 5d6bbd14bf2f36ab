"""Intake: one group commit for MLLP and both HTTP routes. Decide, store and publish in the same transaction.

A batch costs the same few statements whether it holds one message or 256: what is known of the messages, the patients
and the staff is read in one query each, and everything is written in bulk.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from leeward.refs import new_ref
from leeward.service import Context
from leeward.store import Unit
from services.incident.decisions.claims import Signal, limit_to_evidence
from services.incident.decisions.decide import decide
from services.incident.hashing import Hasher
from services.incident.intake import repository
from services.incident.intake.fetch_queue import FetchRequest, enqueue
from services.incident.intake.ledger import DatabaseLedger
from services.incident.intake.subscriptions import Heard, Noted, record_heard
from services.incident.sealing import DayKeys, identifier_box


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
        answers = admit_items(unit, items)
        fresh = [item for item, answer in zip(items, answers, strict=True) if not answer.repeated]
        if fresh:
            self._keep_raw(unit, fresh)
            noted = record_heard(unit, [item.heard for item in fresh if item.heard])
            signals = [
                replace(one, said=limit_to_evidence(one.said)) if item.heard in noted.behind else one
                for item in fresh
                for one in item.signals
            ]
            ledger = DatabaseLedger[Signal](unit, self._hasher, self._box, signals)
            for signal in signals:
                decide(signal, unit.now, ledger, self._rules)
            ledger.write()
            self._queue_fetches(unit, fresh, noted)
        return answers

    def _keep_raw(self, unit: Unit, items: Sequence[Item]) -> None:
        key = self._day_keys.today(unit)
        rows = []
        for item in items:
            # messages of one batch share their time, and our clock may be set back; a replay goes by this
            self._place = max(self._place + 1, time.time_ns())
            ref = new_ref()
            rows.append((ref, key.key_ref, item.source, unit.now, key.box.seal(item.raw, ref), self._place))
        repository.insert_raw(unit.conn, rows)

    def _queue_fetches(self, unit: Unit, items: Sequence[Item], noted: Noted) -> None:
        """What FHIR subscriptions leave to be read."""
        wanted = [one for item in items for one in item.wanted]
        wanted += [FetchRequest(source) for source in sorted(noted.gaps) if self._sources[source].base_url]
        if wanted:
            searches = [one if one.path else replace(one, since=noted.since[one.source]) for one in wanted]
            enqueue(unit, self._day_keys, searches)
            unit.after_commit(self.left.set)
        repository.delete_fetches(unit.conn, [ref for item in items for ref in item.fetched])


def admit_items(unit: Unit, items: Sequence[Item]) -> list[Accepted]:
    """Insert first and see what was new: that order also fences a second process."""
    messages = {item.fingerprint for item in items if not item.body_fingerprint}
    reports = [item for item in items if item.body_fingerprint]
    new = repository.insert_new(
        unit.conn,
        [(item.fingerprint, unit.now) for item in items if not item.body_fingerprint],
        [(item.fingerprint, item.body_fingerprint, new_ref(), unit.now) for item in reports],
    )
    # rows of messages that came before, and of every report: its receipt is in its row
    stored = repository.find_stored(unit.conn, messages - new, [item.fingerprint for item in reports])
    answers = []
    for item in items:
        row = stored.get(item.fingerprint)
        other = bool(row and item.body_fingerprint and row.body_hash != item.body_fingerprint)
        receipt = row.receipt if row and item.body_fingerprint and not other else ""
        # two with one key may come in one batch: the one whose row was stored is new, whichever came first
        repeated = other or item.fingerprint not in new
        answers.append(Accepted(row.accepted_at if row else unit.now, repeated, receipt, other))
        if not other:
            new.discard(item.fingerprint)
    return answers

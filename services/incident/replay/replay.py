"""Replay: stored messages of a source decided again, after a rule was mended (`leeward hl7 replay`).

What is recent goes by when a message came; what is published goes by now. A death that is recorded stays one.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from leeward.settings import Settings
from leeward.settings.keys import Keyring
from leeward.store import Store, Unit
from services.incident.decisions.decide import decide
from services.incident.hashing import Hasher
from services.incident.replay import queries
from services.incident.replay.inbox import Inbox
from services.incident.replay.ledger import Decided, ReplayLedger
from services.incident.replay.trial import Stored, Trial, Tried
from services.incident.sealing import identifier_box

AT_ONCE: Final = 256


@dataclass(slots=True)
class Replayed:
    """What a replay came to."""

    messages: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    oldest_key: datetime | None = None
    decided: list[Decided] = field(default_factory=list)


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

    async def run(self, since: datetime, until: datetime, *, dry_run: bool) -> Replayed:
        """Decide and, unless it is a dry run, store and publish what is different now.

        Raises:
            leeward.store.StoreUnavailable: the database is away; batches before that are stored.
        """
        inbox, trial = Inbox(self._settings, self._keys, since), Trial(self._hasher, self._settings.incident, since)
        replayed = Replayed(oldest_key=await self._store.read(queries.oldest_key))

        def feed(stored: Sequence[Stored], conn: Connection) -> None:
            trial.feed(conn, inbox.read(conn, stored))

        def concerns(stored: Stored) -> bool:
            return stored.source == self._source and stored.accepted_at < until

        while waiting := await self._store.read(inbox.list_unread):
            for start in range(0, len(waiting), AT_ONCE):
                await self._store.read(partial(feed, waiting[start : start + AT_ONCE]))
            replayed.messages += sum(map(concerns, waiting))
        done: set[str] = set()
        # what is undone after each batch would be decided again in the next
        most = None if dry_run else AT_ONCE

        def next_messages() -> list[Tried]:
            """The signals of the first messages that are left, all of each."""
            left = [one for one in trial.list_standing() if concerns(one.stored) and one.stored.raw_ref not in done]
            refs = set(list(dict.fromkeys(one.stored.raw_ref for one in left))[:most])
            return [one for one in left if one.stored.raw_ref in refs]

        while batch := next_messages():
            replayed.decided += await self._decide(inbox, trial, batch, since, dry_run=dry_run)
            done |= {one.stored.raw_ref for one in batch}
        replayed.refused = dict(sorted(inbox.refused.items()))
        return replayed

    async def _decide(
        self, inbox: Inbox, trial: Trial, batch: Sequence[Tried], since: datetime, *, dry_run: bool
    ) -> list[Decided]:
        decided: list[Decided] = []

        def work(unit: Unit) -> None:
            # what has come in the meantime may have taken something back
            trial.feed(unit.conn, inbox.read(unit.conn, inbox.list_unread(unit.conn)))
            standing = {id(one) for one in trial.list_standing()}
            still = [one for one in batch if id(one) in standing]
            ledger = ReplayLedger(unit, self._hasher, identifier_box(self._keys), still, since)
            for one in still:
                decide(one, one.stored.accepted_at, ledger, self._settings.incident)
            ledger.write()
            decided[:] = ledger.list_decided()
            if dry_run:
                raise _Undo

        with suppress(_Undo):
            await self._store.write(work)
        return decided

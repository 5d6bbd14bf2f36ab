"""Hand-offs that nobody has in hand any more: their run is gone, or this run never heard that it has them.

Every run holds its own name on the database as long as it lives, so a name that can be had is that of a run which is
gone. One that has merely lost its connection takes its name again within a second; only what is found abandoned at two
looks in a row is taken up.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from sqlalchemy import Connection, select

from leeward import telemetry
from leeward.clock import first_of
from leeward.store import Store, StoreUnavailable, Unit
from services.notify.delivery.deliveries import Job, tell
from services.notify.delivery.queue import PROGRESS
from services.notify.delivery.state import DeliveryState
from services.notify.models import DELIVERY, QUESTION
from services.notify.questions.question import overtaken

# by the machine's clock: whether somebody lives does not go by the service's
PULSE: Final = 1.0
LOOK: Final = 5.0

Claimed = tuple[str, str]  # a delivery's key, and the run that has claimed it

_SENDING: Final = select(DELIVERY.c.key, DELIVERY.c.claimed_by).where(DELIVERY.c.state == str(DeliveryState.SENDING))
_DOUBTFUL: Final = (
    select(DELIVERY, QUESTION.c.answered_at)
    .select_from(DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref))
    .where(DELIVERY.c.state == str(DeliveryState.SENDING))
)


class Recovery:
    """Keeps this run's name, and takes up what others have left. `present` is set while the name is this run's."""

    def __init__(self, store: Store, run: str, recovered: Callable[[Unit], None]) -> None:
        self.present = asyncio.Event()
        self.in_hand: dict[str, Job] = {}
        self._store = store
        self._run = run
        self._recovered = recovered
        self._suspects: frozenset[Claimed] = frozenset()

    def take(self, jobs: Sequence[Job]) -> None:
        """These are in this run's memory from now on."""
        self.in_hand.update((job.key, job) for job in jobs)

    def let_go(self, jobs: Sequence[Job]) -> None:
        """What became of these is written down."""
        for job in jobs:
            if self.in_hand.get(job.key) is job:
                del self.in_hand[job.key]

    async def run(self, stop: asyncio.Event) -> None:
        """Say that this run lives, and look for others that do not, until `stop` is set."""
        look = monotonic()
        while not stop.is_set():
            try:
                await self._appear()
                if self.present.is_set() and monotonic() >= look:
                    await self.look()
                    look = monotonic() + LOOK
            except StoreUnavailable:
                self.present.clear()
            await first_of(stop.wait(), asyncio.sleep(min(PULSE, LOOK)))

    async def _appear(self) -> None:
        """Nothing is claimed without the name: whoever finds claims under a free name repeats them."""
        if await self._store.hold(self._run):
            self.present.set()
        else:
            self.present.clear()

    async def look(self) -> None:
        """Take up what was abandoned at the last look already.

        Raises:
            StoreUnavailable: when nobody can tell now.
        """
        abandoned = await self._abandoned()
        again, self._suspects = abandoned & self._suspects, abandoned
        if again:
            await self._store.write(lambda unit: self._take_up(unit, again))

    async def _abandoned(self) -> frozenset[Claimed]:
        def query(conn: Connection) -> list[Claimed]:
            return [(row.key, row.claimed_by) for row in conn.execute(_SENDING)]

        found = await self._store.read(query)
        gone = {run for run in {run for _, run in found} - {self._run} if await self._is_gone(run)}
        lost = {key for key, run in found if run == self._run} - self.in_hand.keys()
        return frozenset((key, run) for key, run in found if run in gone or key in lost)

    async def _is_gone(self, run: str) -> bool:
        if not await self._store.hold(run):
            return False
        await self._store.release(run)
        return True

    def _take_up(self, unit: Unit, claimed: frozenset[Claimed]) -> None:
        """What is left as `sending` is in doubt: sent again under its key, unless it was answered."""
        keys = {key for key, _ in claimed}
        rows = unit.conn.execute(_DOUBTFUL.where(DELIVERY.c.key.in_(keys)).with_for_update(of=DELIVERY)).all()
        changes: list[tuple[Any, ...]] = []
        for row in rows:
            if (row.key, row.claimed_by) in claimed and row.key not in self.in_hand:
                answered = row.kind == "message" and overtaken(row.answered_at, row.accepted_at)
                state = DeliveryState.HANDED_OFF if answered else DeliveryState.QUEUED
                now, doubts = unit.now, max(1, row.doubts)
                changes.append((row.key, str(state), row.attempts, doubts, now, now, self._run, now))
                tell(unit, row.request_ref, row.case_ref, state, row.accepted_at)
        PROGRESS.run(unit.conn, changes)
        unit.after_commit(lambda: telemetry.HAND_OFFS_IN_DOUBT.inc(len(changes)))
        self._recovered(unit)

"""Hand-offs that nobody has in hand any more: their run has ended, or this run never heard that it has them.

Every run holds its own name on the database as long as it lives, by a lease. A name that another run can hold therefore
belongs to a run that has ended, or that hangs: when that one wakes, what was taken up is not its own any more. A run
that has merely lost its connection holds its name again within a second; so only what is found abandoned at two looks
in a row is taken up.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from leeward import telemetry
from leeward.clock import first_of
from leeward.store import Store, StoreUnavailable, Unit
from services.notify.delivery import repository
from services.notify.delivery.deliveries import publish_outcome
from services.notify.delivery.repository import DeliveryChange
from services.notify.delivery.state import Delivery, DeliveryState, overtaken

# by the machine's clock: whether a run lives does not go by the service's
PULSE: Final = 1.0
LOOK: Final = 5.0

Claimed = tuple[str, str]  # a delivery's key, and the run that has claimed it


class Recovery:
    """Keeps this run's name, and takes up what others have left. `present` is set while the name is this run's."""

    def __init__(self, store: Store, run: str, recovered: Callable[[Unit], None]) -> None:
        self.present = asyncio.Event()
        self.in_hand: dict[str, Delivery] = {}
        self._store = store
        self._run = run
        self._recovered = recovered
        self._suspects: frozenset[Claimed] = frozenset()

    def hold(self, deliveries: Sequence[Delivery]) -> None:
        """These are in this run's memory from now on."""
        self.in_hand.update((delivery.key, delivery) for delivery in deliveries)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """What became of these has been recorded."""
        for delivery in deliveries:
            if self.in_hand.get(delivery.key) is delivery:
                del self.in_hand[delivery.key]

    async def run(self, stop: asyncio.Event) -> None:
        """Show that this run lives, and look for others that do not, until `stop` is set."""
        look = monotonic()
        while not stop.is_set():
            try:
                # nothing is claimed without the name: whoever finds claims under a free name repeats them
                if await self._store.hold(self._run):
                    self.present.set()
                else:
                    self.present.clear()
                if self.present.is_set() and monotonic() >= look:
                    await self.look()
                    look = monotonic() + LOOK
            except StoreUnavailable:
                self.present.clear()
            await first_of(stop.wait(), asyncio.sleep(min(PULSE, LOOK)))

    async def look(self) -> None:
        """Take up what was abandoned at the last look already.

        Raises:
            StoreUnavailable: when nobody can tell now.
        """
        claims = await self._store.read(repository.find_claims)
        ended: set[str] = set()
        for run in {run for _, run in claims} - {self._run}:
            if await self._store.hold(run):
                await self._store.release(run)
                ended.add(run)
        lost = {key for key, run in claims if run == self._run} - self.in_hand.keys()
        abandoned = frozenset((key, run) for key, run in claims if run in ended or key in lost)
        again, self._suspects = abandoned & self._suspects, abandoned
        if again:
            await self._store.write(lambda unit: self._take_up(unit, again))

    def _take_up(self, unit: Unit, claimed: frozenset[Claimed]) -> None:
        """What is left as `sending` is in doubt: sent again under its key, unless it was answered."""
        changes: list[DeliveryChange] = []
        for row in repository.lock_in_doubt(unit.conn, {key for key, _ in claimed}):
            if (row.key, row.claimed_by) in claimed and row.key not in self.in_hand:
                answered = row.kind == "message" and overtaken(row.answers, row.asked_after)
                state = DeliveryState.HANDED_OFF if answered else DeliveryState.QUEUED
                now, doubts = unit.now, max(1, row.doubts)
                changes.append(DeliveryChange(row.key, str(state), row.attempts, doubts, now, now, self._run, now))
                publish_outcome(unit, row.request_ref, row.case_ref, state, row.accepted_at)
        repository.record_changes(unit.conn, changes)
        unit.after_commit(lambda: telemetry.HAND_OFFS_IN_DOUBT.inc(len(changes)))
        self._recovered(unit)

"""Between the rows and the channels: what is due is claimed, sent on lanes of its channel, and recorded in groups."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import Connection

from leeward import telemetry
from leeward.clock import Clock, first_of
from leeward.service import Context
from leeward.store import StoreUnavailable, Unit
from leeward.store.periodic import back_off
from services.notify.channels import Channel, ChannelEntry, Later, Result
from services.notify.delivery import repository
from services.notify.delivery.bounces import remove_addresses
from services.notify.delivery.deliveries import Outgoing, publish_outcome
from services.notify.delivery.illness import Illness
from services.notify.delivery.queue import Claims
from services.notify.delivery.recovery import Recovery
from services.notify.delivery.repository import DeliveryChange
from services.notify.delivery.state import (
    Delivery,
    DeliveryState,
    Progress,
    after_attempt,
    nothing_to_say,
    overtaken,
    wake_at,
    when_in_doubt,
)

DEPTH: Final = 1024
BATCH: Final = 256
STALE_SECONDS: Final = 5.0
LOOK_AGAIN: Final = 60.0
# by the machine's clock: another replica may have died with what it had queued
OTHERS: Final = 5.0
LAST_MOMENT: Final = 0.1
GRACE: Final = 30.0
# seconds for which a channel that is away is left alone
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
StillDue = Literal["due", "over", "unknown"]
Returned = TypeVar("Returned")


class Post:
    """One channel's lanes and the deliveries waiting for them. Another channel never waits for this one."""

    def __init__(self, entry: ChannelEntry[Any], dispatch: "Dispatch") -> None:
        self.entry = entry
        self.channel: Channel[Any] = entry.make(dispatch.settings, dispatch.clock.now, entry.lanes)
        self._dispatch = dispatch
        self._queue: asyncio.Queue[tuple[Delivery | None, float]] = asyncio.Queue()
        self.illness = Illness()
        self._faults = 0
        self._away_until: datetime | None = None
        self._stopping = False

    @property
    def room(self) -> int:
        return 0 if self._stopping else DEPTH - self._queue.qsize()

    def put(self, delivery: Delivery) -> None:
        self._queue.put_nowait((delivery, time.monotonic()))

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; what has not begun then goes back to be sent by the next start."""
        lanes = [asyncio.create_task(self._work(lane)) for lane in range(self.entry.lanes)]
        try:
            await stop.wait()
            self._stopping = True
            for _ in lanes:
                self._queue.put_nowait((None, 0.0))
            # a lane that still waits for a final dot is not waited for: the next start repeats what it left in doubt
            await asyncio.wait(lanes, timeout=GRACE)
            # a transaction that had room when the stop came may still put something, which nobody has tried to send
            await asyncio.sleep(LAST_MOMENT)
            while not self._queue.empty():
                delivery, _ = self._queue.get_nowait()
                if delivery is not None:
                    result = self._not_tried(delivery, self._dispatch.clock.now())
                    await self._dispatch.record_attempt(delivery, result)
        finally:
            for lane in lanes:
                lane.cancel()
        await self.channel.close()

    async def _work(self, lane: int) -> None:
        while True:
            delivery, since = await self._queue.get()
            if delivery is None:
                return
            result = await self._attempt(delivery, lane, since)
            if result is not None:
                await self._dispatch.record_attempt(delivery, result)

    async def _attempt(self, delivery: Delivery, lane: int, since: float) -> Result | None:
        """What an attempt came to; None where there was nothing to say any more."""
        now = self._dispatch.clock.now()
        if self._stopping or (self._away_until is not None and now < self._away_until):
            return self._not_tried(delivery, now)
        waited = time.monotonic() - since > STALE_SECONDS
        if waited or delivery.kind == "call" or delivery.attempts or delivery.doubts:
            still_due = await self._dispatch.still_due(delivery)
            if still_due == "unknown":
                return self._not_tried(delivery, now)
            if still_due != "due":
                await self._dispatch.cancel_overtaken(delivery)
                return None
        try:
            report = await self.channel.send(self._dispatch.letter(delivery), lane)
            if isinstance(report, Later):
                delivery.again_at = now + report.pause
            result = Result.LATER if isinstance(report, Later) else report
        except Exception as fault:
            # a fault of ours must neither end the lane nor be tried without end
            place = telemetry.place(fault)
            telemetry.log("hand_off_failed", channel=delivery.channel, fault=type(fault).__name__, place=place)
            result = Result.LATER
        result = self._judge(result, delivery, now)
        if result in (Result.NOT_TRIED, Result.ILL):
            self._faults += 1
            self._away_until = now + timedelta(seconds=back_off(self._faults, FIRST_PAUSE, LONGEST_PAUSE))
            delivery.again_at = self._away_until
            return result
        self._faults, self._away_until = 0, None
        return result

    def _judge(self, result: Result, delivery: Delivery, now: datetime) -> Result:
        before = self.illness.reason
        judged = self.illness.judge(result, delivery.key, delivery.recipient_ref or delivery.key, now)
        if self.illness.reason != before:
            telemetry.log("channel_ill", channel=self.entry.name, reason=self.illness.reason or "well")
            telemetry.CHANNEL_ILL.labels(self.entry.name).set(bool(self.illness.reason))
        return judged

    def _not_tried(self, delivery: Delivery, now: datetime) -> Result:
        delivery.again_at = now if self._stopping else self._away_until
        return Result.NOT_TRIED


class Dispatch:
    """Claims what is due, gives it to the posts, and records what became of it."""

    def __init__(self, context: Context, outgoing: Outgoing) -> None:
        self.clock: Clock = context.clock
        self.settings = context.settings
        self.letter = outgoing.letter
        self._store = context.store
        self._outgoing = outgoing
        self._claims = Claims(outgoing)
        self.posts: Mapping[str, Post] = {
            name: Post(entry, self) for name, entry in outgoing.channels.items() if not outgoing.rehearsal
        }
        self.recovery = Recovery(context.store, outgoing.run, self._fail_stray)
        self._recording = context.store.group(self._record_attempts)
        self._woken = asyncio.Event()
        outgoing.room = self._room
        outgoing.put = self._put
        outgoing.wake = self._woken.set

    def unready(self) -> str:
        """The code of why a channel takes nothing from us, empty while all are well."""
        return next((post.illness.reason for post in self.posts.values() if post.illness.reason), "")

    def _room(self, channel: str) -> int:
        present = self.recovery.present.is_set()
        return self.posts[channel].room if present and channel in self.posts else 0

    def _put(self, deliveries: Sequence[Delivery]) -> None:
        self.recovery.hold(deliveries)
        for delivery in deliveries:
            self.posts[delivery.channel].put(delivery)

    async def pump(self, stop: asyncio.Event) -> None:
        """Look at what is queued whenever its time comes, until `stop` is set."""
        await self._write_patiently(self._fail_stray)
        while not stop.is_set():
            await first_of(self.recovery.present.wait(), stop.wait())
            self._woken.clear()
            more = False
            for name in self.posts:
                room = min(BATCH, self._room(name))
                if room > 0:
                    claim = partial(self._claims.claim_due, channel=name, room=room)
                    looked_at, claimed = await self._write_patiently(claim)
                    self._put(claimed)
                    more = more or looked_at == room
            if not more:
                pause = self.clock.sleep(await self._pause())
                await first_of(self._woken.wait(), stop.wait(), pause, asyncio.sleep(OTHERS))

    async def _pause(self) -> float:
        """Seconds until the next queued delivery must be looked at; a full post is looked at again soon."""
        if any(post.room <= 0 for post in self.posts.values()):
            return 0.05
        try:
            earliest = await self._store.read(lambda conn: repository.next_wake(conn, self.posts.keys()))
        except StoreUnavailable:
            return 1.0
        if earliest is None:
            return LOOK_AGAIN
        return min(LOOK_AGAIN, max(0.0, float((earliest - self.clock.now()).total_seconds())))

    async def record_attempt(self, delivery: Delivery, result: Result) -> None:
        """Record an attempt, together with those that end at the same time; returns after the commit."""
        await _patiently(lambda: self._recording((delivery, result)))

    def _record_attempts(self, unit: Unit, done: Sequence[tuple[Delivery, Result]]) -> Sequence[None]:
        ours = repository.lock_claimed(unit.conn, [delivery.key for delivery, _ in done], self._outgoing.run)
        # what was handed off although another run has taken it up, where that run has not sent it again yet
        taken = [delivery.key for delivery, result in done if result is Result.TAKEN and delivery.key not in ours]
        ours |= repository.lock_unfinished(unit.conn, taken)
        changes: list[DeliveryChange] = []
        for delivery, result in done:
            if delivery.key in ours:
                repeats = self.posts[delivery.channel].entry.repeats_in_doubt
                progress = after_attempt(result, delivery.attempts, delivery.doubts, repeats, unit.now)
                if progress.state is DeliveryState.QUEUED and delivery.again_at is not None:
                    own = progress.due_at if result is Result.LATER else delivery.again_at
                    progress = replace(progress, due_at=max(own, delivery.again_at))
                changes.append(self._change(delivery, progress, unit.now))
                publish_outcome(unit, delivery.request_ref, delivery.case_ref, progress.state, delivery.accepted_at)
                if progress.state is DeliveryState.QUEUED:
                    unit.after_commit(self._woken.set)
        repository.record_changes(unit.conn, changes)
        bounced = [
            delivery.recipient_ref
            for delivery, result in done
            if result is Result.BOUNCED and self.posts[delivery.channel].entry.bounce_ends == "email"
        ]
        remove_addresses(unit, [ref for ref in bounced if ref], self._outgoing.channels.values())

        def recorded() -> None:
            self.recovery.release([delivery for delivery, _ in done])
            for delivery, result in done:
                telemetry.HAND_OFFS.labels(delivery.channel, str(result)).inc()

        unit.after_commit(recorded)
        return [None] * len(done)

    def _change(self, delivery: Delivery, progress: Progress, now: datetime) -> DeliveryChange:
        due, run = progress.due_at, self._outgoing.run
        wake = wake_at(due, delivery.hold_deadline, delivery.expires_at)
        state, attempts, doubts = str(progress.state), progress.attempts, progress.doubts
        return DeliveryChange(delivery.key, state, attempts, doubts, due, wake, run, now)

    async def still_due(self, delivery: Delivery) -> StillDue:
        """Whether one that has waited, or was tried before, is still to be sent, and still by this run."""

        def query(conn: Connection) -> StillDue:
            row = repository.find_still_due(conn, delivery.key)
            if row is None or (row.state, row.claimed_by) != (DeliveryState.SENDING, self._outgoing.run):
                return "over"
            return "over" if nothing_to_say(row.kind, row.answers, row.asked_after, linked=row.linked) else "due"

        try:
            return await self._store.read(query)
        except StoreUnavailable:
            return "unknown"

    async def cancel_overtaken(self, delivery: Delivery) -> None:
        """Record that there is nothing to say any more, where this run still has it."""

        def work(unit: Unit) -> None:
            row = repository.find_still_due(unit.conn, delivery.key)
            over = row is not None and nothing_to_say(row.kind, row.answers, row.asked_after, linked=row.linked)
            if row is not None and over and repository.lock_claimed(unit.conn, [delivery.key], self._outgoing.run):
                state = DeliveryState.CANCELLED
                if delivery.doubts:
                    state = when_in_doubt(state, answered=overtaken(row.answers, row.asked_after))
                progress = Progress(state, delivery.attempts, delivery.doubts, unit.now)
                repository.record_changes(unit.conn, [self._change(delivery, progress, unit.now)])
                publish_outcome(unit, delivery.request_ref, delivery.case_ref, state, delivery.accepted_at)
            unit.after_commit(lambda: self.recovery.release([delivery]))

        await self._write_patiently(work)

    def _fail_stray(self, unit: Unit) -> None:
        """What is queued for a channel that the site has turned off meanwhile ends as failed."""
        for row in repository.end_stray(unit.conn, self.posts.keys(), unit.now):
            publish_outcome(unit, row.request_ref, row.case_ref, DeliveryState.FAILED, row.accepted_at)
        unit.after_commit(self._woken.set)

    async def _write_patiently(self, work: Callable[[Unit], Returned]) -> Returned:
        return await _patiently(lambda: self._store.write(work))


async def _patiently(write: Callable[[], Awaitable[Returned]]) -> Returned:
    """A database that is away for a while delays, and loses nothing."""
    while True:
        try:
            return await write()
        except StoreUnavailable as fault:
            telemetry.log("store_away", service="notify", fault=type(fault).__name__)
            await asyncio.sleep(0.5)

"""Between the rows and the channels: what is due is claimed, sent on lanes of its channel, and settled in groups."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection, select

from leeward import telemetry
from leeward.clock import Clock, first_of
from leeward.service import Context
from leeward.store import StoreUnavailable, Unit
from services.notify.channels import Channel, ChannelEntry, Result
from services.notify.delivery.bounces import bounced
from services.notify.delivery.deliveries import Job, Outgoing, tell
from services.notify.delivery.queue import MINE, NEXT, PROGRESS, STANDING, Claims, in_doubt, nothing_to_say
from services.notify.delivery.recovery import Recovery
from services.notify.delivery.state import DeliveryState, Progress, after_attempt
from services.notify.models import DELIVERY

DEPTH: Final = 1024
BATCH: Final = 256
STALE_SECONDS: Final = 5.0
LOOK_AGAIN: Final = 60.0
# by the machine's clock: another replica may have died with what it had queued
OTHERS: Final = 5.0
LAST_MOMENT: Final = 0.1
Standing = Literal["wanted", "over", "unknown"]


class Post:
    """One channel's lanes and the letters waiting for them. Another channel never waits for this one."""

    def __init__(self, entry: ChannelEntry[Any], dispatch: "Dispatch") -> None:
        self.entry = entry
        self.channel: Channel[Any] = entry.make(dispatch.settings, dispatch.clock.now, entry.lanes)
        self._dispatch = dispatch
        self._queue: asyncio.Queue[tuple[Job | None, float]] = asyncio.Queue()
        self._faults = 0
        self._away_until: datetime | None = None
        self._stopping = False

    @property
    def room(self) -> int:
        return 0 if self._stopping else DEPTH - self._queue.qsize()

    def put(self, job: Job) -> None:
        self._queue.put_nowait((job, time.monotonic()))

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; letters not begun then go back to be sent by the next start."""
        lanes = [asyncio.create_task(self._lane(number)) for number in range(self.entry.lanes)]
        try:
            await stop.wait()
            self._stopping = True
            for _ in lanes:
                self._queue.put_nowait((None, 0.0))
            await asyncio.gather(*lanes)
            await self._put_back()
        finally:
            for lane in lanes:
                lane.cancel()
        await self.channel.close()

    async def _put_back(self) -> None:
        """A transaction that had room when the stop came may still have put something; nobody has tried to send it."""
        await asyncio.sleep(LAST_MOMENT)
        while not self._queue.empty():
            job, _ = self._queue.get_nowait()
            if job is not None:
                await self._dispatch.settle(job, self._not_tried(job, self._dispatch.clock.now()))

    async def _lane(self, number: int) -> None:
        while True:
            job, since = await self._queue.get()
            if job is None:
                return
            result = await self._attempt(job, number, since)
            if result is not None:
                await self._dispatch.settle(job, result)

    async def _attempt(self, job: Job, lane: int, since: float) -> Result | None:
        now = self._dispatch.clock.now()
        if self._stopping or (self._away_until is not None and now < self._away_until):
            return self._not_tried(job, now)
        waited = time.monotonic() - since > STALE_SECONDS
        if waited or job.attempts or job.doubts:
            standing = await self._dispatch.standing(job)
            if standing == "unknown":
                return self._not_tried(job, now)
            if standing != "wanted":
                await self._dispatch.drop(job)
                return None
        result = await self._send(job, lane)
        if result is Result.NOT_TRIED:
            self._faults += 1
            self._away_until = now + timedelta(seconds=min(60, 2 ** min(self._faults, 8) / 2))
            return self._not_tried(job, now)
        self._faults, self._away_until = 0, None
        return result

    async def _send(self, job: Job, lane: int) -> Result:
        """A fault of ours must not end the lane, nor be tried for ever."""
        try:
            return await self.channel.send(job.letter, lane)
        except Exception as fault:
            telemetry.log(
                "hand_off_failed", channel=job.channel, fault=type(fault).__name__, place=telemetry.place(fault)
            )
            return Result.LATER

    def _not_tried(self, job: Job, now: datetime) -> Result:
        job.away_until = now if self._stopping else self._away_until
        return Result.NOT_TRIED


class Dispatch:
    """Claims what is due, gives it to the posts, and writes down what became of it."""

    def __init__(self, context: Context, outgoing: Outgoing) -> None:
        self.clock: Clock = context.clock
        self.settings = context.settings
        self._store = context.store
        self._outgoing = outgoing
        self._claims = Claims(outgoing)
        self.posts: Mapping[str, Post] = {
            name: Post(entry, self) for name, entry in outgoing.channels.items() if not outgoing.rehearsal
        }
        self.recovery = Recovery(context.store, outgoing.run, self._left_behind)
        self._settling = context.store.group(self._settle)
        self._woken = asyncio.Event()
        outgoing.room = self._room
        outgoing.put = self._put
        outgoing.wake = self._woken.set

    def _room(self, channel: str) -> int:
        present = self.recovery.present.is_set()
        return self.posts[channel].room if present and channel in self.posts else 0

    def _put(self, jobs: Sequence[Job]) -> None:
        self.recovery.take(jobs)
        for job in jobs:
            self.posts[job.channel].put(job)

    async def pump(self, stop: asyncio.Event) -> None:
        """Look at what is queued whenever its time comes, until told to stop."""
        await self._patiently(self._left_behind)
        while not stop.is_set():
            await first_of(self.recovery.present.wait(), stop.wait())
            self._woken.clear()
            full = await self._claim_all()
            if not full:
                pause = await self._pause()
                waits = (self._woken.wait(), stop.wait(), self.clock.sleep(pause), asyncio.sleep(OTHERS))
                await first_of(*waits)

    async def _claim_all(self) -> bool:
        """True when there may be more to claim at once."""
        full = False
        for name in self.posts:
            room = min(BATCH, self._room(name))
            if room <= 0:
                continue
            looked, jobs = await self._patiently(lambda unit, n=name, r=room: self._claims.take(unit, n, r))
            self._put(jobs)
            full = full or looked == room
        return full

    async def _pause(self) -> float:
        """Seconds until the next queued delivery must be looked at; a full post is looked at again soon."""
        if any(post.room <= 0 for post in self.posts.values()):
            return 0.05
        try:
            earliest = await self._store.read(lambda conn: conn.execute(NEXT, {"channels": list(self.posts)}).scalar())
        except StoreUnavailable:
            return 1.0
        if earliest is None:
            return LOOK_AGAIN
        return min(LOOK_AGAIN, max(0.0, float((earliest - self.clock.now()).total_seconds())))

    async def _patiently(self, work: Any) -> Any:
        """A database that is away for a while delays, and loses nothing."""
        while True:
            try:
                return await self._store.write(work)
            except StoreUnavailable as fault:
                telemetry.log("store_away", service="notify", fault=type(fault).__name__)
                await asyncio.sleep(0.5)

    async def settle(self, job: Job, result: Result) -> None:
        """Write down an attempt, together with those that end at the same time; returns after the commit."""
        while True:
            try:
                await self._settling((job, result))
                return
            except StoreUnavailable as fault:
                telemetry.log("store_away", service="notify", fault=type(fault).__name__)
                await asyncio.sleep(0.5)

    def _settle(self, unit: Unit, done: Sequence[tuple[Job, Result]]) -> Sequence[None]:
        ended = [(job, result, self._after(job, result, unit.now)) for job, result in done]
        mine = self._mine(unit, [job for job, _ in done])
        mine |= self._arrived(unit, [job.key for job, result in done if result is Result.TAKEN and job.key not in mine])
        changes = [self._change(job, progress, unit.now) for job, _, progress in ended if job.key in mine]
        PROGRESS.run(unit.conn, changes)
        for job, _, progress in ended:
            if job.key in mine:
                tell(unit, job.request_ref, job.case_ref, progress.state, job.accepted_at)
        ended_addresses = [
            job.recipient_ref
            for job, result in done
            if result is Result.BOUNCED and job.recipient_ref and self.posts[job.channel].entry.bounce_ends == "email"
        ]
        bounced(unit, ended_addresses, self._outgoing.channels.values())
        unit.after_commit(lambda: self._settled(done))
        if any(progress.state is DeliveryState.QUEUED for _, _, progress in ended):
            unit.after_commit(self._woken.set)
        return [None] * len(done)

    def _after(self, job: Job, result: Result, now: datetime) -> Progress:
        repeats = self.posts[job.channel].entry.repeats_in_doubt
        progress = after_attempt(result, job.attempts, job.doubts, repeats, now)
        if result is Result.NOT_TRIED and job.away_until is not None:
            return Progress(progress.state, progress.attempts, progress.doubts, job.away_until)
        return progress

    def _mine(self, unit: Unit, jobs: Sequence[Job]) -> set[str]:
        """The keys of those that no other run has taken up meanwhile."""
        keys = [job.key for job in jobs]
        return set(unit.conn.execute(MINE, {"keys": keys, "run": self._outgoing.run}).scalars())

    def _arrived(self, unit: Unit, keys: Sequence[str]) -> set[str]:
        """What was handed off although another run has taken it up: the keys that it has not sent again yet."""
        if not keys:
            return set()
        waiting = (str(DeliveryState.QUEUED), str(DeliveryState.SENDING))
        query = select(DELIVERY.c.key).where(DELIVERY.c.key.in_(keys), DELIVERY.c.state.in_(waiting)).with_for_update()
        return set(unit.conn.execute(query).scalars())

    def _change(self, job: Job, progress: Progress, now: datetime) -> tuple[Any, ...]:
        due = progress.due_at
        tried = (str(progress.state), progress.attempts, progress.doubts)
        return (job.key, *tried, due, due, self._outgoing.run, now)

    async def standing(self, job: Job) -> Standing:
        """Whether a job that has waited, or was tried before, is still to be sent, and still by this run."""

        def query(conn: Connection) -> Standing:
            row = conn.execute(STANDING, {"wanted_key": job.key}).first()
            if row is None or (row.state, row.claimed_by) != (DeliveryState.SENDING, self._outgoing.run):
                return "over"
            return "over" if nothing_to_say(row) else "wanted"

        try:
            return await self._store.read(query)
        except StoreUnavailable:
            return "unknown"

    async def drop(self, job: Job) -> None:
        """Not sent any more."""
        await self._patiently(lambda unit: self._drop(unit, job))

    def _drop(self, unit: Unit, job: Job) -> None:
        row = unit.conn.execute(STANDING, {"wanted_key": job.key}).first()
        if row is not None and nothing_to_say(row) and self._mine(unit, [job]):
            state = DeliveryState.CANCELLED
            if job.doubts:
                state = in_doubt(state, answered=row.answered_at is not None)
            progress = Progress(state, job.attempts, job.doubts, unit.now)
            PROGRESS.run(unit.conn, [self._change(job, progress, unit.now)])
            tell(unit, job.request_ref, job.case_ref, state, job.accepted_at)
        unit.after_commit(lambda: self.recovery.let_go([job]))

    def _settled(self, done: Sequence[tuple[Job, Result]]) -> None:
        self.recovery.let_go([job for job, _ in done])
        for job, result in done:
            telemetry.HAND_OFFS.labels(job.channel, str(result)).inc()

    def _left_behind(self, unit: Unit) -> None:
        """What is queued for a channel that the site has switched off meanwhile is told as failed."""
        stray = DELIVERY.c.channel.not_in(list(self.posts)) & (DELIVERY.c.state == str(DeliveryState.QUEUED))
        for row in unit.conn.execute(select(DELIVERY).where(stray)).all():
            tell(unit, row.request_ref, row.case_ref, DeliveryState.FAILED, row.accepted_at)
        unit.conn.execute(DELIVERY.update().where(stray).values(state=str(DeliveryState.FAILED), changed_at=unit.now))
        unit.after_commit(self._woken.set)

"""Between the rows and the channels: what is due is claimed, sent on lanes of its channel, and settled in groups."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import Connection, bindparam, func, select

from leeward import telemetry
from leeward.clock import Clock, first_of
from leeward.service import Ground
from leeward.store import StoreUnavailable, Unit, Update
from services.notify.channels import Channel, Kind, Letter
from services.notify.domain import (
    DeliveryState,
    Progress,
    Result,
    Waiting,
    after_attempt,
    look_at,
    overtaken,
)
from services.notify.models import DELIVERY, QUESTION, RECIPIENT
from services.notify.outgoing import GONE, Contact, Job, Outgoing, tell, wake_at
from services.notify.reach import bounced
from services.notify.schedule import after_quiet

DEPTH: Final = 1024
BATCH: Final = 256
STALE_SECONDS: Final = 5.0
LOOK_AGAIN: Final = 60.0
LEASE: Final = timedelta(minutes=10)

_PROGRESS: Final = Update(
    DELIVERY, ("key",), ("state", "attempts", "doubts", "due_at", "wake_at", "claimed_by", "changed_at")
)
_JOINED: Final = DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref).outerjoin(
    RECIPIENT, RECIPIENT.c.recipient_ref == DELIVERY.c.recipient_ref
)
_DUE: Final = (
    select(
        DELIVERY,
        QUESTION.c.state.label("question_state"),
        QUESTION.c.answered_at,
        RECIPIENT.c.email,
        RECIPIENT.c.mobile,
        RECIPIENT.c.languages,
        RECIPIENT.c.timezone,
        RECIPIENT.c.status,
    )
    .select_from(_JOINED)
    .where(
        DELIVERY.c.state == str(DeliveryState.QUEUED),
        DELIVERY.c.wake_at <= bindparam("now"),
        DELIVERY.c.channel == bindparam("channel"),
    )
    .order_by(DELIVERY.c.wake_at)
    .limit(bindparam("room"))
    .with_for_update(of=DELIVERY, skip_locked=True)
)
_NEXT: Final = select(func.min(DELIVERY.c.wake_at)).where(
    DELIVERY.c.state == str(DeliveryState.QUEUED), DELIVERY.c.channel.in_(bindparam("channels", expanding=True))
)
_ANSWERED: Final = (
    select(DELIVERY.c.key)
    .select_from(DELIVERY.join(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref))
    .where(DELIVERY.c.key == bindparam("wanted_key"), DELIVERY.c.kind == "message")
    .where(QUESTION.c.answered_at >= DELIVERY.c.accepted_at)
)


class Post:
    """One channel's lanes and the letters waiting for them. Another channel never waits for this one."""

    def __init__(self, channel: Channel, dispatch: "Dispatch") -> None:
        self.channel = channel
        self._dispatch = dispatch
        self._queue: asyncio.Queue[tuple[Job | None, float]] = asyncio.Queue()
        self._faults = 0
        self._away_until: datetime | None = None
        self._stopping = False

    @property
    def room(self) -> int:
        return DEPTH - self._queue.qsize()

    def put(self, job: Job) -> None:
        self._queue.put_nowait((job, time.monotonic()))

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop; letters not begun then go back to be sent by the next start."""
        lanes = [asyncio.create_task(self._lane(number)) for number in range(self.channel.lanes)]
        try:
            await stop.wait()
            self._stopping = True
            for _ in lanes:
                self._queue.put_nowait((None, 0.0))
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
        await self.channel.close()

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
        if (waited or job.attempts or job.doubts) and await self._dispatch.answered(job):
            await self._dispatch.cancel(job)
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

    def __init__(self, ground: Ground, outgoing: Outgoing, channels: Sequence[Channel]) -> None:
        self.clock: Clock = ground.clock
        self._ground = ground
        self._store = ground.store
        self._outgoing = outgoing
        self.posts: Mapping[str, Post] = {channel.name: Post(channel, self) for channel in channels}
        self._settling = ground.store.group(self._settle)
        self._woken = asyncio.Event()
        outgoing.room = self._room
        outgoing.put = self._put
        outgoing.wake = self._woken.set

    def _room(self, channel: str) -> int:
        return self.posts[channel].room if channel in self.posts else 0

    def _put(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.posts[job.channel].put(job)

    async def pump(self, stop: asyncio.Event) -> None:
        """Look at what is queued whenever its time comes, until told to stop."""
        await self._patiently(self._recover)
        while not stop.is_set():
            self._woken.clear()
            full = await self._claim_all()
            if not full:
                pause = await self._pause()
                await first_of(self._woken.wait(), stop.wait(), self.clock.sleep(pause))

    async def _claim_all(self) -> bool:
        """True when there may be more to claim at once."""
        full = False
        for name, post in self.posts.items():
            room = min(BATCH, post.room)
            if room <= 0:
                continue
            looked, jobs = await self._patiently(lambda unit, n=name, r=room: self._claim(unit, n, r))
            self._put(jobs)
            full = full or looked == room
        return full

    async def _pause(self) -> float:
        """Seconds until the next queued delivery must be looked at; a full post is looked at again soon."""
        if any(post.room <= 0 for post in self.posts.values()):
            return 0.05
        try:
            earliest = await self._store.read(lambda conn: conn.execute(_NEXT, {"channels": list(self.posts)}).scalar())
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

    def _claim(self, unit: Unit, channel: str, room: int) -> tuple[int, list[Job]]:
        rows = unit.conn.execute(_DUE, {"now": unit.now, "channel": channel, "room": room}).all()
        jobs: list[Job] = []
        changes: list[tuple[Any, ...]] = []
        for row in rows:
            contact = self._contact(row)
            state, due = self._look(row, contact, unit.now)
            if row.doubts:
                state = _in_doubt(state, answered=row.answered_at is not None)
            wake = wake_at(due, row.hold_deadline, row.expires_at)
            changes.append((row.key, str(state), row.attempts, row.doubts, due, wake, self._outgoing.run, unit.now))
            tell(unit, row.request_ref, row.case_ref, state, row.accepted_at)
            if state is DeliveryState.SENDING and contact is not None:
                jobs.append(self._job(row, contact))
        _PROGRESS.run(unit.conn, changes)
        return len(rows), jobs

    def _look(self, row: Any, contact: Contact | None, now: datetime) -> tuple[DeliveryState, datetime]:
        quiet = None if row.urgent else self._outgoing.settings.outreach.quiet_hours
        opens = after_quiet(now, quiet, contact.timezone if contact else "UTC")
        waiting = Waiting(
            answered=row.kind == "message"
            and (row.question_state is None or overtaken(row.answered_at, row.accepted_at)),
            gone=contact is None,
            rehearsal=self._outgoing.rehearsal,
            due_at=row.due_at,
            opens_at=opens,
            hold_deadline=row.hold_deadline,
            expires_at=row.expires_at,
        )
        return look_at(waiting, now), max(row.due_at, opens)

    def _contact(self, row: Any) -> Contact | None:
        if row.kind == "call":
            return on_call_contact(self._outgoing, row.step)
        if row.status is None or row.status in GONE:
            return None
        return self._outgoing.contact(row)

    def _job(self, row: Any, contact: Contact) -> Job:
        letter: Letter = self._outgoing.letter(cast(Kind, row.kind), row.key, contact)
        return Job(
            row.key,
            row.channel,
            row.kind,
            row.request_ref,
            row.case_ref,
            row.recipient_ref,
            row.question_ref,
            row.accepted_at,
            row.attempts,
            row.doubts,
            letter,
        )

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
        changes: list[tuple[Any, ...]] = []
        for job, result in done:
            progress = _after(job, result, unit.now)
            due, run = progress.due_at, self._outgoing.run
            changes.append((job.key, str(progress.state), progress.attempts, progress.doubts, due, due, run, unit.now))
            tell(unit, job.request_ref, job.case_ref, progress.state, job.accepted_at)
            telemetry.HAND_OFFS.labels(job.channel, str(result)).inc()
        _PROGRESS.run(unit.conn, changes)
        lost = [job.recipient_ref for job, result in done if result is Result.BOUNCED and job.recipient_ref]
        bounced(unit, lost, webhook=self._ground.settings.channels.webhook is not None)
        if any(change[1] == DeliveryState.QUEUED for change in changes):
            unit.after_commit(self._woken.set)
        return [None] * len(done)

    async def answered(self, job: Job) -> bool:
        """Whether an answer has come meanwhile: then there is nothing left to say."""

        def query(conn: Connection) -> bool:
            return conn.execute(_ANSWERED, {"wanted_key": job.key}).first() is not None

        try:
            return await self._store.read(query)
        except StoreUnavailable:
            return False

    async def cancel(self, job: Job) -> None:
        """Not sent any more; one that was in doubt has evidently arrived."""
        state = DeliveryState.HANDED_OFF if job.doubts else DeliveryState.CANCELLED

        def work(unit: Unit) -> None:
            now, run = unit.now, self._outgoing.run
            _PROGRESS.run(unit.conn, [(job.key, str(state), job.attempts, job.doubts, now, now, run, now)])
            tell(unit, job.request_ref, job.case_ref, state, job.accepted_at)

        await self._patiently(work)

    def _recover(self, unit: Unit) -> None:
        """What an earlier run left as `sending` is in doubt: sent again under its key, unless it was answered."""
        doubtful = select(DELIVERY, QUESTION.c.answered_at).select_from(
            DELIVERY.outerjoin(QUESTION, QUESTION.c.question_ref == DELIVERY.c.question_ref)
        )
        doubtful = doubtful.where(DELIVERY.c.state == "sending", DELIVERY.c.claimed_by != self._outgoing.run)
        if not self._ground.settings.embedded:
            doubtful = doubtful.where(DELIVERY.c.changed_at <= unit.now - LEASE)
        changes: list[tuple[Any, ...]] = []
        for row in unit.conn.execute(doubtful).all():
            answered = row.kind == "message" and overtaken(row.answered_at, row.accepted_at)
            state = DeliveryState.HANDED_OFF if answered else DeliveryState.QUEUED
            now, doubts = unit.now, max(1, row.doubts)
            changes.append((row.key, str(state), row.attempts, doubts, now, now, self._outgoing.run, now))
            tell(unit, row.request_ref, row.case_ref, state, row.accepted_at)
        _PROGRESS.run(unit.conn, changes)
        telemetry.HAND_OFFS_IN_DOUBT.inc(len(changes))
        self._give_up_channels(unit)

    def _give_up_channels(self, unit: Unit) -> None:
        """What was queued for a channel that the site has switched off meanwhile is told as failed."""
        stray = DELIVERY.c.channel.not_in(list(self.posts)) & (DELIVERY.c.state == str(DeliveryState.QUEUED))
        for row in unit.conn.execute(select(DELIVERY).where(stray)).all():
            tell(unit, row.request_ref, row.case_ref, DeliveryState.FAILED, row.accepted_at)
        unit.conn.execute(DELIVERY.update().where(stray).values(state=str(DeliveryState.FAILED), changed_at=unit.now))


def _in_doubt(state: DeliveryState, *, answered: bool) -> DeliveryState:
    """What an attempt in doubt becomes where a fresh one would be given up: an answer shows that it arrived."""
    if state is DeliveryState.CANCELLED and answered:
        return DeliveryState.HANDED_OFF
    given_up = (DeliveryState.CANCELLED, DeliveryState.EXPIRED, DeliveryState.HELD_TOO_LONG)
    return DeliveryState.UNKNOWN if state in given_up else state


def _after(job: Job, result: Result, now: datetime) -> Progress:
    progress = after_attempt(job.channel, result, job.attempts, job.doubts, now)
    if result is Result.NOT_TRIED and job.away_until is not None:
        return Progress(progress.state, progress.attempts, progress.doubts, job.away_until)
    return progress


def on_call_contact(outgoing: Outgoing, step: str) -> Contact | None:
    """The professional that a step such as `call-3-0` is for: the round, then the place in the policy file."""
    number = int(step.rpartition("-")[2])
    people = outgoing.settings.on_call
    if number >= len(people):
        return None
    return Contact(people[number].email, people[number].phone, outgoing.settings.locales[0], "UTC")

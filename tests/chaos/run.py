"""One run: the stream, the blows and the people at once, until everything has come to rest; then the checker."""

import asyncio
import contextlib
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from leeward.settings import ServiceName
from tests.chaos import hospital
from tests.chaos.bodies import Body
from tests.chaos.books import Books
from tests.chaos.evidence import Evidence, Struck
from tests.chaos.hours import RATE, HospitalTime
from tests.chaos.outside import Arrival, nobody
from tests.chaos.people import Crowd
from tests.chaos.plan import SERVERS, Act, Blow, Death, Fault, Mode, Plan
from tests.chaos.promises import broken, due, in_the_window
from tests.chaos.watch import LOOK, Absences, Pulse, overburdened
from tests.chaos.worlds import World
from tests.e2e.harness import AckReader

# when those who sleep wake up, in seconds of the stream
NIGHT_LASTS: Final = 2.5
DRAIN: Final = 60.0
TRIES: Final = 5
LOOKS: Final = 4  # times that the coordinator looks at the list
# seconds in which nothing changes although something is due; a member of a consumer group that is stuck takes 30
STANDSTILL: Final[dict[Mode, float]] = {"embedded": 6.0, "distributed": 45.0}
LOOK_AGAIN: Final = 0.4
STARVED: Final = 1.0  # seconds for which the machine gives nothing; no run that is broken then counts
KILLED: Final = -signal.SIGKILL


@dataclass(frozen=True)
class Outcome:
    """A finished run; `breaches` are the checker's lines."""

    evidence: Evidence
    breaches: list[str]
    seconds: float
    hits: Counter[str]
    folder: Path

    @property
    def void(self) -> bool:
        """Whether the machine gave so little time that what was broken says nothing: it is to be run again."""
        return bool(self.breaches) and self.evidence.lag > STARVED

    def line(self) -> str:
        """One line: seed, what was killed when, counts."""
        plan, found = self.evidence.plan, self.evidence
        struck = sorted(found.struck, key=lambda one: one.after)
        killed = ", ".join(f"{one.name} {one.how} {one.after:.1f}" for one in struck)
        counts = {
            "deaths": len(found.acknowledged),
            "messages": len({arrival.key for arrival in found.arrivals}),
            "repeats": found.repeats,
            "answers": sum(one.fate == "taken" for one in found.given),
            "in doubt": sum(one.fate == "in_doubt" for one in found.given),
            "in the window": in_the_window(Books(found)),
            "pages": sum(arrival.to == hospital.PROFESSIONAL for arrival in found.arrivals),
        }
        if found.left:
            counts["left"] = len(found.left)
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        verdict = f"{len(self.breaches)} BREACHES" if self.breaches else "kept"
        if self.void:
            verdict = f"VOID, the machine stood still for {found.lag:.1f} s"
        ill = f"; ill: {', '.join(found.suffered)}" if found.suffered else ""
        return f"{plan.mode} seed {plan.seed}, {self.seconds:.1f} s: {verdict}; {told}{ill}; killed: {killed}"


@dataclass
class Run:
    """A plan being carried out in a world."""

    world: World
    plan: Plan
    evidence: Evidence
    crowd: Crowd = field(default_factory=Crowd)
    bodies: dict[str, Body] = field(default_factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _asking: dict[str, "asyncio.Queue[str]"] = field(default_factory=dict)
    _questions: "defaultdict[str, list[str]]" = field(default_factory=lambda: defaultdict(list))
    _all_up: asyncio.Event = field(default_factory=asyncio.Event)
    _began: float = field(default_factory=time.monotonic)
    _absences: Absences = field(default_factory=Absences)

    def __post_init__(self) -> None:
        self._missing = {name for name in self.plan.chains if name not in SERVERS}

    async def go(self) -> None:
        """Carry it out and fill the evidence."""
        loop = asyncio.get_running_loop()
        arrivals = self.world.around.arrivals
        arrivals.begin(lambda arrival: loop.call_soon_threadsafe(self._arrived, arrival))
        pulse, looking = Pulse(), asyncio.create_task(self._look_at_supporters())
        try:
            async with asyncio.TaskGroup() as group:
                for name, chain in self.plan.chains.items():
                    group.create_task(self._server(name, chain) if name in SERVERS else self._process(name, chain))
                group.create_task(self._stream())
            await self._come_to_rest()
            looking.cancel()
            self.evidence.ended = time.monotonic()
            await self._stop()
        finally:
            looking.cancel()
            pulse.stop()
            self._absences.end()
            self.evidence.lag, self.evidence.down = pulse.lag, self._absences.spans
            arrivals.told = nobody
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.crowd.close()
            for body in self.bodies.values():
                await body.kill()
        self.evidence.arrivals, self.evidence.given = arrivals.all, self.crowd.given
        self.evidence.at_rest = await self.world.at_rest()

    async def _look_at_supporters(self) -> None:
        """What they carry, at moments on the way."""
        await self._all_up.wait()
        while True:
            await asyncio.sleep(LOOK)
            with contextlib.suppress(Exception):  # a server may be away
                found = await self.world.at_rest(glance=True)
                self.evidence.held += overburdened(found, one_moment=self.plan.mode == "embedded")

    # --- blows ---

    async def _process(self, name: str, chain: tuple[Blow, ...]) -> None:
        for blow in chain:
            before = self.world.hits(name)
            self._absences.gone(name)
            body = self.bodies[name] = await self.world.start(name, blow)
            await self._live(name, body, blow)
            early = not body.alive
            if blow.restore and not early:
                await self._back_up()
            await body.kill()
            if blow.restore and not early:
                await self._put_back()
            hit = [*(self.world.hits(name) - before).elements()]
            if early and body.gone.result() != KILLED:
                self.evidence.troubles.append(f"{name} ended by itself with {body.gone.result()}")
            self._struck(name, blow, hit[0] if early and hit else "wrong clock" if blow.wrong else "moment")
            await asyncio.sleep(blow.pause)
            self.world.time.leap(blow.leap)
        self._absences.gone(name)
        self.bodies[name] = await self.world.start(name, None)
        await self._answers(name, self.bodies[name], "/readyz")
        if any(blow.leap for blow in chain):
            # it was off for longer than a clock is believed; what else doctor finds is no matter here
            await self.world.command("doctor", "--clock-is-right")

    async def _back_up(self) -> None:
        """While nobody does anything and all has been heard; what is being sent meanwhile is sent again."""
        await self.crowd.calm.begin()
        async with asyncio.timeout(DRAIN):
            while (await self.world.at_rest(glance=True)).not_applied():
                await asyncio.sleep(LOOK_AGAIN)
        if not await self.world.command("backup", str(self.world.folder / "backup")):
            self.evidence.troubles.append("no backup could be made")

    async def _put_back(self) -> None:
        """Refused while somebody reads a database, as this run does for a moment now and then."""
        for _ in range(TRIES):
            if await self.world.command("restore", str(self.world.folder / "backup"), "--yes"):
                break
        else:
            self.evidence.troubles.append("the backup could not be put back")
        self.crowd.calm.end()
        self.evidence.suffered.append("restore")

    async def _live(self, name: str, body: Body, blow: Blow) -> None:
        """Until it dies, or its time is over; in its first life it is ready before that."""
        first = not self._all_up.is_set()
        if not blow.newborn:
            await self._answers(name, body, "/readyz" if first else "/livez")
        if first and not blow.newborn:
            await self._either(self._all_up.wait(), body)
        await asyncio.wait([body.gone], timeout=blow.patience)
        self._absences.gone(name)
        self._up(name)

    async def _answers(self, name: str, body: Body, path: str) -> None:
        """Until it says that it is alive, or ready, or has died before."""
        began = time.monotonic()
        if await self._either(self.world.answers(name, path), body):
            self.world.startup = time.monotonic() - began
            self._absences.back(name)
        elif body.alive:
            self.evidence.troubles.append(f"{name} did not answer {path} within {DRAIN:.0f} s")
        self._up(name)

    async def _either(self, happens: Coroutine[Any, Any, object], body: Body) -> bool:
        """Wait until something happens, False where the process dies before, or for very long."""
        waiting = asyncio.ensure_future(happens)
        both: list[asyncio.Future[Any]] = [waiting, body.gone]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED, timeout=DRAIN)
        return not waiting.cancel()

    def _up(self, name: str) -> None:
        """The first time that all have been, the stream begins."""
        self._missing.discard(name)
        if not self._missing:
            self._all_up.set()

    async def _server(self, name: str, chain: tuple[Blow, ...]) -> None:
        await self._all_up.wait()
        for blow in chain:
            await asyncio.sleep(blow.patience)
            self._absences.gone(name)
            await self.world.strike(name)
            self._absences.back(name)
            self._struck(name, blow, "moment")

    def _struck(self, name: str, blow: Blow, how: str) -> None:
        self.evidence.struck.append(Struck(name, how, time.monotonic() - self._began, blow))

    # --- the stream ---

    async def _stream(self) -> None:
        await self._all_up.wait()
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self.plan.faults:
                group.create_task(self._suffer(fault))
            for act in self.plan.acts:
                group.create_task(self._act(act))
            for death in self.plan.deaths:
                group.create_task(self._die(death))
            for ask in self.plan.asks:
                group.create_task(self._ask(ask.at, hospital.contacts()[ask.who]))

    async def _suffer(self, fault: Fault) -> None:
        """Something is ill for a while; what is late meanwhile is not late for that."""
        await asyncio.sleep(fault.at)
        self._absences.gone(fault.kind)
        body = self.bodies[fault.name]
        with {"stop": body.stopped, "full_disk": body.full_disk}.get(fault.kind, nullcontext)():
            self.world.around.behave(fault.kind)
            await asyncio.sleep(fault.seconds)
            self.world.around.behave("")
        self._absences.back(fault.kind)
        self.evidence.suffered.append(f"{fault.kind} {fault.at:.1f}-{fault.at + fault.seconds:.1f}")

    async def _die(self, death: Death) -> None:
        await asyncio.sleep(death.at)
        self.evidence.sent[death.number] = time.monotonic()
        if death.reviewers:
            await self._report(death)
        else:
            await self._deliver(hospital.death(death.number, death.unit, death.people))
        self.evidence.acknowledged[death.number] = time.monotonic()
        if death.retracted_after is not None:
            await asyncio.sleep(death.retracted_after)
            await self._deliver(hospital.retraction(death.number))
            self.evidence.retracted[death.number] = time.monotonic()

    async def _report(self, death: Death) -> None:
        """As a safety system does: again and again until it is accepted."""
        body = hospital.report(death.number, death.unit, death.people, death.reviewers)
        headers = {"Authorization": f"Bearer {hospital.BEARER}", "Idempotency-Key": f"D{death.number}"}
        await self._until(lambda: self._posted("incident", "/v1/incidents", headers, body))

    async def _posted(self, service: ServiceName, path: str, headers: dict[str, str], body: object = None) -> bool:
        try:
            answer = await self.world.http.post(self.world.url(service, path), headers=headers, json=body)
        except httpx.TransportError:
            return False
        return answer.is_success or answer.status_code == 409

    async def _until(self, work: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DRAIN):
            while True:
                async with self.crowd.calm.doing():
                    if await work():
                        return
                await asyncio.sleep(0.1)

    async def _act(self, act: Act) -> None:
        await asyncio.sleep(act.at)
        match act.kind:
            case "leave":
                began = time.monotonic()
                await self._until(lambda: self.world.import_without(act.who))
                contacts = hospital.contacts()
                self.evidence.left = {contacts[who]: (began, time.monotonic()) for who in act.who}
            case "again":
                await self._until(lambda: self.world.import_without(()))
            case "merge":
                await self._merge(act.number)
            case _:
                await self._reassign()

    async def _merge(self, number: int) -> None:
        """Once the death is known, its patient gets another number, under which the death is sent again."""
        death = next(one for one in self.plan.deaths if one.number == number)
        while number not in self.evidence.acknowledged:
            await asyncio.sleep(0.1)
        await self._deliver(hospital.merge(number))
        await self._deliver(hospital.death_again(number, death.unit, death.people))

    async def _reassign(self) -> None:
        """The coordinator tries again whatever is stuck, as far as the site is there."""
        headers = {"Authorization": f"Bearer {self.world.token}"}
        for _ in range(LOOKS):
            await asyncio.sleep(1.0)
            with contextlib.suppress(httpx.TransportError):
                url = self.world.url("matching", "/v1/cases?state=needs_attention")
                answer = await self.world.http.get(url, headers=headers)
                for case in answer.json()["items"] if answer.is_success else ():
                    async with self.crowd.calm.doing():
                        await self._posted("matching", f"/v1/cases/{case['case_ref']}/reassign", headers)

    async def _deliver(self, message: str) -> None:
        """Again and again until it is acknowledged, as an engine's queue would."""
        await self._until(lambda: AckReader(self.world.mllp_port).deliver(message))

    # --- the people ---

    async def _ask(self, after: float, address: str) -> None:
        await asyncio.sleep(after)
        mails = self._asking[address] = asyncio.Queue()
        self.evidence.asked[address] = time.monotonic()
        self._spawn(self.crowd.ask(address, self.world.url("notify", "/ask"), mails))

    def _arrived(self, arrival: Arrival) -> None:
        """What comes is answered by whoever it is for, each message once; a code goes to who waits for it."""
        if not arrival.link:
            if arrival.to in self._asking:
                self._asking[arrival.to].put_nowait(arrival.text)
            return
        known = self._questions[arrival.to]
        if arrival.key in known:
            return
        known.append(arrival.key)
        habit = self.plan.habit(arrival.to, len(known), supporter=arrival.to in self._supporters)
        answers = list(zip(habit.answers, habit.delays, strict=True))
        self._spawn(self.crowd.answer(arrival.to, arrival.key, arrival.link, answers))

    @property
    def _supporters(self) -> set[str]:
        return {hospital.contact(member) for member in hospital.helping()}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the end ---

    async def _come_to_rest(self) -> None:
        """Wait until nobody has anything left to do, twice in a row."""
        await asyncio.sleep(max(0.0, self._began + self.plan.linger - time.monotonic()))
        moved, calm, left = time.monotonic(), 0, [""]
        while calm < 2:
            await asyncio.sleep(LOOK_AGAIN)
            before, left = left, await self._left()
            calm = 0 if left else calm + 1
            if left != before:
                moved = time.monotonic()
            elif left and time.monotonic() > moved + STANDSTILL[self.plan.mode]:
                self.evidence.troubles.append(f"no rest: {left[:3]}")
                return

    async def _left(self) -> list[str]:
        """What somebody still has to do."""
        if self._tasks:
            return [f"{len(self._tasks)} people still at it"]
        return await self._due(glance=True) or await self._due(glance=False)

    async def _due(self, *, glance: bool) -> list[str]:
        at_rest = await self.world.at_rest(glance=glance)
        now = self.world.time.at(time.monotonic())
        return [*due(Books(Evidence(self.plan, self.world.time, at_rest=at_rest)), now)]

    async def _stop(self) -> None:
        """SIGTERM to all, which must end them well."""
        ends = await asyncio.gather(*(body.end() for body in self.bodies.values()))
        for name, code in zip(self.bodies, ends, strict=True):
            if code != 0:
                self.evidence.troubles.append(f"{name} ended with {code} on SIGTERM")


async def carry_out(world: World, plan: Plan, folder: Path) -> Outcome:
    """One run in a folder of its own, and what the checker says."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    await world.fresh(folder)
    world.time = HospitalTime(hospital.MORNING - timedelta(seconds=(world.startup + NIGHT_LASTS) * RATE))
    run = Run(world, plan, Evidence(plan, world.time))
    await run.go()
    hits = sum((world.hits(name) for name in plan.chains), Counter[str]())
    return Outcome(run.evidence, broken(run.evidence), time.monotonic() - began, hits, folder)

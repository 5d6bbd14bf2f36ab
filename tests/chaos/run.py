"""One run: the stream, the blows and the people at once, until everything has come to rest; then the checker."""

import asyncio
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from tests.chaos import hospital
from tests.chaos.bodies import Body
from tests.chaos.evidence import Evidence, Struck
from tests.chaos.hours import RATE, HospitalTime
from tests.chaos.outside import Arrival, nobody
from tests.chaos.people import Crowd
from tests.chaos.plan import SERVERS, Blow, Death, Mode, Plan
from tests.chaos.promises import Books, broken, due, in_the_window
from tests.chaos.worlds import World
from tests.e2e.harness import AckReader

# when those who sleep wake up, in seconds of the stream
NIGHT_LASTS: Final = 2.5
DRAIN: Final = 60.0
# seconds in which nothing changes although something is due; a member of a consumer group that is stuck takes 30
STANDSTILL: Final[dict[Mode, float]] = {"embedded": 6.0, "distributed": 45.0}
LOOK_AGAIN: Final = 0.4
KILLED: Final = -signal.SIGKILL


@dataclass(frozen=True)
class Outcome:
    """A finished run; `breaches` are the checker's lines."""

    evidence: Evidence
    breaches: list[str]
    seconds: float
    hits: Counter[str]
    folder: Path

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
        }
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        verdict = f"{len(self.breaches)} BREACHES" if self.breaches else "kept"
        return f"{plan.mode} seed {plan.seed}, {self.seconds:.1f} s: {verdict}; {told}; killed: {killed}"


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

    def __post_init__(self) -> None:
        self._missing = {name for name in self.plan.chains if name not in SERVERS}

    async def go(self) -> None:
        """Carry it out and fill the evidence."""
        loop = asyncio.get_running_loop()
        arrivals = self.world.around.arrivals
        arrivals.begin(lambda arrival: loop.call_soon_threadsafe(self._arrived, arrival))
        try:
            async with asyncio.TaskGroup() as group:
                for name, chain in self.plan.chains.items():
                    group.create_task(self._server(name, chain) if name in SERVERS else self._process(name, chain))
                group.create_task(self._stream())
            await self._come_to_rest()
            await self._stop()
        finally:
            arrivals.told = nobody
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.crowd.close()
            for body in self.bodies.values():
                await body.kill()
        self.evidence.arrivals, self.evidence.given = arrivals.all, self.crowd.given
        self.evidence.at_rest = await self.world.at_rest()

    # --- blows ---

    async def _process(self, name: str, chain: tuple[Blow, ...]) -> None:
        for blow in chain:
            before = self.world.hits(name)
            body = self.bodies[name] = await self.world.start(name, blow)
            await self._live(name, body, blow)
            early = not body.alive
            await body.kill()
            hit = [*(self.world.hits(name) - before).elements()]
            if early and body.gone.result() != KILLED:
                self.evidence.troubles.append(f"{name} ended by itself with {body.gone.result()}")
            self._struck(name, blow, hit[0] if early and hit else "moment")
            await asyncio.sleep(blow.pause)
            self.world.time.leap(blow.leap)
        self.bodies[name] = await self.world.start(name, None)
        await self._answers(name, self.bodies[name], "/readyz")

    async def _live(self, name: str, body: Body, blow: Blow) -> None:
        """Until it dies, or its time is over; in its first life it is ready before that."""
        first = not self._all_up.is_set()
        if not blow.newborn:
            await self._answers(name, body, "/readyz" if first else "/livez")
        if first and not blow.newborn:
            await self._either(self._all_up.wait(), body)
        await asyncio.wait([body.gone], timeout=blow.patience)
        self._up(name)

    async def _answers(self, name: str, body: Body, path: str) -> None:
        """Until it says that it is alive, or ready, or has died before."""
        began = time.monotonic()
        if await self._either(self.world.answers(name, path), body):
            self.world.startup = time.monotonic() - began
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
            await self.world.strike(name)
            self._struck(name, blow, "moment")

    def _struck(self, name: str, blow: Blow, how: str) -> None:
        self.evidence.struck.append(Struck(name, how, time.monotonic() - self._began, blow))

    # --- the stream ---

    async def _stream(self) -> None:
        await self._all_up.wait()
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for death in self.plan.deaths:
                group.create_task(self._die(death))
            for ask in self.plan.asks:
                group.create_task(self._ask(ask.at, hospital.contacts()[ask.who]))

    async def _die(self, death: Death) -> None:
        await asyncio.sleep(death.at)
        await self._deliver(hospital.death(death.number, death.unit, death.people))
        self.evidence.acknowledged[death.number] = time.monotonic()
        if death.retracted_after is not None:
            await asyncio.sleep(death.retracted_after)
            await self._deliver(hospital.retraction(death.number))
            self.evidence.retracted[death.number] = time.monotonic()

    async def _deliver(self, message: str) -> None:
        """Again and again until it is acknowledged, as an engine's queue would."""
        async with asyncio.timeout(DRAIN):
            while not await AckReader(self.world.mllp_port).deliver(message):
                await asyncio.sleep(0.1)

    # --- the people ---

    async def _ask(self, after: float, address: str) -> None:
        await asyncio.sleep(after)
        mails = self._asking[address] = asyncio.Queue()
        self._spawn(self.crowd.ask(address, self.world.url("notify", "/ask"), mails))

    def _arrived(self, arrival: Arrival) -> None:
        """The first message of a question is answered by whoever it is for; a code goes to who waits for it."""
        if not arrival.link:
            if arrival.to in self._asking:
                self._asking[arrival.to].put_nowait(arrival.text)
            return
        supporter = arrival.to in self._supporters
        known = self._questions[arrival.to]
        if arrival.key in known or (known and not supporter):
            return
        known.append(arrival.key)
        habit = self.plan.habit(arrival.to, len(known), supporter=supporter)
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

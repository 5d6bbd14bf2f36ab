"""What happens in a run, drawn from its seed: who dies where, who answers what, and what is killed when."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final, Literal, get_args

from leeward.settings import ServiceName
from tests.chaos import hospital
from tests.chaos.points import BY_NAME, POINTS, Point

Mode = Literal["embedded", "distributed"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)
SECONDS: Final = 4.0
DEATHS, TWICE, RETRACTED, ASKS = 16, 3, 3, 2
REVIEWED, REVIEWERS = 2, 5  # reports, and how many supporters look into each of them
PATIENCE: Final[Mapping[Mode, float]] = {"embedded": 2.5, "distributed": 6.0}
STRIDE: Final = 7
LONG_OFF: Final = timedelta(days=9)
SWEPT: Final[Mapping[Mode, int]] = {"embedded": 2, "distributed": 3}
REPLICAS: Final[dict[ServiceName, int]] = {"incident": 1, "matching": 2, "notify": 2, "issuer": 1}
SERVERS: Final = ("kafka", "postgresql")
# what is ill besides what dies: the mail server, the gateway, the disk, or a process that stands still
MANNERS: Final = ("later", "hang_up", "slow_dot", "silent", "busy", "cut", "slow")
FAULTS: Final[Mapping[Mode, tuple[str, ...]]] = {
    "embedded": ("stop", "full_disk", *MANNERS),
    "distributed": ("stop", *MANNERS),
}
PER_RUN: Final = 2
RESTORED: Final = 3  # the seeds that end in this have a backup and a restore
WRONG_CLOCK: Final[Mapping[int, timedelta]] = {5: timedelta(days=730), 7: -timedelta(hours=1)}
# what people do with an offer, in the order in which they do it, and how often
HABITS: Final[Mapping[tuple[str, ...], int]] = {
    (): 30,
    ("accept",): 20,
    ("accept", "check_ins"): 8,
    ("accept", "not_contacted"): 6,
    ("talk_now",): 3,
    ("accept", "talk_now"): 3,
    ("accept", "another"): 6,
    ("accept", "withdraw"): 6,
    ("another",): 4,
    ("another", "accept"): 4,
    ("no_thanks",): 10,
    ("no_thanks", "undo", "accept"): 4,
    ("not_now",): 6,
}
SUPPORT: Final[Mapping[tuple[str, ...], int]] = {
    ("confirm",): 25,
    ("confirm", "close"): 35,
    ("confirm", "hand_over"): 6,
    ("confirm", "urgent_help"): 4,
    ("pass",): 20,
    (): 10,
}
# what they do with a second message: where it asks how it was, some keep their place for a rating
AFTERWARDS: Final[Mapping[tuple[str, ...], int]] = {("keep",): 50, (): 50}
ON_CALL: Final[Mapping[tuple[str, ...], int]] = {("acknowledge",): 70, (): 30}


@dataclass(frozen=True)
class Death:
    """Somebody dies in a unit at a second of the stream; `people` are named, those on shift there are not.

    `retracted_after`: seconds between its acknowledgement and the word that it was none, None for never. With
    `reviewers` it comes as a report of the safety system, which names who looks into it: they neither hear nor help.
    """

    number: int
    at: float
    unit: str
    people: tuple[str, ...]
    retracted_after: float | None = None
    reviewers: tuple[str, ...] = ()

    @property
    def around(self) -> tuple[str, ...]:
        """Everybody to be reached."""
        return (*self.people, *hospital.crew(self.unit))


@dataclass(frozen=True)
class Ask:
    """Somebody asks by themselves."""

    at: float
    who: str


@dataclass(frozen=True)
class Act:
    """What others do: `leave` (a roster without these people is imported), `again` (the same roster is), `merge` (the
    patient of the death `number` gets another number, and the death is sent again under it), `reassign` (the
    coordinator tries again whatever stands on the list).
    """

    kind: str
    at: float
    who: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Blow:
    """The end of one process or server: at a fail-point's n-th passage, or at the latest after `patience` seconds.

    They count from when it listens, or from its very start (`newborn`). pause: seconds until it is started again.
    leap: by how much the hospital's time moves on meanwhile. wrong: by how much the clock of this life is wrong.
    restore: whether a backup is made before it, and put back after it.
    """

    point: str = ""
    passage: int = 1
    patience: float = 1.0
    pause: float = 0.0
    newborn: bool = False
    leap: timedelta = timedelta()
    wrong: timedelta = timedelta()
    restore: bool = False


@dataclass(frozen=True)
class Fault:
    """Something is ill for a while, from a second of the stream on; `name` is the process whose it is, if any."""

    kind: str
    at: float
    seconds: float
    name: str = ""


@dataclass(frozen=True)
class Habit:
    """What a recipient answers to the first message of a question, and how long they wait before each answer."""

    answers: tuple[str, ...]
    delays: tuple[float, ...]


@dataclass(frozen=True)
class Plan:
    """A run. `chains` are the blows that each process or server takes one after the other, by its name.

    linger: seconds from the beginning of the stream before which it is not over.
    """

    seed: int
    mode: Mode
    deaths: tuple[Death, ...]
    asks: tuple[Ask, ...]
    chains: Mapping[str, tuple[Blow, ...]]
    habits: Mapping[tuple[str, ...], int] = field(default_factory=lambda: HABITS)
    faults: tuple[Fault, ...] = ()
    acts: tuple[Act, ...] = ()
    linger: float = 0.0

    def habit(self, contact: str, question: int, *, supporter: bool) -> Habit:
        """How this contact treats its n-th question; drawn from the seed, whatever else happens."""
        chance = random.Random(f"{self.seed} {contact} {question}")
        weighed = SUPPORT if supporter else self.habits if question == 1 or self.habits != HABITS else AFTERWARDS
        if contact == hospital.PROFESSIONAL:
            weighed = ON_CALL
        answers = chance.choices(list(weighed), list(weighed.values()))[0]
        return Habit(answers, tuple(round(chance.uniform(0.0, 0.7), 3) for _ in answers))


def plan(seed: int, mode: Mode) -> Plan:
    """The same for the same seed."""
    chance = random.Random(f"{seed} {mode}")
    drawn = Plan(seed, mode, _deaths(chance), _asks(chance), chains(chance, seed, mode))
    if mode == "embedded" and seed % 10 == 0:
        return _switched_off(drawn)
    ill = replace(drawn, faults=_faults(chance, seed, mode), acts=_acts(chance, drawn.deaths))
    if mode == "embedded" and seed % 10 == RESTORED:
        first, *others = ill.chains["up"]
        return replace(ill, chains={"up": (first, replace(moment(chance), newborn=False, restore=True), *others)})
    return _wrong_clock(chance, ill) if mode == "embedded" and seed % 10 in WRONG_CLOCK else ill


def _acts(chance: random.Random, deaths: Sequence[Death]) -> tuple[Act, ...]:
    """Each once, some people and supporters leaving, a patient of a death that stands being merged."""
    stands = [death.number for death in deaths if death.retracted_after is None and not death.reviewers]
    people = chance.sample([member.staff_id for member in hospital.affected()], 2)
    helping = chance.sample([member.staff_id for member in hospital.helping()], 3)
    leave = Act(chance.choice(("leave", "again")), _moment(chance), (*people, *helping))
    merge = Act("merge", _moment(chance), number=chance.choice(stands))
    return leave, merge, Act("reassign", _moment(chance))


def _faults(chance: random.Random, seed: int, mode: Mode) -> tuple[Fault, ...]:
    """Consecutive seeds sweep through all kinds, besides the blows."""
    kinds = FAULTS[mode]
    names = ["up"] if mode == "embedded" else processes()
    drawn = [kinds[(seed * PER_RUN + n) % len(kinds)] for n in range(PER_RUN)]
    return tuple(
        Fault(kind, _moment(chance), round(chance.uniform(0.5, 2.0), 3), chance.choice(names)) for kind in drawn
    )


def _wrong_clock(chance: random.Random, drawn: Plan) -> Plan:
    """One life has a clock that is years ahead, as after a dead battery, or an hour behind."""
    chain = list(drawn.chains["up"])
    wrong = WRONG_CLOCK[drawn.seed % 10]
    chain.insert(min(1, len(chain)), Blow(patience=round(chance.uniform(0.5, 2.0), 3), wrong=wrong))
    return replace(drawn, chains={"up": tuple(chain)})


def _switched_off(drawn: Plan) -> Plan:
    """The first blow leaves the machine off for longer than the log is kept; nobody answers, lest much else falls due.

    Its consumers must still read what they had not when it went off.
    """
    first, *others = drawn.chains["up"]
    chain = (replace(first, leap=LONG_OFF), *others)
    return replace(drawn, asks=(), chains={"up": chain}, habits={(): 1})


def _deaths(chance: random.Random) -> tuple[Death, ...]:
    pool = [member.staff_id for member in hospital.affected()]
    chance.shuffle(pool)
    named = [tuple(pool.pop() for _ in range(chance.choice((1, 1, 2, 3)))) for _ in range(DEATHS)]
    named += [(chance.choice(chance.choice(named)), pool.pop()) for _ in range(TWICE)]
    units = [*(f"W{chance.randrange(hospital.WARDS)}" for _ in named), *(f"N{n}" for n in range(hospital.SHIFT_WARDS))]
    named += [()] * hospital.SHIFT_WARDS
    taken_back = set(chance.sample(range(len(named)), RETRACTED))
    helping = [member.staff_id for member in hospital.helping()]
    reports = [n for n, people in enumerate(named) if people and n not in taken_back][:REVIEWED]
    deaths = [
        Death(
            n,
            _moment(chance),
            unit,
            people,
            round(chance.uniform(0, 1.5), 3) if n in taken_back else None,
            (pool.pop(), *chance.sample(helping, REVIEWERS)) if n in reports else (),
        )
        for n, (unit, people) in enumerate(zip(units, named, strict=True))
    ]
    return tuple(sorted(deaths, key=lambda one: one.at))


def _asks(chance: random.Random) -> tuple[Ask, ...]:
    who = chance.sample([member.staff_id for member in hospital.asking()], ASKS)
    return tuple(Ask(round(chance.uniform(0, SECONDS / 2), 3), one) for one in who)


def _moment(chance: random.Random) -> float:
    return round(chance.uniform(0, SECONDS), 3)


def points_of(mode: Mode) -> list[Point]:
    """The fail-points that a mode has."""
    return [point for point in POINTS if mode == "distributed" or not point.distributed_only]


def chains(chance: random.Random, seed: int, mode: Mode) -> dict[str, tuple[Blow, ...]]:
    """Consecutive seeds sweep through all points; the rest is drawn."""
    names = [point.name for point in points_of(mode)]
    # neighbours belong to one service, whose processes are few
    swept = [names[STRIDE * (seed * SWEPT[mode] + n) % len(names)] for n in range(SWEPT[mode])]
    drawn = list(dict.fromkeys([*swept, chance.choice(names)]))
    chance.shuffle(drawn)
    return _embedded(chance, drawn) if mode == "embedded" else _distributed(chance, drawn)


def _embedded(chance: random.Random, drawn: Sequence[str]) -> dict[str, tuple[Blow, ...]]:
    """One after the other."""
    found: list[Blow] = []
    for name in drawn:
        if needed := BY_NAME[name].needs:
            found.append(Blow(needed, 1, PATIENCE["embedded"]))
        found.append(_at(chance, name, "embedded"))
    return {"up": (*found, moment(chance))}


def _distributed(chance: random.Random, drawn: Sequence[str]) -> dict[str, tuple[Blow, ...]]:
    """Side by side, in the first lives as far as there are processes: who comes back waits for its part of the log."""
    found: dict[str, list[Blow]] = {name: [] for name in processes()}
    for name in drawn:
        services = BY_NAME[name].services
        victims = [one for one in processes() if one.partition("-")[0] in services]
        if needed := BY_NAME[name].needs:
            # another replica finds what this one leaves
            dying = min(victims, key=lambda one: len(found[one]))
            found[dying].append(Blow(needed, 1, PATIENCE["distributed"]))
            victims.remove(dying)
        chance.shuffle(victims)
        found[min(victims, key=lambda one: len(found[one]))].append(_at(chance, name, "distributed"))
    spared = [one for one, blows in found.items() if not blows]
    if chance.random() < 0.5:
        found[chance.choice(spared or processes())].append(moment(chance))
    if chance.random() < 0.6:
        found[chance.choice(SERVERS)] = [moment(chance)]
    return {name: tuple(chain) for name, chain in found.items()}


def _at(chance: random.Random, name: str, mode: Mode) -> Blow:
    passage = 1 if BY_NAME[name].needs else chance.choice((1, 1, 2, 3, 5))
    return Blow(name, passage, PATIENCE[mode], _pause(chance))


def processes() -> list[str]:
    """The names of a distributed run's processes."""
    return [f"{service}-{number}" for service, count in REPLICAS.items() for number in range(count)]


def moment(chance: random.Random) -> Blow:
    """Any time, wherever it then is."""
    newborn = chance.random() < 0.3
    patience = chance.uniform(0.02, 0.5) if newborn else chance.uniform(0.02, 1.5)
    return Blow(patience=round(patience, 3), pause=_pause(chance), newborn=newborn)


def _pause(chance: random.Random) -> float:
    return chance.choice((0.0, 0.0, 0.1, 0.5))


# --- runs that show planted bugs ---


def revealing(bug: str, mode: Mode) -> Plan:
    """A run in which a bug cannot go unseen, and in which nothing is broken without it."""
    chance = random.Random(bug)
    shown = {
        "acknowledge_before_commit": ("incident-0", "accept.before_commit"),
        "offsets_before_commit": ("notify-0", "consume.in_transaction"),
    }
    if bug == "no_inbox":
        return _all_ask(mode)
    if bug == "reused_ids":
        return _long_pause()
    if bug in HABITS_FOR:
        quiet: dict[str, tuple[Blow, ...]] = _all_at(mode, "notify-0", [])
        deaths = tuple(replace(death, retracted_after=None) for death in _deaths(chance))
        return Plan(0, mode, deaths, (), quiet, {HABITS_FOR[bug]: 1}, linger=LINGER[mode])
    name, point = shown[bug]
    deaths = _deaths(chance)
    return Plan(
        0, mode, deaths, (), _all_at(mode, name, [Blow(point, passage, PATIENCE[mode]) for passage in (2, 3, 2)])
    )


# without a blow: what everybody answers, so that the bug shows
HABITS_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    "calls_go_on": ("talk_now",),
    "late_messages": (),
    "early_reminders": (),
    "reviewers_are_involved": (),
    "nobody_asks_how_it_goes": ("accept",),
    "places_are_not_given_back": ("accept", "another"),
}
LINGER: Final[Mapping[Mode, float]] = {"embedded": 20.0, "distributed": 20.0}


def _all_at(mode: Mode, name: str, blows: Sequence[Blow]) -> dict[str, tuple[Blow, ...]]:
    """These blows for one process, and none for the others."""
    if mode == "embedded":
        return {"up": tuple(blows)}
    return {one: tuple(blows) if one == name else () for one in processes()}


def _all_ask(mode: Mode) -> Plan:
    """Asking is what counts: each time it is heard a message leaves."""
    people = [member.staff_id for member in hospital.asking()]
    asks = tuple(Ask(round(n * SECONDS / len(people), 3), who) for n, who in enumerate(people))
    # a member of a group that comes back waits for its part of the log
    lives = (1.2, 0.9, 1.1) if mode == "embedded" else (4.0, 1.0, 1.0)
    falls = [Blow(patience=life) for life in lives]
    chains = _all_at(mode, "matching-0", falls)
    return Plan(0, mode, (), asks, {**chains, **({"matching-1": tuple(falls)} if mode == "distributed" else {})})


def _long_pause() -> Plan:
    """Switched off for nine days between two halves of a stream that nobody answers; in between the log is emptied."""
    people = [member.staff_id for member in hospital.affected()]
    first = [Death(n, n * 0.1, f"W{n}", (people[n],)) for n in range(6)]
    second = [Death(n, 9.0 + n * 0.1, f"W{n % 6}", (people[n],)) for n in range(6, 9)]
    chain = (Blow(patience=2.0, leap=LONG_OFF),)
    return Plan(0, "embedded", (*first, *second), (), {"up": chain}, habits={(): 1})

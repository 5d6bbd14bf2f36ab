"""Who may support whom, and who suits best: hard exclusions and an integer score with its reasons. No I/O.

Scores are integers and ties are broken by a digest of case and supporter, so the same input always gives the same
choice and equal supporters share the work evenly. Supporters are kept in classes of equal profession, unit and
languages; a person's ranking of the classes is worked out once a roster version, so one choice among thousands looks
at a handful of supporters.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Final

from leeward.settings.policy import Supporters

SAME_PROFESSION: Final = 40
SIMILAR_PROFESSION: Final = 20
OTHER_UNIT: Final = 30
FIRST_LANGUAGE: Final = 20
SHARED_LANGUAGE: Final = 10
ON_DUTY: Final = 8
A_CASE: Final = 12
A_PROPOSAL: Final = 4
AN_HOUR: Final = 5
_RANKINGS: Final = 4096

FAMILIES: Final[Mapping[str, frozenset[str]]] = {
    "nursing": frozenset({"nurse", "nursing", "midwife", "midwifery", "carer", "assistant"}),
    "medical": frozenset(
        [
            "physician",
            "doctor",
            "surgeon",
            "anaesthetist",
            "anesthesiologist",
            "resident",
            "consultant",
            "intensivist",
            "registrar",
            "medic",
        ]
    ),
    "therapy": frozenset({"physiotherapist", "therapist", "psychologist", "dietitian", "chaplain", "social"}),
    "technical": frozenset({"technician", "technologist", "radiographer", "paramedic", "perfusionist", "pharmacist"}),
    "support": frozenset({"porter", "clerk", "secretary", "cleaner", "housekeeping", "security", "administrator"}),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What makes two colleagues alike; languages in the order the roster gives them."""

    profession: str
    unit: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Supporter:
    """A trained peer as far as the roster tells; `ready` means on the roster, not paused, and reachable."""

    person_ref: str
    profile: Profile
    ready: bool = True
    trained_on: date | None = None
    training_ends: date | None = None
    max_active: int | None = None

    def trained(self, today: date) -> bool:
        """Whether training is done and has not expired; the day of expiry still counts.

        A roster may give either date alone: a day of expiry says that there was a training, and none says it lasts.
        """
        if self.trained_on is None and self.training_ends is None:
            return False
        begun = self.trained_on is None or self.trained_on <= today
        return begun and (self.training_ends is None or self.training_ends >= today)


@dataclass(frozen=True, slots=True)
class Workload:
    """What a supporter carries now; `resting` covers cool-down and an exposure of their own."""

    active: int = 0
    minutes: int = 0
    resting: bool = False
    proposals: int = 0

    @property
    def cost(self) -> int:
        return self.active * A_CASE + self.proposals * A_PROPOSAL + self.minutes * AN_HOUR // 60

    def with_one_more(self, *, takes_place: bool) -> "Workload":
        """The workload after one more choice: a case, or a proposal, which takes no place."""
        if takes_place:
            return Workload(self.active + 1, self.minutes, self.resting, self.proposals)
        return Workload(self.active, self.minutes, self.resting, self.proposals + 1)


_NOTHING: Final = Workload()


@dataclass(frozen=True, slots=True)
class Caps:
    """Limits of a site: cases at a time, minutes a month; `of` takes them from its policy."""

    active: int
    minutes: int

    @classmethod
    def of(cls, supporters: Supporters) -> "Caps":
        """The caps of a policy's section [supporters]."""
        return cls(supporters.active_cases, int(supporters.hours_a_month * 60))

    def allow(self, supporter: Supporter, load: Workload) -> bool:
        """Whether one more case is within the caps."""
        return not load.resting and load.active < self.most_active(supporter) and load.minutes < self.minutes

    def most_active(self, supporter: Supporter) -> int:
        """How many cases a supporter may have at a time; their own lower limit wins."""
        return self.active if supporter.max_active is None else min(self.active, supporter.max_active)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The choice: who, how well they suit, and why in codes."""

    person_ref: str
    score: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """One person's search.

    `barred` are those who never may: the person, same incident, line managers either way, reviewers, refused, already
    asked. `also_barred` decides what is known by digest alone.
    """

    key: str
    profile: Profile
    barred: Collection[str] = frozenset()
    also_barred: Callable[[str], bool] | None = None


@dataclass(slots=True)
class State:
    """What changes between two choices: today, the loads that are not zero, who is on duty, the caps."""

    today: date
    caps: Caps
    loads: dict[str, Workload] = field(default_factory=dict)
    on_duty: frozenset[str] = frozenset()

    def allows(self, supporter: Supporter) -> bool:
        """Whether the supporter's load leaves room for one more case."""
        return self.caps.allow(supporter, self.loads.get(supporter.person_ref, _NOTHING))


@lru_cache(maxsize=4096)
def family(profession: str) -> str:
    """The group of similar professions, or the profession itself where it belongs to none."""
    words = frozenset(profession.casefold().replace("-", " ").replace("/", " ").split())
    return next((name for name, members in FAMILIES.items() if words & members), profession.casefold())


def alike(person: Profile, supporter: Profile) -> tuple[int, tuple[str, ...]]:
    """The part of the score that the roster decides, with its reasons."""
    reasons: list[tuple[int, str]] = []
    if person.profession.casefold() == supporter.profession.casefold():
        reasons.append((SAME_PROFESSION, "same_profession"))
    elif family(person.profession) == family(supporter.profession):
        reasons.append((SIMILAR_PROFESSION, "similar_profession"))
    if person.unit != supporter.unit:
        reasons.append((OTHER_UNIT, "other_unit"))
    if person.languages and person.languages[0] in supporter.languages:
        reasons.append((FIRST_LANGUAGE, "first_language"))
    elif set(person.languages) & set(supporter.languages):
        reasons.append((SHARED_LANGUAGE, "shared_language"))
    return sum(points for points, _ in reasons), tuple(name for _, name in reasons)


Run = tuple[tuple[Supporter, ...], int, int]


@dataclass(frozen=True, slots=True)
class _Level:
    """Runs of supporters of equal score for one profile, and where each run ends when they stand in a row."""

    score: int
    runs: tuple[Run, ...]
    ends: tuple[int, ...]

    def turns(self, key: str) -> Iterator[Supporter]:
        """Every supporter once, beginning at a place that depends on the case alone: ties are even and repeatable."""
        start = int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) % self.ends[-1]
        first = bisect_right(self.ends, start)
        members, low, high = self.runs[first]
        middle = high - (self.ends[first] - start)
        turned = ((members, middle, high), *self.runs[first + 1 :], *self.runs[:first], (members, low, middle))
        return (run[place] for run, begin, end in turned for place in range(begin, end))


class Pool:
    """All supporters of one roster version, ready to be searched."""

    def __init__(self, supporters: Sequence[Supporter]) -> None:
        self.supporters = {s.person_ref: s for s in supporters}
        classes: defaultdict[tuple[str, tuple[str, ...]], list[Supporter]] = defaultdict(list)
        for supporter in sorted(supporters, key=lambda s: (s.profile.unit, s.person_ref)):
            if supporter.ready:
                classes[supporter.profile.profession, supporter.profile.languages].append(supporter)
        self._classes = [
            (Profile(profession, "", languages), tuple(members), _units(members))
            for (profession, languages), members in classes.items()
        ]
        self._levels_of = lru_cache(maxsize=_RANKINGS)(self._rank)

    def best(self, search: Search, state: State) -> Proposal | None:
        """The supporter who suits best among those who may; None when nobody may."""
        leading = self._best_on_duty(search, state)
        for level in self._levels_of(search.profile):
            if leading and leading[0] >= level.score:
                break
            plain, met = self._first_plain(level, search, state)
            if plain:
                return _proposal(search, plain, level.score, state)
            for supporter in met:
                leading = _better(leading, (level.score + _adjustment(supporter, state), supporter))
        return _proposal(search, leading[1], leading[0], state) if leading else None

    def proposal(self, search: Search, person_ref: str, state: State) -> Proposal | None:
        """This very supporter; None when they may not be chosen for the person."""
        supporter = self.supporters.get(person_ref)
        if supporter is None or not _may(search, supporter, state):
            return None
        score = alike(search.profile, supporter.profile)[0] + _adjustment(supporter, state)
        return _proposal(search, supporter, score, state)

    def _first_plain(self, level: _Level, search: Search, state: State) -> tuple[Supporter | None, list[Supporter]]:
        """The first in turn without load or duty, who has the level's own score; else all others who may."""
        met: list[Supporter] = []
        for supporter in level.turns(search.key):
            special = supporter.person_ref in state.loads or supporter.person_ref in state.on_duty
            if not _may(search, supporter, state):
                continue
            if not special:
                return supporter, met
            met.append(supporter)
        return None, met

    def _best_on_duty(self, search: Search, state: State) -> tuple[int, Supporter] | None:
        leading: tuple[int, Supporter] | None = None
        for person_ref in sorted(state.on_duty & self.supporters.keys()):
            supporter = self.supporters[person_ref]
            if _may(search, supporter, state):
                score = alike(search.profile, supporter.profile)[0] + _adjustment(supporter, state)
                leading = _better(leading, (score, supporter))
        return leading

    def _rank(self, person: Profile) -> tuple[_Level, ...]:
        levels: defaultdict[int, list[Run]] = defaultdict(list)
        elsewhere = replace(person, unit="elsewhere")
        for profile, members, units in self._classes:
            score, _ = alike(elsewhere, profile)
            low, high = units.get(person.unit, (0, 0))
            levels[score] += [(members, 0, low), (members, high, len(members))]
            levels[score - OTHER_UNIT].append((members, low, high))
        return tuple(
            _Level(score, runs, tuple(accumulate(high - low for _, low, high in runs)))
            for score, found in sorted(levels.items(), reverse=True)
            if (runs := tuple(run for run in found if run[1] < run[2]))
        )


def _units(members: Sequence[Supporter]) -> dict[str, tuple[int, int]]:
    """Where each unit's run begins and ends among members ordered by unit."""
    spans: dict[str, tuple[int, int]] = {}
    for place, supporter in enumerate(members):
        unit = supporter.profile.unit
        spans[unit] = (spans.get(unit, (place, 0))[0], place + 1)
    return spans


def _may(search: Search, supporter: Supporter, state: State) -> bool:
    ref = supporter.person_ref
    if ref in search.barred or not supporter.ready or not supporter.trained(state.today):
        return False
    if not state.allows(supporter):
        return False
    return search.also_barred is None or not search.also_barred(ref)


def _adjustment(supporter: Supporter, state: State) -> int:
    load = state.loads.get(supporter.person_ref, _NOTHING)
    return (ON_DUTY if supporter.person_ref in state.on_duty else 0) - load.cost


def _better(one: tuple[int, Supporter] | None, other: tuple[int, Supporter]) -> tuple[int, Supporter]:
    """The first one stays on a tie."""
    return other if one is None or other[0] > one[0] else one


def _proposal(search: Search, supporter: Supporter, score: int, state: State) -> Proposal:
    _, reasons = alike(search.profile, supporter.profile)
    duty = ("on_duty",) if supporter.person_ref in state.on_duty else ()
    light = ("light_load",) if state.loads.get(supporter.person_ref, _NOTHING).cost == 0 else ()
    return Proposal(supporter.person_ref, score, (*reasons, *duty, *light))

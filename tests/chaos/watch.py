"""What is looked at while a run goes on: whether the machine gives it time, what is away, what supporters carry."""

import threading
import time
from collections import Counter
from typing import Final

from services.matching.lifecycle.case import OVER
from tests.chaos import hospital
from tests.chaos.evidence import AtRest

BEAT: Final = 0.02
LOOK: Final = 0.5


class Pulse:
    """A thread that wants to run every 20 ms; `lag` is the longest that the machine kept it waiting, in seconds."""

    def __init__(self) -> None:
        self.lag = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        last = time.monotonic()
        while not self._over.wait(BEAT):
            now = time.monotonic()
            self.lag, last = max(self.lag, now - last - BEAT), now

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


class Absences:
    """Since when something was not there, and the spans in which anything was not."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, float]] = []
        self._away: Counter[str] = Counter()
        self._since = 0.0

    def gone(self, name: str) -> None:
        if not self._away:
            self._since = time.monotonic()
        self._away[name] = 1

    def back(self, name: str) -> None:
        if self._away.pop(name, 0) and not self._away:
            self.spans.append((self._since, time.monotonic()))

    def end(self) -> None:
        for name in list(self._away):
            self.back(name)


def overburdened(found: AtRest, *, one_moment: bool) -> list[str]:
    """Supporters who carry more than they may; with `one_moment` also those who carry other than the cases say."""
    held = Counter(row["supporter"] for row in found.rows("matching", "support_case") if row["supporter"])
    faults = [f"a supporter has {count} cases at once" for count in held.values() if count > hospital.CAPACITY]
    loads = {row["supporter_ref"]: row["active"] for row in found.rows("matching", "load")}
    faults += [f"a supporter carries {count} at once" for count in loads.values() if count > hospital.CAPACITY]
    if one_moment:
        wrong = [who for who in held.keys() | loads.keys() if held[who] != loads.get(who, 0)]
        faults += ["what a supporter carries is not what the cases say"] * len(wrong)
    people = Counter(
        row["person_ref"]
        for row in found.rows("matching", "support_case")
        if row["person_ref"] and row["stage"] not in OVER
    )
    return faults + ["somebody has two open cases at once" for count in people.values() if count > 1]

"""The hospital's time: one clock for all processes of a run, over their restarts, faster than the machine's."""

import time
from datetime import datetime, timedelta
from typing import Final

RATE: Final = 60.0


class HospitalTime:
    """Begins now, at `start`, and runs at `RATE`; `leap` moves it on for whoever is started after that."""

    def __init__(self, start: datetime) -> None:
        self.start = start
        self.origin = time.monotonic()
        self._leaps: list[tuple[float, timedelta]] = []

    def at(self, moment: float) -> datetime:
        """The hospital's time at a moment of the machine's monotonic clock."""
        leapt = sum((span for when, span in self._leaps if when <= moment), timedelta())
        return self.start + leapt + timedelta(seconds=(moment - self.origin) * RATE)

    def when(self, moment: datetime) -> float:
        """The machine's monotonic clock at a moment of the hospital's time; within a leap, the moment it was made."""
        for made, _ in self._leaps:
            if moment <= self.at(made):
                break
        else:
            made = float("inf")
        before = sum((span for when, span in self._leaps if when < made), timedelta())
        return min(made, self.origin + (moment - self.start - before).total_seconds() / RATE)

    def leap(self, span: timedelta) -> None:
        if span:
            self._leaps.append((time.monotonic(), span))

    def variables(self, wrong: timedelta = timedelta()) -> dict[str, str]:
        """For a process that starts now, with a clock that is wrong by so much."""
        start = self.start + sum((span for _, span in self._leaps), timedelta()) + wrong
        clock = f"{start:%Y-%m-%dT%H:%M:%SZ}*{RATE}"
        return {"LEEWARD_CLOCK": clock, "CHAOS_CLOCK": f"{clock}@{self.origin}"}

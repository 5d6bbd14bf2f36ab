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

    def leap(self, span: timedelta) -> None:
        if span:
            self._leaps.append((time.monotonic(), span))

    def variables(self) -> dict[str, str]:
        """For a process that starts now."""
        start = self.start + sum((span for _, span in self._leaps), timedelta())
        clock = f"{start:%Y-%m-%dT%H:%M:%SZ}*{RATE}"
        return {"LEEWARD_CLOCK": clock, "CHAOS_CLOCK": f"{clock}@{self.origin}"}

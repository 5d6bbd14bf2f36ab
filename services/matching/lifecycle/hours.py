"""Times by the clock on a person's wall: timers that run in certain hours only, and holds around shifts. No I/O."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

AFTER_SHIFT: Final = timedelta(minutes=30)
AFTER_NIGHT: Final = timedelta(hours=8)
# shifts that begin later cannot lengthen a hold that is still worth waiting for
LOOK_AHEAD: Final = timedelta(days=4)
_DEEP_NIGHT: Final = time(3)

Span = tuple[time, time]
Shift = tuple[datetime, datetime]


@lru_cache(maxsize=512)
def zone(name: str) -> ZoneInfo:
    """The IANA zone of that name."""
    return ZoneInfo(name)


def inside(moment: datetime, hours: Span | None, timezone: str) -> bool:
    """Whether an aware time falls into daily hours (None: always); the start counts, the end does not."""
    if hours is None:
        return True
    local = moment.astimezone(zone(timezone)).time()
    start, end = hours
    if start <= end:
        return start <= local < end
    return local >= start or local < end


def after_open_time(start: datetime, length: timedelta, hours: Span | None, timezone: str) -> datetime:
    """When `length` of time inside the daily hours has passed since `start`; aware in, aware UTC out."""
    if hours is None or hours[0] == hours[1]:
        return start + length
    moment, left = start.astimezone(UTC), length
    while True:
        if not inside(moment, hours, timezone):
            moment = _next(moment, hours[0], timezone)
        closes = _next(moment, hours[1], timezone)
        if moment + left <= closes:
            return moment + left
        left -= closes - moment
        moment = closes


def _next(moment: datetime, wall: time, timezone: str) -> datetime:
    """The first time after `moment` at which the clock shows `wall`."""
    local = moment.astimezone(zone(timezone))
    for days in range(3):
        candidate = datetime.combine(local.date() + timedelta(days=days), wall, zone(timezone)).astimezone(UTC)
        if candidate > moment:
            return candidate
    raise ValueError("no such time of day")


def night(shift: Shift, timezone: str) -> bool:
    """Whether a shift covers three in the morning: whoever works then sleeps after it."""
    start = shift[0].astimezone(zone(timezone))
    deep = datetime.combine(start.date(), _DEEP_NIGHT, zone(timezone))
    if deep < start:
        deep += timedelta(days=1)
    return deep < shift[1]


def hold_until(now: datetime, shifts: Iterable[Shift], timezone: str) -> datetime | None:
    """Until when a message waits for somebody on shift (aware UTC), None for no hold.

    30 minutes after a shift's end, 8 hours after a night shift's, and on through shifts that begin meanwhile.
    """
    until = now
    for shift in sorted(shifts):
        rested = shift[1] + (AFTER_NIGHT if night(shift, timezone) else AFTER_SHIFT)
        if shift[0] <= until < rested:
            until = rested
    return until if until > now else None

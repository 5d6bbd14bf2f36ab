"""When a message may leave: quiet hours in the recipient's own zone, jitter, holds. Pure; aware UTC in and out."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from leeward.settings.policy import Hours

FALLBACK_ZONE: Final = "UTC"
_BOTH: Final = 4  # looks


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What is known of one message before it is scheduled.

    `luck` is in [0, 1), drawn from the message itself, so that a restart draws the same.
    """

    timezone: str
    urgent: bool
    not_before: datetime | None
    luck: float


def due_at(
    departure: Departure, quiet: Hours | None, jitter: timedelta, now: datetime, ahead: timedelta = timedelta()
) -> datetime:
    """The earliest time the message leaves. Urgent ones leave now; the others never in quiet hours.

    Jitter keeps routine mail from following an event in lockstep, at the end of a night as well. `ahead`: see
    `when_open`.
    """
    if departure.urgent:
        return now
    spread = jitter * departure.luck
    start = max(now, departure.not_before or now) + spread
    opened = when_open(start, quiet, departure.timezone, ahead)
    return opened if opened == start else when_open(opened + spread, quiet, departure.timezone, ahead)


def when_open(moment: datetime, quiet: Hours | None, timezone: str, ahead: timedelta) -> datetime:
    """The first time from a moment on that is in no quiet hours.

    `ahead` is how much later it is by a clock that is doubted: as long as nobody knows which of the two is right, it is
    night while it is night by either. Where they leave no hour open, the time that goes on decides.
    """
    first = opened = after_quiet(moment, quiet, timezone)
    if not ahead:
        return opened
    for _ in range(_BOTH):
        opened = after_quiet(opened + ahead, quiet, timezone) - ahead
        if (again := after_quiet(opened, quiet, timezone)) == opened:
            return opened
        opened = again
    return first


def after_quiet(moment: datetime, quiet: Hours | None, timezone: str) -> datetime:
    """The moment itself, or the end of the quiet hours it falls in.

    Compared by wall clock: in the hour that a change of clocks skips or repeats, nothing leaves that would be at night
    by the clock on the recipient's wall.
    """
    if quiet is None:
        return moment
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        zone = ZoneInfo(FALLBACK_ZONE)
    local = moment.astimezone(zone)
    if not quiet.contains(local.time()):
        return moment
    day = local.date() if local.time() < quiet.end else local.date() + timedelta(days=1)
    end = datetime.combine(day, quiet.end, zone).astimezone(UTC)
    if end < moment:
        # the clocks repeat this hour, and its first pass is over
        end = datetime.combine(day, quiet.end, zone).replace(fold=1).astimezone(UTC)
    # an end that the clocks skip comes out behind the jump, where a long night may have begun again
    while quiet.contains(end.astimezone(zone).time()):
        end += timedelta(minutes=15)
    return end

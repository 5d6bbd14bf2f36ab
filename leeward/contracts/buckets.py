"""15-minute buckets: no event tells a time that could be matched with a clock on a ward."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime

BUCKET: Final = timedelta(minutes=15)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def bucket_down(moment: datetime) -> datetime:
    """The start of the bucket an aware time falls in, in UTC."""
    return moment.astimezone(UTC) - (moment - _EPOCH) % BUCKET


def bucket_up(moment: datetime) -> datetime:
    """The first bucket's start that is not before an aware time, in UTC."""
    return bucket_down(moment + BUCKET - timedelta(microseconds=1))


def _whole(moment: datetime) -> datetime:
    if (moment - _EPOCH) % BUCKET:
        raise ValueError("a time in an event is a multiple of 15 minutes")
    # an offset would tell where the sender is
    return moment.astimezone(UTC)


Bucketed = Annotated[AwareDatetime, AfterValidator(_whole)]

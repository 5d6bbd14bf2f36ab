"""When a message may leave, in the recipient's own zone, across changes of clocks."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from leeward.settings.policy import Hours
from services.notify.delivery.schedule import Departure, after_quiet, due_at, when_open

NIGHT = Hours(start=time(21), end=time(8))
JITTER = timedelta(minutes=15)
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"]
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
nights = st.builds(Hours, start=st.times(), end=st.times()).filter(lambda night: night.start != night.end)


def request(zone: str = "Europe/Berlin", **given_values: object) -> Departure:
    values: dict[str, object] = {"timezone": zone, "urgent": False, "not_before": None, "luck": 0.0}
    return Departure(**{**values, **given_values})  # type: ignore[arg-type]


@given(moments, st.sampled_from(ZONES), nights)
def test_nothing_leaves_at_night_and_nothing_waits_longer_than_the_night(
    moment: datetime, zone: str, night: Hours
) -> None:
    leaves = after_quiet(moment, night, zone)
    assert not night.contains(leaves.astimezone(ZoneInfo(zone)).time())
    assert moment <= leaves <= moment + timedelta(hours=49)
    if not night.contains(moment.astimezone(ZoneInfo(zone)).time()):
        assert leaves == moment


@given(moments, st.sampled_from(ZONES), st.floats(0, 1, exclude_max=True))
def test_jitter_spreads_but_never_into_the_night(moment: datetime, zone: str, luck: float) -> None:
    due = due_at(request(zone, luck=luck), NIGHT, JITTER, moment)
    assert due >= moment + JITTER * luck
    assert not NIGHT.contains(due.astimezone(ZoneInfo(zone)).time())


def test_at_eleven_at_night_it_waits_until_eight_by_the_wall_clock() -> None:
    # clocks go back at 3:00 on 25 October 2026: the night is an hour longer
    eleven = datetime(2026, 10, 24, 21, tzinfo=UTC)
    assert after_quiet(eleven, NIGHT, "Europe/Berlin") == datetime(2026, 10, 25, 7, tzinfo=UTC)
    # and forward at 2:00 on 28 March 2027: an hour shorter
    assert after_quiet(datetime(2027, 3, 27, 22, tzinfo=UTC), NIGHT, "Europe/Berlin") == datetime(
        2027, 3, 28, 6, tzinfo=UTC
    )


def test_an_end_that_the_clocks_skip_is_not_taken_for_the_night() -> None:
    night = Hours(start=time(22), end=time(2, 30))
    leaves = after_quiet(datetime(2027, 3, 28, 0, 30, tzinfo=UTC), night, "Europe/Berlin")
    assert leaves.astimezone(ZoneInfo("Europe/Berlin")).time() >= time(3)


def test_in_the_repeated_hour_the_wall_clock_counts() -> None:
    night = Hours(start=time(22), end=time(2, 30))
    second_pass = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 2:10 for the second time in Berlin
    assert after_quiet(second_pass, night, "Europe/Berlin") == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_a_short_day_that_the_clocks_skip_is_missed_and_the_next_one_taken() -> None:
    night = Hours(start=time(3, 15), end=time(2, 30))
    before = datetime(2027, 3, 27, 12, tzinfo=UTC)
    assert after_quiet(before, night, "Europe/Berlin") == datetime(2027, 3, 29, 0, 30, tzinfo=UTC)


def test_urgent_leaves_now_whatever_the_hour_and_the_hold() -> None:
    midnight = datetime(2026, 11, 21, 0, tzinfo=UTC)
    held = request(urgent=True, not_before=midnight + timedelta(hours=5), luck=0.9)
    assert due_at(held, NIGHT, JITTER, midnight) == midnight


def test_not_before_is_kept() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    assert due_at(request(not_before=noon + timedelta(hours=2)), NIGHT, JITTER, noon) == noon + timedelta(hours=2)
    assert due_at(request(not_before=noon - timedelta(hours=2)), NIGHT, JITTER, noon) == noon


def test_after_a_night_not_everybody_is_written_to_on_the_stroke() -> None:
    midnight = datetime(2026, 11, 21, 0, tzinfo=UTC)
    due = {due_at(request(luck=n / 10), NIGHT, JITTER, midnight) for n in range(10)}
    assert len(due) == 10


def test_no_quiet_hours_no_waiting() -> None:
    midnight = datetime(2026, 11, 21, 0, tzinfo=UTC)
    assert due_at(request(luck=0.5), None, timedelta(0), midnight) == midnight


def test_while_the_clock_is_doubted_it_is_night_while_it_is_night_by_either() -> None:
    afternoon, eleven_hours = datetime(2026, 11, 21, 15, tzinfo=UTC), timedelta(days=5, hours=11)
    leaves = when_open(afternoon, NIGHT, "UTC", eleven_hours)
    # two in the morning by the other clock
    assert not NIGHT.contains(leaves.time())
    assert not NIGHT.contains((leaves + eleven_hours).time())
    assert when_open(afternoon, NIGHT, "UTC", timedelta(days=5)) == afternoon


def test_where_two_clocks_leave_no_hour_open_the_time_that_goes_on_decides() -> None:
    long_night = Hours(start=time(10), end=time(8))
    nine = datetime(2026, 11, 21, 9, tzinfo=UTC)
    assert when_open(nine, long_night, "UTC", timedelta(days=3, hours=12)) == nine

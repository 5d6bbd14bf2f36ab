"""A month at the edges of time zones, played by matching's and notify's own code over real stores, on a fake clock.

Offers, holds after duties, reminders and supporters' hours, where a day has 23, 23.5, 24.5 or 25 hours, and where it
begins fourteen hours before UTC or nine and a half after. What is right is reckoned minute by minute, by wall clocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest

from leeward.contracts import Event, MessageCancelled, MessageRequested
from leeward.people import Member
from leeward.settings.policy import Hours
from leeward.store import Store
from leeward.testing import ManualClock, member
from services.matching import build
from services.matching.models import METADATA as MATCHING
from services.matching.site import site_of
from services.notify.channels import registry
from services.notify.delivery import repository
from services.notify.delivery.deliveries import Outgoing
from services.notify.delivery.queue import Claims
from services.notify.delivery.repository import DeliveryChange
from services.notify.delivery.state import Delivery
from services.notify.links import seals
from services.notify.models import METADATA as NOTIFY
from services.notify.questions.requests import Handlers
from services.notify.recipients import importing
from tests.conftest import MakeContext
from tests.services.matching.hospital import Hospital, supporter, with_policy

ZONES = (
    "Pacific/Kiritimati",
    "Pacific/Marquesas",
    "America/St_Johns",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "America/New_York",
)
QUIET, JITTER, ANSWERED = Hours(start=time(21), end=time(8)), timedelta(minutes=15), (time(8), time(20))
MINUTE, REMINDER, CONFIRM = timedelta(minutes=1), timedelta(hours=72), timedelta(hours=4)
# in October and November clocks change in Lord Howe, Berlin, New York and St. John's; in March and April again
AUTUMN, SPRING = datetime(2026, 10, 3, 9, tzinfo=UTC), datetime(2027, 3, 12, 9, tzinfo=UTC)
CHANGES = {
    AUTUMN: (
        datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, tzinfo=UTC),
        datetime(2026, 11, 1, 6, tzinfo=UTC),
    ),
    SPRING: (
        datetime(2027, 3, 14, 7, tzinfo=UTC),
        datetime(2027, 3, 28, 1, tzinfo=UTC),
        datetime(2027, 4, 3, 15, tzinfo=UTC),
    ),
}
# of the outcomes around a change of clocks; each hits somebody in every zone
BEFORE = (timedelta(hours=31), timedelta(hours=8), timedelta(minutes=20), timedelta(hours=-5))


@dataclass(frozen=True)
class Arrival:
    """A message that left, when it was asked for, and when it left."""

    request: MessageRequested
    asked: datetime
    at: datetime


@dataclass
class Month:
    """A hospital, and the queue of its messages: what is due is handed over at once."""

    hospital: Hospital
    handlers: Handlers
    outgoing: Outgoing
    store: Store
    clock: ManualClock
    zones: dict[str, str] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    asked: dict[str, tuple[MessageRequested, datetime]] = field(default_factory=dict)
    leaving: list[Delivery] = field(default_factory=list)
    seen: int = 0
    called_off: int = 0

    async def people(self, *members: Member) -> None:
        self.zones |= {one.display_name: one.timezone for one in members}
        await self.hospital.staff(*members)
        await self.store.write(lambda unit: importing.apply(unit, members))

    async def until(self, end: datetime) -> None:
        """Let time pass from one thing that is due to the next."""
        while True:
            await self.hand_over()
            now = self.clock.now()
            if now >= end:
                return
            wake = await self.store.read(lambda conn: repository.next_wake(conn, ["email"]))
            timer = await self.hospital.context.store.read(self.hospital._next_due)
            due = [moment for moment in (wake, timer, now + timedelta(hours=8)) if moment]
            target = max(now + timedelta(seconds=1), min(end, *due))
            await self.hospital.forward(seconds=(target - now).total_seconds())

    async def hand_over(self) -> None:
        new, self.seen = self.hospital.sent[self.seen :], len(self.hospital.sent)
        ended, self.called_off = self.hospital.cancelled[self.called_off :], len(self.hospital.cancelled)
        self.asked |= {one.request_ref: (one, self.clock.now()) for one in new}
        if ended:
            over = [Event(str(uuid4()), ref, MessageCancelled(request_ref=ref), self.clock.now()) for ref in ended]
            await self.store.write(lambda unit: self.handlers.cancel_messages(unit, over))
        if new:
            events = [Event(str(uuid4()), one.key, one, self.clock.now()) for one in new]
            await self.store.write(lambda unit: self.handlers.send_messages(unit, events))
        claims = Claims(self.outgoing)
        _, claimed = await self.store.write(lambda unit: claims.claim_due(unit, "email", 256))
        gone, self.leaving = [*self.leaving, *claimed], []
        for one in gone:
            await self.record(one)

    async def record(self, one: Delivery) -> None:
        now = self.clock.now()
        change = DeliveryChange(one.key, "handed_off", 1, 0, now, now, self.outgoing.run, now)
        await self.store.write(lambda unit: repository.record_changes(unit.conn, [change]))
        request, asked = self.asked[one.request_ref]
        self.arrivals.append(Arrival(request, asked, now))
        await self.hospital.outcome(request)

    def requests(self, case_ref: str) -> list[MessageRequested]:
        """Those of a case to supporters, in order."""
        return [one for one in self.hospital.sent if (one.case_ref, one.template) == (case_ref, "supporter_request")]

    def to(self, name: str) -> list[Arrival]:
        recipient = member(name).recipient_ref
        return [one for one in self.arrivals if one.request.recipient_ref == recipient]


@pytest.fixture
def month(make_context: MakeContext, clock: ManualClock) -> Month:
    policy = {"outreach": {"mode": "live", "cover_every": None, "quiet_hours": QUIET, "jitter": JITTER}}
    matching, notify = make_context("matching", MATCHING), make_context("notify", NOTIFY)
    matching = replace(matching, settings=with_policy(matching.settings, **policy))
    notify = replace(notify, settings=with_policy(notify.settings, **policy))
    channels = [entry for entry in registry.CHANNELS if entry.name == "email"]
    outgoing = Outgoing(notify.settings, channels, seals(notify.keys), "run")
    hospital = Hospital(matching, clock, site_of(matching.settings, matching.keys), build(matching))
    made = Month(hospital, Handlers(outgoing, outgoing.seals), outgoing, notify.store, clock)
    outgoing.room = lambda _channel: 256
    outgoing.put = lambda begun: made.leaving.extend(begun)
    return made


def is_within(moment: datetime, hours: tuple[time, time], zone: str) -> bool:
    """By the clock on the wall; hours may pass midnight."""
    wall, (start, end) = moment.astimezone(ZoneInfo(zone)).time(), hours
    return start <= wall < end if start <= end else wall >= start or wall < end


def open_from(moment: datetime, zone: str) -> datetime:
    """The first minute that is in no quiet hours."""
    while is_within(moment, (QUIET.start, QUIET.end), zone):
        moment += MINUTE - timedelta(seconds=moment.second, microseconds=moment.microsecond)
    return moment


def latest(moment: datetime, zone: str) -> datetime:
    """When a message that may leave from a moment on has left: twice jittered at most, and never at night."""
    return open_from(open_from(moment, zone) + 2 * JITTER, zone) + 2 * JITTER + MINUTE


def open_minutes(start: datetime, end: datetime, zone: str) -> int:
    """How many minutes between two times are in the hours in which supporters answer."""
    count = round((end - start) / MINUTE)
    return sum(is_within(start + n * MINUTE, ANSWERED, zone) for n in range(count))


@pytest.mark.long
@pytest.mark.parametrize("begins", [AUTUMN, SPRING], ids=["autumn", "spring"])
async def test_nothing_comes_at_night_nor_early_nor_late(month: Month, clock: ManualClock, begins: datetime) -> None:
    await clock.advance(seconds=(begins - clock.now()).total_seconds())
    hits = sorted(change - before for change in CHANGES[begins] for before in BEFORE)
    hits = [hit for hit in hits if hit >= begins]
    names = {(zone, n): f"p{z}-{n}" for z, zone in enumerate(ZONES) for n in range(len(hits))}
    await month.people(
        *(member(name, timezone=zone) for (zone, _), name in names.items()),
        *(supporter(f"s{z}-{n}", timezone=zone) for z, zone in enumerate(ZONES) for n in range(3)),
    )
    released: dict[str, datetime] = {}
    await month.hospital.start()
    for n, hit in enumerate(hits):
        await month.until(hit)
        for zone in ZONES:
            if n % 3 == 0:  # on duty for two hours yet, so that the offer waits half an hour more
                ends = clock.now() + timedelta(hours=2)
                await month.hospital.duty("ICU", names[zone, n], ends - timedelta(hours=4), 4)
                released[names[zone, n]] = ends + timedelta(minutes=30)
            await month.hospital.incident(names[zone, n], unit="none")
        await month.until(clock.now() + MINUTE)
    await month.until(clock.now() + timedelta(days=5))
    for (zone, n), name in names.items():
        check_person(month.to(name), zone, max(hits[n], released.get(name, hits[n])))


def check_person(arrivals: Sequence[Arrival], zone: str, earliest: datetime) -> None:
    """One offer, one reminder, each by day, not before its time and not long after."""
    offer, reminder = arrivals
    assert (offer.request.step, reminder.request.step) == ("offer", "reminder")
    for one, starts in ((offer, max(earliest, offer.request.not_before or earliest)), (reminder, offer.at + REMINDER)):
        assert not is_within(one.at, (QUIET.start, QUIET.end), zone), f"at night in {zone}: {one.at}"
        assert one.at >= starts, f"early in {zone}"
        assert one.at <= latest(starts + timedelta(seconds=1), zone), f"late in {zone}"


@pytest.mark.long
@pytest.mark.parametrize("begins", [AUTUMN, SPRING], ids=["autumn", "spring"])
async def test_a_supporter_has_four_of_their_own_hours(month: Month, clock: ManualClock, begins: datetime) -> None:
    await clock.advance(seconds=(begins - clock.now()).total_seconds())
    asking = [change - before for change in CHANGES[begins] for before in BEFORE if change - before >= begins]
    people = [member(f"p{n}") for n in range(len(asking))]
    await month.people(
        *people, *(supporter(f"s{z}-{n}", timezone=zone) for z, zone in enumerate(ZONES) for n in range(6))
    )
    await month.hospital.start()
    for person, moment in zip(people, sorted(asking), strict=True):
        await month.until(moment)
        await month.hospital.incident(person.display_name, unit="none")
        offer = month.hospital.last(person.display_name)
        await month.hospital.answer(offer, "accept", when="hours")
        [waiting] = month.requests(offer.case_ref)
        began = clock.now()
        case = await month.hospital.case_of(person.display_name)
        assert case.confirm_by is not None
        zone = month.zones[month.hospital.names[waiting.recipient_ref]]
        assert open_minutes(began, case.confirm_by, zone) == CONFIRM / MINUTE
        assert is_within(case.confirm_by - MINUTE, ANSWERED, zone)
        await month.hospital.forward(seconds=(case.confirm_by - began).total_seconds() - 1)
        assert month.requests(offer.case_ref) == [waiting], "not a second early"
        await month.hospital.forward(seconds=1)
        assert len(month.requests(offer.case_ref)) == 2

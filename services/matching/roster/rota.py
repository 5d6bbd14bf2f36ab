"""The rota from iCalendar (RFC 5545): who is on shift where and when. Applied whole or not at all."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import recurring_ical_events
from icalendar import Calendar

from leeward.people import WIDEST
from leeward.store import Unit
from services.matching.roster import queries

STAFF: Final = "urn:leeward:staff:"
MAIL: Final = "mailto:"
BACK: Final = timedelta(days=15)
AHEAD: Final = timedelta(days=120)
LONGEST: Final = timedelta(days=3)

# from a staff_id or a mail address to a person_ref; None when the roster has no such member
LookUp = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Duty:
    """One person on shift in one unit; aware UTC times."""

    unit: str
    person_ref: str
    starts_at: datetime
    ends_at: datetime
    on_call: bool = False


@dataclass(frozen=True, slots=True)
class RotaFault:
    """One thing wrong with a file: the event (1 is the first VEVENT), the property, the rule; never the value."""

    event: int
    property: str
    rule: str

    def __str__(self) -> str:
        place = f"event {self.event}" if self.event else "file"
        return f"{place}, {self.property}: {self.rule}"


class RotaError(Exception):
    """A file that was refused whole, with every fault that was found."""

    def __init__(self, faults: Sequence[RotaFault]) -> None:
        super().__init__(f"{len(faults)} fault(s)")
        self.faults = list(faults)


def import_ics(content: str | bytes, by_staff_id: LookUp, by_mail: LookUp, now: datetime) -> list[Duty]:
    """Shifts from 15 days ago to 120 days ahead, recurrences spelled out, in the order of their times.

    Raises:
        RotaError: with every fault by event and property.
    """
    try:
        calendar = Calendar.from_ical(content)
    except (ValueError, TypeError, IndexError, UnicodeDecodeError):
        raise RotaError([RotaFault(0, "VCALENDAR", "is not iCalendar (RFC 5545)")]) from None
    events = list(calendar.walk("VEVENT"))
    people = [_Event(number, event, by_staff_id, by_mail) for number, event in enumerate(events, 1)]
    if not events:
        raise RotaError([RotaFault(0, "VEVENT", "is missing; a rota has at least one")])
    faults = [fault for event in people if not _cancelled(event.event) for fault in event.faults()]
    if faults:
        raise RotaError(faults)
    return _spelled_out(calendar, by_staff_id, by_mail, now)


def apply_shifts(unit: Unit, shifts: Sequence[Duty]) -> int:
    """Replace the rota of the units in a file from its first shift on; gives how many shifts there are.

    Twice changes nothing. Units that the file does not name keep theirs.
    """
    starts: dict[str, datetime] = {}
    for duty in shifts:
        starts[duty.unit] = min(duty.starts_at, starts.get(duty.unit, duty.starts_at))
    for name, first in starts.items():
        queries.delete_shifts(unit.conn, name, first)
    queries.insert_shifts(unit.conn, [(d.unit, d.person_ref, d.starts_at, d.ends_at, d.on_call) for d in shifts])
    return len(shifts)


@dataclass(frozen=True, slots=True)
class _Event:
    number: int
    event: Any
    by_staff_id: LookUp
    by_mail: LookUp

    def faults(self) -> Iterable[RotaFault]:
        checks = {
            "LOCATION": self._location,
            "DTSTART": self._start,
            "DTEND": self._end,
            "ATTENDEE": self._attendees,
        }
        return [RotaFault(self.number, name, rule) for name, check in checks.items() if (rule := check())]

    def _location(self) -> str:
        unit = str(self.event.get("LOCATION", "")).strip()
        if len(unit) > WIDEST["unit"] or not unit.isprintable():
            return f"must be printable, of {WIDEST['unit']} characters at most"
        return "" if unit else "is missing; it names the unit"

    def _start(self) -> str:
        return _time_fault(self.event.get("DTSTART"))

    def _end(self) -> str:
        start, end = _held(self.event.get("DTSTART")), _held(self.event.get("DTEND"))
        length = _held(self.event.get("DURATION"))
        if self.event.get("DTEND") is not None or not isinstance(length, timedelta):
            if rule := _time_fault(self.event.get("DTEND")):
                return rule
            if self._start():
                return ""
            length = _utc(end) - _utc(start)
        return "" if timedelta(0) < length <= LONGEST else "must be after DTSTART, by three days at most"

    def _attendees(self) -> str:
        given = attendees(self.event)
        if not given:
            return "is missing; a shift names who has it"
        if any(not one.lower().startswith((STAFF, MAIL)) for one in given):
            return f"must be {STAFF}<staff_id> or mailto:<address>"
        unknown = [one for one in given if person_of(one, self.by_staff_id, self.by_mail) is None]
        return "is not on the roster" if unknown else ""


def attendees(event: Any) -> list[str]:
    """The ATTENDEE values of an event."""
    given = event.get("ATTENDEE", [])
    return [str(one).strip() for one in (given if isinstance(given, list) else [given])]


def person_of(attendee: str, by_staff_id: LookUp, by_mail: LookUp) -> str | None:
    """The person_ref behind an ATTENDEE value."""
    if attendee.lower().startswith(STAFF):
        return by_staff_id(attendee[len(STAFF) :])
    return by_mail(attendee[len(MAIL) :].lower())


def _held(value: Any) -> Any:
    """What a property of time holds, None where it cannot be read."""
    try:
        return getattr(value, "dt", None)
    except ValueError:
        return None


def _time_fault(value: Any) -> str:
    moment = _held(value)
    if not isinstance(moment, datetime):
        return "is missing or not a date and time"
    return "" if moment.tzinfo else "must be in UTC or with a TZID"


def _spelled_out(calendar: Any, by_staff_id: LookUp, by_mail: LookUp, now: datetime) -> list[Duty]:
    try:
        found = recurring_ical_events.of(calendar).between(now - BACK, now + AHEAD)
    except (ValueError, TypeError):
        raise RotaError([RotaFault(0, "RRULE", "has a recurrence that cannot be read")]) from None
    duties = {duty for event in found if not _cancelled(event) for duty in _duties(event, by_staff_id, by_mail)}
    return sorted(duties, key=lambda duty: (duty.starts_at, duty.unit, duty.person_ref))


def _duties(event: Any, by_staff_id: LookUp, by_mail: LookUp) -> list[Duty]:
    on_call = "ON-CALL" in _categories(event)
    span = (_utc(event["DTSTART"].dt), _utc(event["DTEND"].dt))
    people = (person_of(one, by_staff_id, by_mail) for one in attendees(event))
    return [Duty(str(event["LOCATION"]).strip(), person, *span, on_call) for person in people if person]


def _cancelled(event: Any) -> bool:
    return str(event.get("STATUS", "")).strip().upper() == "CANCELLED"


def _categories(event: Any) -> set[str]:
    given = event.get("CATEGORIES", [])
    groups = given if isinstance(given, list) else [given]
    return {str(name).strip().upper() for group in groups for name in getattr(group, "cats", [group])}


def _utc(moment: datetime | date) -> datetime:
    whole = moment if isinstance(moment, datetime) else datetime.combine(moment, time(), UTC)
    return whole.astimezone(UTC)

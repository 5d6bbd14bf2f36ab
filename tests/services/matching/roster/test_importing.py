"""Roster and rota come in: whole or not at all, twice changes nothing, nothing is kept that matching may not know."""

from dataclasses import replace

import pytest

from leeward.testing import member
from services.matching.models import METADATA
from services.matching.roster.rota import Duty, RotaError, apply_shifts, import_ics
from tests.services.matching.hospital import Hospital, at, ref, supporter

HEAD = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//rota//EN\r\n"
STAFF = {"s1": ref("person ann"), "s2": ref("person bob")}
MAILS = {"bob@example.org": ref("person bob")}


def calendar(*events: str) -> str:
    bodies = "".join(f"BEGIN:VEVENT\r\nUID:{n}\r\n{event}\r\nEND:VEVENT\r\n" for n, event in enumerate(events))
    return f"{HEAD}{bodies}END:VCALENDAR\r\n"


def event(*lines: str) -> str:
    return "\r\n".join(lines)


DAY = event("DTSTART:20261121T070000Z", "DTEND:20261121T150000Z", "LOCATION:ICU", "ATTENDEE:urn:leeward:staff:s1")


def read(text: str) -> list[Duty]:
    return import_ics(text, STAFF.get, MAILS.get, at(9))


def faults(text: str) -> list[str]:
    with pytest.raises(RotaError) as caught:
        read(text)
    return [str(fault) for fault in caught.value.faults]


def test_a_shift() -> None:
    assert read(calendar(DAY)) == [Duty("ICU", STAFF["s1"], at(7), at(15))]


def test_several_people_by_mail_and_staff_number() -> None:
    both = event(DAY, "ATTENDEE;CN=Bob:MAILTO:Bob@Example.org")
    assert {duty.person_ref for duty in read(calendar(both))} == set(STAFF.values())


def test_on_call_duty_is_known_as_such() -> None:
    assert [duty.on_call for duty in read(calendar(event(DAY, "CATEGORIES:On-Call,Other")))] == [True]


def test_recurrence_with_an_exception_and_a_zone_across_the_change_of_the_clock() -> None:
    nights = event(
        "DTSTART;TZID=Europe/Berlin:20261023T220000",
        "DTEND;TZID=Europe/Berlin:20261024T070000",
        "RRULE:FREQ=DAILY;UNTIL=20261231T000000Z",
        "EXDATE;TZID=Europe/Berlin:20261121T220000",
        "LOCATION:ICU",
        "ATTENDEE:urn:leeward:staff:s1",
    )
    starts = [duty.starts_at for duty in read(calendar(nights))]
    assert at(21, day=20) in starts, "22:00 in Berlin in winter"
    assert at(21, day=21) not in starts
    assert len(starts) == len(set(starts))


def test_every_fault_is_named_by_event_and_property_and_tells_no_value() -> None:
    found = faults(
        calendar(
            DAY,
            event("DTSTART:20261121T070000", "DTEND:20261121T150000Z", "ATTENDEE:urn:leeward:staff:s1"),
            event("DTSTART:20261121T150000Z", "DTEND:20261121T070000Z", "LOCATION:ICU", "ATTENDEE:tel:12345"),
            event(
                "DTSTART:20261121T070000Z", "DTEND:20261121T150000Z", "LOCATION:ICU", "ATTENDEE:urn:leeward:staff:s9"
            ),
            event("DTSTART;VALUE=DATE:20261121", "LOCATION:ICU"),
        )
    )
    assert found == [
        "event 2, LOCATION: is missing; it names the unit",
        "event 2, DTSTART: must be in UTC or with a TZID",
        "event 3, DTEND: must be after DTSTART, by three days at most",
        "event 3, ATTENDEE: must be urn:leeward:staff:<staff_id> or mailto:<address>",
        "event 4, ATTENDEE: is not on the roster",
        "event 5, DTSTART: is missing or not a date and time",
        "event 5, DTEND: is missing or not a date and time",
        "event 5, ATTENDEE: is missing; a shift names who has it",
    ]
    assert "12345" not in str(found)


def test_a_shift_that_was_cancelled_is_none() -> None:
    third_day = event("RECURRENCE-ID:20261123T070000Z", "DTSTART:20261123T070000Z", "STATUS:CANCELLED")
    bodies = (f"{DAY}\r\nRRULE:FREQ=DAILY;COUNT=3", third_day, f"{DAY}\r\nSTATUS:cancelled")
    text = "".join(
        f"BEGIN:VEVENT\r\nUID:{uid}\r\n{body}\r\nEND:VEVENT\r\n" for uid, body in zip("001", bodies, strict=True)
    )
    assert [duty.starts_at.day for duty in read(f"{HEAD}{text}END:VCALENDAR\r\n")] == [21, 22]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("DTSTART:secret", "event 1, DTSTART: is missing or not a date and time"),
        ("DTEND:secret", "event 1, DTEND: is missing or not a date and time"),
        ("DURATION:secret", "event 1, DTEND: is missing or not a date and time"),
        ("DURATION:P300D", "event 1, DTEND: must be after DTSTART, by three days at most"),
        ("DURATION:-PT8H", "event 1, DTEND: must be after DTSTART, by three days at most"),
    ],
)
def test_a_time_that_cannot_be_is_named(line: str, fault: str) -> None:
    name = line.partition(":")[0].replace("DURATION", "DTEND")
    others = [one for one in DAY.split("\r\n") if not one.startswith(name)]
    assert faults(calendar(event(*others, line))) == [fault]


@pytest.mark.parametrize("unit", ["x" * 201, "a\x00b"])
def test_a_unit_that_no_database_takes_is_refused(unit: str) -> None:
    long = event(
        "DTSTART:20261121T070000Z", "DTEND:20261121T150000Z", f"LOCATION:{unit}", "ATTENDEE:urn:leeward:staff:s1"
    )
    assert faults(calendar(long)) == ["event 1, LOCATION: must be printable, of 200 characters at most"]


@pytest.mark.parametrize("text", ["", "nonsense", "BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n"])
def test_what_is_no_calendar_is_refused(text: str) -> None:
    assert faults(text)[0].startswith("file, ")


async def test_a_rota_replaces_that_of_its_units_and_twice_changes_nothing(hospital: Hospital) -> None:
    elsewhere = Duty("Ward 3", STAFF["s2"], at(7), at(15))
    await hospital.context.store.write(lambda unit: apply_shifts(unit, [elsewhere]))
    first = [Duty("ICU", STAFF["s1"], at(7), at(15)), Duty("ICU", STAFF["s2"], at(15), at(23))]
    for _ in range(2):
        await hospital.context.store.write(lambda unit: apply_shifts(unit, first))
        assert len(await hospital.rows_of("shift")) == 3
    await hospital.context.store.write(lambda unit: apply_shifts(unit, first[:1]))
    assert sorted(row.unit for row in await hospital.rows_of("shift")) == ["ICU", "Ward 3"]


async def test_a_roster_twice_changes_nothing(hospital: Hospital) -> None:
    before = {name: await hospital.rows_of(name) for name in ("person", "line_manager", "roster_version", "timer")}
    await hospital.staff(*hospital.members)
    assert before == {name: await hospital.rows_of(name) for name in before}


async def test_who_is_missing_from_the_file_has_left_and_may_come_back(hospital: Hospital) -> None:
    await hospital.staff(*hospital.members[1:])
    statuses = {row.person_ref: row.status for row in await hospital.rows_of("person")}
    assert statuses[ref("person ann")] == "left"
    await hospital.incident("ann")
    assert hospital.sent == []
    await hospital.staff(member("ann"), *hospital.members)
    await hospital.incident("ann")
    assert len(hospital.to("ann")) == 1


async def test_what_notify_told_of_reachability_outlives_an_import(hospital: Hospital) -> None:
    await hospital.reachable("sue", yes=False)
    await hospital.staff(*(replace(m, profession="midwife") for m in hospital.members))
    reachable = {row.person_ref: row.reachable for row in await hospital.rows_of("person")}
    assert reachable[ref("person sue")] is False
    assert reachable[ref("person tim")] is True


async def test_no_name_contact_or_identifier_is_kept(hospital: Hospital) -> None:
    secret = supporter("Zoe", display_name="Zoe Secret", introduction="I like secrets", mobile="+1 555 0199")
    await hospital.staff(*hospital.members, secret)
    everything = str([await hospital.rows_of(name) for name in METADATA.tables])
    for text in ("Zoe", "Secret", "secrets", "0199", "example.org"):
        assert text not in everything

"""The people of a chaos run, the same in every run, and what their hospital's system sends."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from itertools import chain
from typing import Final
from zoneinfo import ZoneInfo

from tests.e2e.harness import Member
from tests.e2e.harness import death as discharge

# when the night ends in UTC, and the hold of those whose shift ended at half past seven
MORNING: Final = datetime(2026, 11, 21, 8, tzinfo=UTC)
OCCURRED: Final = "20261121072000"
AFFECTED, ASKING, HELPING, WARDS, SHIFT_WARDS, SHIFT_CREW = 72, 24, 40, 6, 3, 3
AWAKE: Final = "Europe/Berlin"
QUIET: Final = (time(21), time(8))
CAPACITY: Final = 2
DAWN: Final = timedelta(minutes=1)  # those who slept are not woken all at once
REMINDER, CONFIRM = timedelta(minutes=2), timedelta(hours=4)
SECRET: Final = "whsec_" + "Y2hhb3MtY2hhb3MtY2hhb3MtY2hhb3MtY2hhb3M="
BEARER: Final = "the-safety-system-of-the-chaos-run"
SECRETS: Final = {"LEEWARD_WEBHOOK_SECRET": SECRET, "LEEWARD_SOURCE_SAFETY_SECRET": BEARER}
PROFESSIONAL: Final = "on-call@hospital.example"
POLICY: Final = """
[sources.ehr]
kind = "hl7v2"

[sources.safety]
kind = "native"

[outreach]
mode = "live"
jitter = "30s"
reminder_after = "2m"
cover_every = ""

[supporters]
answer_hours = ""
confirm_urgent = "4h"
confirm_routine = "4h"

[channels.webhook]
url = "{webhook}"

[[on_call]]
label = "Chaplain"
phone = "+44 20 7946 0999"
email = "on-call@hospital.example"
"""


def _member(staff_id: str, number: int, unit: str, *, supporter: bool = False, zone: str = AWAKE) -> Member:
    """Every sixth has a phone only, so that the webhook reaches them."""
    mobile = f"+44 7700 {sum(map(ord, staff_id[0])):03}{number:03}"
    ways = {"mobile": mobile, "email": ""} if number % 6 == 5 else {"mobile": ""}
    return Member(staff_id, unit=unit, supporter=supporter, columns={"timezone": zone, **ways})


def affected() -> list[Member]:
    """Those who may be named; every third sleeps until `MORNING`."""
    zones = ("UTC", AWAKE, AWAKE)
    return [_member(f"A{n:03}", n, f"W{n % WARDS}", zone=zones[n % 3]) for n in range(AFFECTED)]


def on_shift() -> list[Member]:
    """Those who worked a short shift that ended half an hour before `MORNING`; nobody names them."""
    return [_member(f"S{n:03}", n, f"N{n // SHIFT_CREW}") for n in range(SHIFT_WARDS * SHIFT_CREW)]


def asking() -> list[Member]:
    """Those who ask by themselves; a code reaches them by mail alone."""
    return [Member(f"K{n:03}", unit=f"W{n % WARDS}", columns={"timezone": "UTC", "mobile": ""}) for n in range(ASKING)]


def helping() -> list[Member]:
    """Supporters, in other units."""
    return [_member(f"H{n:03}", n, f"X{n % WARDS}", supporter=True) for n in range(HELPING)]


def everybody() -> list[Member]:
    return [*affected(), *on_shift(), *asking(), *helping()]


def contact(member: Member) -> str:
    """Where a message finds them."""
    return member.address or member.columns["mobile"]


def contacts() -> dict[str, str]:
    """By staff number."""
    return {member.staff_id: contact(member) for member in everybody()}


def crew(unit: str) -> list[str]:
    """The staff numbers of those on shift in a unit when somebody dies there."""
    return [member.staff_id for member in on_shift() if member.unit == unit]


def rota() -> str:
    """The short shifts as iCalendar."""
    units = sorted({member.unit for member in on_shift()})
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//example//chaos//EN"]
    return "\r\n".join([*lines, *chain.from_iterable(map(_shift, units)), "END:VCALENDAR", ""])


def _shift(unit: str) -> list[str]:
    begins, ends = MORNING - timedelta(hours=3), MORNING - timedelta(minutes=30)
    return [
        "BEGIN:VEVENT",
        f"UID:{unit}@hospital.example",
        "DTSTAMP:20261101T000000Z",
        f"DTSTART:{begins:%Y%m%dT%H%M%SZ}",
        f"DTEND:{ends:%Y%m%dT%H%M%SZ}",
        f"LOCATION:{unit}",
        *(f"ATTENDEE:urn:leeward:staff:{staff_id}" for staff_id in crew(unit)),
        "END:VEVENT",
    ]


def death(number: int, unit: str, people: Sequence[str]) -> str:
    """An ADT^A03 of a patient of its own; `people` are staff numbers."""
    return discharge(f"D{number}", *people, unit=unit, patient=f"Q{number}", at=OCCURRED)


def retraction(number: int) -> str:
    """The ADT^A13 that takes it back: the discharge was none."""
    visit = [""] * 20
    visit[1], visit[2], visit[19] = "1", "I", f"VD{number}^^^HOSP^VN"
    lines = (
        f"MSH|^~\\&|EHRSYS|HOSP|LW|HOSP|{OCCURRED}||ADT^A13|R{number}|P|2.5",
        f"EVN|A13|{OCCURRED}",
        f"PID|1||Q{number}^^^HOSP^MR||Lastname^Firstname||19500101|F",
        "PV1|" + "|".join(visit[1:]),
    )
    return "\r".join(lines) + "\r"


def asleep(moment: datetime, zone: str) -> bool:
    """Whether it is quiet where they are."""
    local = moment.astimezone(ZoneInfo(zone)).time()
    return local >= QUIET[0] or local < QUIET[1]


def merge(number: int) -> str:
    """An ADT^A40: the patient of a death is kept under another number from now on."""
    lines = (
        f"MSH|^~\\&|EHRSYS|HOSP|LW|HOSP|{OCCURRED}||ADT^A40|M{number}|P|2.5",
        f"EVN|A40|{OCCURRED}",
        f"PID|1||QM{number}^^^HOSP^MR",
        f"MRG|Q{number}^^^HOSP^MR",
    )
    return "\r".join(lines) + "\r"


def death_again(number: int, unit: str, people: Sequence[str]) -> str:
    """The same death, under the number that its patient has after `merge`."""
    return discharge(f"DM{number}", *people, unit=unit, patient=f"QM{number}", at=OCCURRED)


def report(number: int, unit: str, people: Sequence[str], reviewers: Sequence[str]) -> dict[str, object]:
    """A native report of the safety system about a death."""

    def named(staff_ids: Sequence[str]) -> list[dict[str, str]]:
        return [{"system": "ehr", "value": f"E-{staff_id}"} for staff_id in staff_ids]

    return {
        "source_ref": f"DX-{number}",
        "occurred_at": f"{datetime.strptime(OCCURRED + 'Z', '%Y%m%d%H%M%S%z'):%Y-%m-%dT%H:%M:%SZ}",
        "category": "failed_resuscitation",
        "severity": {"scheme": "leeward", "code": "death"},
        "unit": unit,
        "urgency": "routine",
        "involved": named(people),
        "reviewers": named(reviewers),
    }

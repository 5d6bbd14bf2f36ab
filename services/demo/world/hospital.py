"""A hospital that does not exist: its people, their roster, a month of shifts, and two deaths as HL7 v2 messages.

Everything is the same on every run. Names are made up; addresses and numbers are of ranges kept for examples
(RFC 2606, and the numbers that Ofcom sets aside for drama).
"""

import csv
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from leeward.people import COLUMNS

START: Final = datetime(2026, 11, 24, 13, 45, tzinfo=UTC)
EARLY_ENDS: Final = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)
TIMEZONE: Final = "Europe/London"
DOMAIN: Final = "hospital.example"
# staff number, name, profession, unit, languages; marks: s supporter, x training expired, q training ends soon,
# m no e-mail, n neither, a away, h head of the unit, 1 early shift
PEOPLE: Final = """
D01 | Dr. Ngozi Adeyemi      | medical director       | Direction     | en,ig | h
I01 | Dr. Ingrid Solberg     | intensivist            | ICU           | en,no | h
I02 | Dr. Amara Okafor       | intensivist            | ICU           | en,fr |
I03 | Tomás Herrera          | nurse                  | ICU           | en,es | 1
I04 | Mei-Ling Chen          | nurse                  | ICU           | en,zh | 1
I05 | Jonas Weber            | nurse                  | ICU           | en,de | 1
I06 | Fatima Zahra Alaoui    | respiratory therapist  | ICU           | en,ar | 1
I07 | Ruth Osei              | health care assistant  | ICU           | en    | 1m
I08 | Piotr Nowak            | nurse                  | ICU           | en,pl | s
I09 | Hana Sato              | nurse                  | ICU           | en,ja |
E01 | Dr. Siobhán Kelly      | emergency physician    | Emergency     | en,ga | h
E02 | Dr. Rajesh Iyer        | emergency physician    | Emergency     | en,ta |
E03 | Lucía Fernández        | nurse                  | Emergency     | en,es | 1
E04 | Kwame Boateng          | paramedic              | Emergency     | en    | 1
E05 | Anneli Korhonen        | nurse                  | Emergency     | en,fi | 1
E06 | Yusuf Demir            | nurse                  | Emergency     | en,tr | 1
E07 | Olena Shevchenko       | nurse                  | Emergency     | en,uk | s
E08 | Mateus Carvalho        | porter                 | Emergency     | en,pt | a
S01 | Dr. Henrik Lindqvist   | surgeon                | Surgery       | en,sv | h
S02 | Dr. Aïcha Benali       | surgeon                | Surgery       | en,fr | s
S03 | Grace Mwangi           | theatre nurse          | Surgery       | en,sw | s
S04 | Daniel Cohen           | theatre nurse          | Surgery       | en,he | s
S05 | Maria Papadopoulou     | nurse                  | Surgery       | en,el |
S06 | Liam O'Brien           | health care assistant  | Surgery       | en    |
S07 | Nadia Petrova          | nurse                  | Surgery       | en,bg | sx
M01 | Dr. Chiara Rossi       | obstetrician           | Maternity     | en,it | h
M02 | Blessing Eze           | midwife                | Maternity     | en    | s
M03 | Astrid Nielsen         | midwife                | Maternity     | en,da | s
M04 | Thandiwe Ndlovu        | midwife                | Maternity     | en,zu | s
M05 | Camille Dubois         | nurse                  | Maternity     | en,fr |
M06 | Soo-jin Park           | midwife                | Maternity     | en,ko |
O01 | Dr. Elif Yilmaz        | oncologist             | Oncology      | en,tr | h
O02 | Dr. Arjun Mehta        | oncologist             | Oncology      | en,hi | s
O03 | Katarzyna Wiśniewska   | nurse                  | Oncology      | en,pl | s
O04 | Samuel Tesfaye         | nurse                  | Oncology      | en,am | s
O05 | Ines Gonçalves         | nurse                  | Oncology      | en,pt |
O06 | Marek Dvořák           | radiographer           | Oncology      | en,cs | sx
P01 | Dr. Leilani Kahale     | paediatrician          | Paediatrics   | en    | h
P02 | Noor Rahman            | nurse                  | Paediatrics   | en,bn | s
P03 | Giulia Conti           | nurse                  | Paediatrics   | en,it | s
P04 | Emeka Nwosu            | play specialist        | Paediatrics   | en    | s
P05 | Freya Jónsdóttir       | nurse                  | Paediatrics   | en,is |
P06 | Viktor Horváth         | physiotherapist        | Paediatrics   | en,hu | n
A01 | Dr. Johannes de Vries  | anaesthetist           | Anaesthesia   | en,nl | h
A02 | Dr. Parisa Karimi      | anaesthetist           | Anaesthesia   | en,fa | s
A03 | Tama Ngata             | anaesthetic technician | Anaesthesia   | en,mi | sq
A04 | Isabel Moreno          | anaesthetic technician | Anaesthesia   | en,es |
"""
INTRODUCTIONS: Final = (
    "I have worked here for many years and have been through hard days myself. I listen well.",
    "I like to meet for a walk or a cup of tea. We can also just talk on the phone.",
    "You choose what we talk about. Silence is fine with me, too.",
)


@dataclass(frozen=True)
class StaffMember:
    """One member of staff of the demonstration."""

    staff_id: str
    name: str
    profession: str
    unit: str
    languages: tuple[str, ...]
    marks: frozenset[str] = field(default_factory=frozenset)

    @property
    def email(self) -> str:
        if self.marks & {"m", "n"}:
            return ""
        return f"{self.staff_id.lower()}@{DOMAIN}"

    @property
    def first_name(self) -> str:
        return self.name.removeprefix("Dr. ").split()[0]

    @property
    def supporter(self) -> bool:
        return "s" in self.marks

    @property
    def fit(self) -> bool:
        """A supporter whose training is valid."""
        return self.supporter and "x" not in self.marks


def people() -> list[StaffMember]:
    """Everybody, in the order of their staff numbers."""
    rows = [[cell.strip() for cell in line.split("|")] for line in PEOPLE.strip().splitlines()]
    return [
        StaffMember(number, name, profession, unit, tuple(languages.split(",")), frozenset(marks))
        for number, name, profession, unit, languages, marks in rows
    ]


def on_early_shift(unit: str) -> list[StaffMember]:
    """The people who work in a unit when somebody dies there."""
    return [person for person in people() if person.unit == unit and "1" in person.marks]


def roster() -> str:
    """The roster as CSV."""
    everybody = people()
    heads = {person.unit: person.staff_id for person in everybody if "h" in person.marks}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for number, person in enumerate(everybody):
        head = heads["Direction"] if "h" in person.marks else heads[person.unit]
        row = {
            "staff_id": person.staff_id,
            "identifiers": f"ehr={ehr_number(person)};npi={1_000_000_000 + 7919 * (number + 1)}",
            "display_name": person.name,
            "profession": person.profession,
            "unit": person.unit,
            "line_managers": "" if head == person.staff_id else head,
            "languages": ";".join(person.languages),
            "email": person.email,
            "mobile": mobile(person),
            "timezone": TIMEZONE,
            "status": "away" if "a" in person.marks else "active",
            "supporter": "yes" if person.supporter else "no",
        }
        if person.supporter:
            expired = "2026-10-31" if "x" in person.marks else ""
            expiring = "2026-12-15" if "q" in person.marks else ""
            row |= {
                "introduction": INTRODUCTIONS[number % len(INTRODUCTIONS)],
                "training_completed": "2025-02-10",
                "training_expires": expired or expiring or "2028-02-10",
            }
        writer.writerow(row)
    return text.getvalue()


def ehr_number(person: StaffMember) -> str:
    """The number by which the hospital's system names somebody."""
    return f"P47{ord(person.staff_id[0]):02}{person.staff_id[1:]}"


SHIFTS: Final = (("early", "060000", "140000"), ("late", "140000", "220000"))


def rota() -> str:
    """The rota as iCalendar: early and late shifts every day, and the surgeon on call at night."""
    first = (START - timedelta(days=7)).strftime("%Y%m%d")
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//example//rota//EN"]
    for unit in sorted({person.unit for person in people()}):
        early = on_early_shift(unit)
        late = [person for person in people() if person.unit == unit and person not in early]
        for (name, start, end), crew in zip(SHIFTS, (early, late), strict=True):
            if crew:
                lines += [
                    "BEGIN:VEVENT",
                    f"UID:{unit}-{name}@{DOMAIN}",
                    f"DTSTAMP:{first}T000000Z",
                    f"DTSTART;TZID={TIMEZONE}:{first}T{start}",
                    f"DTEND;TZID={TIMEZONE}:{first}T{end}",
                    "RRULE:FREQ=DAILY",
                    f"LOCATION:{unit}",
                    *(f"ATTENDEE:urn:leeward:staff:{person.staff_id}" for person in crew),
                    "END:VEVENT",
                ]
    return "\r\n".join([*lines, "END:VCALENDAR", ""])


@dataclass(frozen=True)
class Death:
    """A discharge to be played: which unit, who is named in which field, and who is only the referring doctor."""

    control_id: str
    unit: str
    attending: str
    consulting: tuple[str, ...]
    referring: str
    at: datetime

    def message(self) -> bytes:
        """An ADT^A03 with PV1-36 = 20 (expired), as an EHR sends it."""
        by_id = {person.staff_id: person for person in people()}
        stamp = self.at.strftime("%Y%m%d%H%M%S+0000")
        pid = {
            1: "1",
            3: f"70{self.control_id}^^^HOSP^MR",
            5: "Fictitious^Quentin^Q",
            7: "19480312",
            8: "M",
            11: "9 Example Road^^Sampletown",
            18: f"ACC{self.control_id}^^^HOSP^AN",
            29: stamp,
            30: "Y",
        }
        pv1 = {
            1: "1",
            2: "I",
            3: f"{self.unit}^4^2",
            7: _xcn(by_id[self.attending]),
            8: _xcn(by_id[self.referring]),
            9: "~".join(_xcn(by_id[one]) for one in self.consulting),
            19: f"V{self.control_id}^^^HOSP^VN",
            36: "20",
            44: stamp,
            45: stamp,
        }
        msh = f"MSH|^~\\&|EHR|HOSP|SUPPORT|HOSP|{stamp}||ADT^A03^ADT_A03|{self.control_id}|P|2.5.1"
        segments = (msh, f"EVN|A03|{stamp}", _segment("PID", pid), _segment("PV1", pv1))
        return "\r".join([*segments, ""]).encode()

    def asked(self) -> list[StaffMember]:
        """Who is to be offered somebody: everyone named but the referring doctor, and the unit's shift."""
        named = {self.attending, *self.consulting} | {person.staff_id for person in on_early_shift(self.unit)}
        return [person for person in people() if person.staff_id in named]


def _xcn(person: StaffMember) -> str:
    family = person.name.removeprefix("Dr. ").split()[-1]
    return f"{ehr_number(person)}^{family}^{person.first_name}^^^Dr^^^EHR"


def _segment(name: str, fields: dict[int, str]) -> str:
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields) + 1))])


ICU_DEATH: Final = Death("4711", "ICU", "I02", ("I01",), "O01", START - timedelta(minutes=10))
EMERGENCY_DEATH: Final = Death("4712", "Emergency", "E02", ("E01",), "P01", START - timedelta(minutes=5))


def mobile(person: StaffMember) -> str:
    """Somebody's phone number, "" where there is none."""
    number = people().index(person)
    return "" if "n" in person.marks else f"+44 7700 900{number:03}"

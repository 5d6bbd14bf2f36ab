"""A feed as an EHR sends it: ADT of many kinds, each of another patient, a few per cent of them deaths.

From short to long; on average as long as public samples are at their median, 2.5 kB.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Final

from tests.bench.hospital import UNITS

EVENTS: Final = ("A01", "A02", "A03", "A04", "A05", "A06", "A08", "A08", "A08", "A28", "A31", "A31")
DEATHS: Final = 3  # of a hundred messages
DOCTOR: Final = "^Grace^A^^Dr^MD^^EHR"
NOTE: Final = "Patient resting, observations within limits, plan discussed with the team and the next of kin"


def feed(run: str, staff: int, seed: int = 1) -> Iterator[bytes]:
    """Messages without end; each death involves another member of the roster, as long as there is one left."""
    draw, died = random.Random(seed), itertools.count()
    for number in itertools.count():
        dead = draw.randrange(100) < DEATHS
        event = "A03" if dead else draw.choice(EVENTS)
        attending = f"E{next(died) % staff:06}" if dead else f"X{number % 500:06}"
        length = draw.choice((0, 1, 2, 2))
        lines = [*_core(f"{run}{number}", event, attending, number % UNITS, dead), *_rest(length, number)]
        yield "\r".join(lines).encode() + b"\r"


def framed(message: bytes) -> bytes:
    return b"\x0b" + message + b"\x1c\r"


def _core(name: str, event: str, attending: str, unit: int, dead: bool) -> list[str]:
    visit = ["PV1", "1", "I", f"W{unit:02}^1^1^HOSP", "R", "", "", f"{attending}^Hopper{DOCTOR}"]
    visit += ["", "", "MED", "", "", "", "7", "A0", "", "", "13", f"{name}V^^^HOSP^VN", "SELF"]
    visit += [""] * 15 + ["20" if dead else "01" if event == "A03" else "", *[""] * 7, "20261121080000"]
    return [
        f"MSH|^~\\&|BENCH|HOSP|LW|HOSP|20261121090000+0000||ADT^{event}^ADT_A01|{name}|P|2.5|||||USA|UNICODE UTF-8",
        f"EVN|{event}|20261121090000|||E000001^Op^Erator{DOCTOR}|20261121085500",
        f"PID|1||{name}^^^HOSP^MR~9{name}^^^NHS^NH||Doe^Jo^M^^Mx^^L||19500101|F||2028-9^^HL70005|"
        "1 High Street^Flat 2^Town^^AB1 2CD^GBR^H||+44 20 7946 0000^PRN^PH~+44 7700 900000^ORN^CP||en^English|M|CHR|"
        f"{name}A^^^HOSP^AN|||||||||||{'20261121084500' if dead else ''}|{'Y' if dead else 'N'}",
        "|".join(visit),
    ]


def _rest(length: int, number: int) -> list[str]:
    """What else stands in a message, and in most of a feed's bytes, and does not matter here."""
    if length == 0:
        return []
    usual = [
        "PD1|||HOSP SURGERY^^1234|1001^Gee^Pee^^^Dr|||||||N",
        "NK1|1|Doe^Jane^^^Mrs|SPO^Spouse^HL70063|1 High Street^^Town^^AB1 2CD|+44 20 7946 0001||C^Emergency contact",
        "NK1|2|Doe^Jim^^^Mr|CHD^Child^HL70063|2 Low Road^^Town^^AB1 3CD|+44 20 7946 0002",
        "PV2|||R07.4^Chest pain, unspecified^I10||||||20261121|||||||||||||N",
        *(
            f"OBX|{n}|NM|{code}^{text}^LN||{number % 90 + n}|{unit}|||N|||F|||20261121083000"
            for n, code, text, unit in VITALS
        ),
        "AL1|1|DA|7980^Penicillin^RXNORM|MO|Rash and swelling|20100101",
        "DG1|1||I21.9^Acute myocardial infarction, unspecified^I10||20261121|A",
    ]
    more = [
        "GT1|1||Doe^Jo^M||1 High Street^Flat 2^Town^^AB1 2CD|+44 20 7946 0000|||||SEL",
        "IN1|1|A1^Plan A|INS1|Insurer Ltd|1 Office Park^^City^^XY9 8ZW|||GRP1||||20260101|20261231|||Doe^Jo|SEL",
        "IN2|1||||||||||||||||||||||||||||||||||||||||||||||||||||||||||||Y",
        *(f"NTE|{n}|L|{NOTE} ({number % 1000}-{n})" for n in range(1, 19)),
        "PR1|1||92920^Coronary angioplasty^C4||202611210830",
        f"ZBD|1|BED|{number % 40}|LOCAL^EXTENSION|{NOTE}",
    ]
    return usual if length == 1 else usual + more


VITALS: Final = (
    (1, "8867-4", "Heart rate", "/min"),
    (2, "8480-6", "Systolic blood pressure", "mm[Hg]"),
    (3, "8462-4", "Diastolic blood pressure", "mm[Hg]"),
    (4, "8310-5", "Body temperature", "Cel"),
    (5, "2708-6", "Oxygen saturation", "%"),
)

"""A synthetic hospital for measuring: everybody is involved in one death at most, supporters are plentiful."""

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from leeward.people import COLUMNS

PROFESSIONS = ("nurse", "physician", "midwife", "technician", "therapist")
UNITS = 40


def address(number: int) -> str:
    """The e-mail address by which a hand-off is recognised."""
    return f"s{number:06}@bench.example"


def number_of(contact: str) -> int:
    """The member's number an address stands for."""
    return int(contact.partition("@")[0].removeprefix("s"))


def write_roster(path: Path, staff: int, supporters: int) -> None:
    """`staff` members who can be affected, then `supporters` more who can help."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for number in range(staff + supporters):
            helping = number >= staff
            writer.writerow(
                {
                    "staff_id": f"B{number:06}",
                    "identifiers": f"ehr=E{number:06}",
                    "display_name": f"Member {number}",
                    "profession": PROFESSIONS[number % len(PROFESSIONS)],
                    "unit": f"W{number % UNITS:02}",
                    "languages": "en",
                    "email": address(number),
                    "timezone": "UTC",
                    "supporter": "yes" if helping else "no",
                    "training_completed": "2026-01-01" if helping else "",
                    "training_expires": "2099-01-01" if helping else "",
                }
            )


def deaths(run: int) -> Iterator[tuple[int, bytes]]:
    """(member's number, framed ADT^A03 with PV1-36 = 20) without end, each of another patient and another member."""
    for number in itertools.count():
        lines = (
            f"MSH|^~\\&|BENCH|HOSP|LW|HOSP|20261121090000||ADT^A03|R{run}M{number}|P|2.5",
            "EVN|A03|20261121090000",
            f"PID|1||R{run}P{number}^^^HOSP^MR||Doe^Jo||19500101|F",
            f"PV1|1|I|W{number % UNITS:02}^1^1||||E{number:06}^Doe^Jo^^^^^^EHR||||||||||||R{run}V{number}^^^HOSP^VN"
            + "|" * 17
            + "20",
        )
        yield number, b"\x0b" + "\r".join(lines).encode() + b"\r\x1c\r"

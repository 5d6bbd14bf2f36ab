"""Acknowledgements (HL7 v2.9 §2.9): original and enhanced mode, built from the header's own bytes.

The sender's fields go back as they came, in its delimiters and character set; nothing else of a message does.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from services.incident.sources.hl7v2.parser import (
    BLANKS,
    BOMS,
    CONDITIONS,
    STANDARD,
    Delimiters,
    Hl7Error,
    Hl7Message,
    first_line,
    usable,
)

HEAD: Final = 4096  # bytes of a message that are enough to answer it
ON_SUCCESS: Final = frozenset({"AL", "SU"})
ON_ERROR: Final = frozenset({"AL", "ER"})
CONDITION_CODES: Final = frozenset({"AL", "NE", "ER", "SU"})


@dataclass(frozen=True, slots=True)
class Header:
    """The MSH fields an answer is made of, as bytes; what a broken message lacks is empty."""

    delimiters: Delimiters = STANDARD
    fields: tuple[bytes, ...] = ()

    def raw(self, number: int) -> bytes:
        """MSH-`number` as sent."""
        return self.fields[number - 1] if number <= len(self.fields) else b""

    def code(self, number: int) -> str:
        """A coded field, trimmed, upper case."""
        given = self.raw(number)
        return given.decode("ascii", "replace").strip().upper() if given else ""

    @property
    def control_id(self) -> bytes:
        return self.raw(10).strip()

    @property
    def is_acknowledgement(self) -> bool:
        """An acknowledgement is never answered by another."""
        return self.code(9).startswith("ACK") and not self.code(9)[3:4].isalnum()

    def conditions(self) -> tuple[str, str] | None:
        """MSH-15 and MSH-16 in enhanced mode, a blank one as NE and an unknown one as AL; None in original mode."""
        given = self.code(15), self.code(16)
        if not any(given):
            return None
        first, second = ((one if one in CONDITION_CODES else "AL") if one else "NE" for one in given)
        return first, second


def header_of(message: Hl7Message) -> Header:
    """The header of a message that could be read, in the character set it came in."""
    fields, sent = message.header.fields[1:21], message.recoded
    if sent:
        fields = [one.decode(errors="replace").encode(sent, "replace") for one in fields]
    return Header(message.notation.delimiters, tuple(fields))


def guess_header(raw: bytes) -> Header:
    """As much of a header as there is in bytes that are no message."""
    head = raw[:HEAD].lstrip(BLANKS)
    for mark, _ in BOMS:
        head = head.removeprefix(mark)
    line = first_line(head.lstrip(BLANKS))
    separator = line[3:4]
    if not line.startswith(b"MSH") or not usable(separator):
        return Header()
    fields = line.split(separator)
    given = [fields[1][place : place + 1] for place in range(len(fields[1]))]
    sound = 3 <= len(given) <= 5 and all(map(usable, given)) and len({separator, *given}) > len(given)
    each = Delimiters(separator, *given[:4]) if sound else STANDARD._replace(field=separator)
    if len(set(each)) < len([mark for mark in each if mark]):
        return Header()
    return Header(each, (separator, fields[1] if sound else b"".join(each[1:]), *fields[2:20]))


def build_answers(header: Header, fault: Hl7Error | None, now: datetime, ident: str) -> list[bytes]:
    """The acknowledgements a message gets, in order: none, one, or a commit and then an application one.

    Args:
        fault: what makes the message unacceptable, None when it is stored.
        ident: MSH-10 of the acknowledgement; the same for a repetition, so that it gets the same bytes.
    """
    return [_build(header, code, fault, now, f"{ident}{code[0]}") for code in _codes(header, fault)]


def internal_error(header: Header, now: datetime, ident: str) -> list[bytes]:
    """AE or CE: the message may be good, and this program could not handle it; sending it again will not help."""
    codes = [code.replace("R", "E") for code in _codes(header, FAULTY)]
    return [_build(header, code, FAULTY, now, f"{ident}{code[0]}") for code in codes]


FAULTY: Final = Hl7Error(207, "MSH^1", "internal")


def _codes(header: Header, fault: Hl7Error | None) -> list[str]:
    conditions = header.conditions()
    if header.is_acknowledgement:
        return []
    if conditions is None:
        return ["AR" if fault else "AA"]
    wanted = ON_ERROR if fault else ON_SUCCESS
    accept, application = (condition in wanted for condition in conditions)
    if fault:  # what was not committed is not processed either: one refusal says both
        return ["CR"] if accept else ["AR"] if application else []
    return [code for code, asked in (("CA", accept), ("AA", application)) if asked]


@lru_cache(maxsize=16)
def _time(now: datetime) -> bytes:
    """MSH-7; all messages of one commit share it."""
    return now.strftime("%Y%m%d%H%M%S+0000").encode()


def _build(header: Header, code: str, fault: Hl7Error | None, now: datetime, ident: str) -> bytes:
    marks = header.delimiters
    event = header.raw(9).split(marks.component)[1:2] if marks.component else []
    kind = marks.component.join([b"ACK", *event, *([b"ACK"] if event else [])])
    charset = header.raw(18).strip()
    msh = [
        *(header.raw(number) for number in (5, 6, 3, 4)),
        _time(now),
        b"",
        kind,
        ident.encode(),
        header.raw(11).strip() or b"P",
        header.raw(12).strip() or b"2.5",
        *([b"", b"", b"NE", b"NE", b"", charset] if header.conditions() or charset else []),
    ]
    first = b"MSH" + marks.field + b"".join(marks[1:]) + marks.field + marks.field.join(msh).rstrip(marks.field)
    # as it came, blanks included: some senders compare it byte by byte
    lines = [first, marks.field.join([b"MSA", code.encode(), header.raw(10).strip(b"\r\n")])]
    if fault:
        place = fault.place.encode().split(b"^")
        coded = [str(fault.code).encode(), CONDITIONS[fault.code].encode(), b"HL70357"]
        if header.raw(12).strip()[:3] in (b"2.1", b"2.2", b"2.3", b"2.4"):
            # all in ERR-1, the code in its fourth component
            located = [*place[:3], *[b""] * (3 - len(place[:3])), marks.subcomponent.join(coded)]
            error = [b"ERR", marks.component.join(located)]
        else:  # from 2.5 on in ERR-2 to ERR-4
            located = [*place[:3], *([b"1", *place[3:4]] if len(place) > 3 else [])]
            error = [b"ERR", b"", marks.component.join(located), marks.component.join(coded), b"E"]
        lines.append(marks.field.join(error))
    return b"\r".join(lines) + b"\r"

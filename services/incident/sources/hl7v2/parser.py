"""A small HL7 v2 reader over raw bytes (HL7 v2.9 chapter 2): nothing is split or decoded before it is asked for.

It forgives what real senders do (byte-order marks, blank lines, LF or CRLF, odd delimiters, wrong character sets) and
raises nothing but `Hl7Error`, whatever the bytes.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

NULL: Final = '""'  # an explicit "delete what you know" (HL7 v2.9 §2.5.3.6); an empty field means "no change"
BOMS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_LINE_END: Final = rb"\n(?=[A-Z][A-Z0-9]{2}(?:%b|[\r\n]|\Z)|\Z)"
BLANKS: Final = b"\x00\x0b\x1c\t\r\n "

# HL7 table 0357, as far as this reader and the rules behind it use it
CONDITIONS: Final = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    104: "Value too long",
    202: "Unsupported processing id",
    207: "Application internal error",
}

# HL7 table 0211 without the marks that some leave out; ASCII is part of every other set and so asks for none
CHARSETS: Final = {
    **dict.fromkeys(("UNICODEUTF8", "UTF8", "UNICODE"), "utf-8"),
    **{f"8859{part}": f"iso8859-{part}" for part in (*range(1, 12), 13, 14, 15, 16)},
    **dict.fromkeys(("LATIN1", "WINDOWS1252", "CP1252"), "cp1252"),
}
# sets whose bytes may look like delimiters, so that the whole body is recoded first
RECODED: Final = {
    "ISOIR14": "iso2022_jp_2",
    "ISOIR87": "iso2022_jp_2",
    "ISOIR159": "iso2022_jp_2",
    "GB180302000": "gb18030",
    "KSX1001": "euc_kr",
    "BIG5": "big5",
}


class Hl7Error(Exception):
    """What is wrong with a message: a condition of HL7 table 0357 and the place, never a value."""

    def __init__(self, code: int, place: str, reason: str) -> None:
        super().__init__(f"{CONDITIONS[code]} at {place}")
        self.code = code
        self.place = place
        self.reason = reason


class Delimiters(NamedTuple):
    """The five separators of a message, one byte each; an empty one is not in use."""

    field: bytes = b"|"
    component: bytes = b"^"
    repetition: bytes = b"~"
    escape: bytes = b"\\"
    subcomponent: bytes = b"&"


STANDARD: Final = Delimiters()


class Notation:
    """How a message writes its values: separators, escapes, character set.

    Segments know it and not their message: in a circle no message would be freed before the garbage collector comes.
    """

    __slots__ = ("_unescape", "charset", "delimiters")

    def __init__(self, delimiters: Delimiters, charset: str) -> None:
        self.delimiters = delimiters
        self.charset = charset
        self._unescape: re.Pattern[bytes] | None = None

    def repetitions(self, field: bytes) -> list[bytes]:
        """A field's repetitions, at least one."""
        return field.split(self.delimiters.repetition) if self.delimiters.repetition else [field]

    def part(self, repetition: bytes, component: int = 1, subcomponent: int = 1) -> str:
        """The text of one subcomponent, unescaped, decoded and trimmed; "" where there is none."""
        found = _nth(repetition, self.delimiters.component, component)
        return self.decode(_nth(found, self.delimiters.subcomponent, subcomponent))

    def decode(self, value: bytes) -> str:
        """Bytes between delimiters as text."""
        if not value:
            return ""
        if self.delimiters.escape and self.delimiters.escape in value:
            if self._unescape is None:
                mark = re.escape(self.delimiters.escape)
                self._unescape = re.compile(mark + rb"([A-Z.][0-9A-Za-z.+\-]{0,512})" + mark)
            value = self._unescape.sub(self._plain, value)
        # not all values are in the set the header names: the others are UTF-8, or else Windows' Latin
        for charset in (self.charset, "utf-8"):
            try:
                return value.decode(charset).replace("\0", "").strip()
            except UnicodeDecodeError:
                continue
        return value.decode("cp1252", "replace").replace("\0", "").strip()

    def _plain(self, found: re.Match[bytes]) -> bytes:
        """One escape sequence (HL7 v2.9 §2.7) as what it stands for; formatting and unknown ones leave nothing."""
        sequence = found[1]
        marks = self.delimiters
        letters = {b"F": marks.field, b"S": marks.component, b"T": marks.subcomponent, b"R": marks.repetition}
        letters |= {b"E": marks.escape, b".br": b"\n", b".sp": b"\n"}
        if sequence in letters:
            return letters[sequence]
        if sequence.startswith(b"X"):
            try:
                return bytes.fromhex(sequence[1:].decode())
            except ValueError:
                return b""
        return b""


class Segment:
    """One line, split into fields at the first look; fields and components count from 1 as in the standard."""

    __slots__ = ("_fields", "_line", "notation")

    def __init__(self, notation: Notation, line: bytes) -> None:
        self.notation = notation
        self._line = line
        self._fields: list[bytes] | None = None

    @property
    def name(self) -> bytes:
        return self._line[:3]

    @property
    def fields(self) -> list[bytes]:
        """All fields as sent, the segment's name before them."""
        if self._fields is None:
            self._fields = self._line.split(self.notation.delimiters.field)
            if self._line.startswith(b"MSH"):  # MSH-1 is the separator itself
                self._fields.insert(1, self.notation.delimiters.field)
        return self._fields

    def raw(self, number: int) -> bytes:
        """A field's bytes as sent, empty where there is none."""
        fields = self._fields or self.fields
        return fields[number] if number < len(fields) else b""

    def text(self, number: int, component: int = 1, subcomponent: int = 1) -> str:
        """The text of one subcomponent of a field's first repetition."""
        field = self.raw(number)
        return self.notation.part(self.notation.repetitions(field)[0], component, subcomponent) if field else ""

    def repetitions(self, number: int) -> list[bytes]:
        """The repetitions of a field that are not empty."""
        field = self.raw(number)
        return [one for one in self.notation.repetitions(field) if one] if field else []


class Hl7Message:
    """An HL7 v2 message; `header` is its MSH, `recoded` the codec it came in where all of it was recoded, else ""."""

    __slots__ = ("_body", "_found", "header", "notation", "recoded")

    def __init__(self, raw: bytes) -> None:
        """Read the header; segments are looked for when they are asked for, most never are.

        Raises:
            Hl7Error: where there is no usable header, or more than one.
        """
        body = _strip_mark(raw)
        if not body.startswith(b"MSH"):
            raise Hl7Error(100, "MSH^1", "no_header")
        field = body[3:4]
        if not usable(field):
            raise Hl7Error(102, "MSH^1^1", "bad_delimiters")
        delimiters = _separators(field, first_line(body[4:16]).split(field)[0])
        body, charset, self.recoded = _recode(body, delimiters)
        self.notation = Notation(delimiters, charset)
        if b"\n" in body:  # an LF that no segment follows is a line break inside a value
            body = re.sub(_LINE_END % re.escape(field), b"\r", body)
        self._body = b"\r%b\r" % body
        self._found: dict[bytes, list[Segment]] = {}
        headers = self.segments(b"MSH")
        if len(headers) > 1:
            raise Hl7Error(100, "MSH^2", "several_headers")
        self.header = headers[0]

    def segments(self, name: bytes) -> list[Segment]:
        """All segments of a name, in order."""
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = []
            body, mark = self._body, b"\r" + name
            start = body.find(mark)
            while start >= 0:
                end = body.index(b"\r", start + 1)
                if body[start + 4 : start + 5] in (self.notation.delimiters.field, b"\r"):
                    found.append(Segment(self.notation, body[start + 1 : end]))
                start = body.find(mark, end)
        return found

    def names(self) -> list[str]:
        """The segment names there are, each once; what is not a name is left out, such as a text's next line."""
        field = self.notation.delimiters.field
        names = dict.fromkeys(line[:3] for line in self._body.split(b"\r") if line[3:4] == field)
        return [name.decode() for name in names if re.fullmatch(rb"[A-Z][A-Z0-9]{2}", name)]

    def groups(self, first: bytes, others: frozenset[bytes]) -> list[dict[bytes, Segment]]:
        """Segments in message order as groups that each begin with `first` (PID with its MRG, in an A40)."""
        found: list[dict[bytes, Segment]] = []
        for segment in (Segment(self.notation, line) for line in self._body.split(b"\r")):
            if segment.name == first:
                found.append({first: segment})
            elif segment.name in others and found:
                found[-1].setdefault(segment.name, segment)
        return found

    def segment(self, name: bytes) -> Segment:
        """The first segment of a name; an empty one where there is none."""
        found = self.segments(name)
        return found[0] if found else Segment(self.notation, name)


def _nth(value: bytes, delimiter: bytes, number: int) -> bytes:
    if not delimiter or delimiter not in value:
        return value if number == 1 else b""
    parts = value.split(delimiter, number)
    return parts[number - 1] if number <= len(parts) else b""


def first_line(body: bytes) -> bytes:
    """What stands before the first CR or LF."""
    return body.partition(b"\r")[0].partition(b"\n")[0]


def _strip_mark(raw: bytes) -> bytes:
    for mark, encoding in BOMS:
        if raw.startswith(mark):
            body = raw[len(mark) :] if encoding == "utf-8" else raw.decode(encoding, "replace").encode()
            return body.lstrip(BLANKS)
    body = raw.lstrip(BLANKS)
    return body.removeprefix(b"\xef\xbb\xbf")


@lru_cache(maxsize=64)
def _separators(field: bytes, marks: bytes) -> Delimiters:
    """MSH-1 and MSH-2: up to five marks, each used once (the fifth, for truncation, is not needed here)."""
    used = [marks[place : place + 1] for place in range(len(marks))]
    if not 1 <= len(used) <= 5 or len({field, *used}) <= len(used) or not all(usable(mark) for mark in used):
        raise Hl7Error(102, "MSH^1^2", "bad_delimiters")
    return Delimiters(field, *used[:4], *[b""] * (4 - len(used)))


def usable(mark: bytes) -> bool:
    """Whether a byte can separate anything: visible, and no letter or digit."""
    return len(mark) == 1 and b"\x20" < mark < b"\x7f" and not mark.isalnum()


def _recode(body: bytes, delimiters: Delimiters) -> tuple[bytes, str, str]:
    """The body with delimiters that can be trusted, the set its values are in (MSH-18), and the codec it came in where
    that is another.
    """
    header = first_line(body).split(delimiters.field)
    given = header[17] if len(header) > 17 else b""
    # ISO-IR 87, ISO IR87 and iso_ir_87 are one set
    sets = given.decode("ascii", "replace").split((delimiters.repetition or b"~").decode())
    bare = [re.sub(r"[\s_/-]", "", name).upper() for name in sets]
    names = [name.removeprefix("ISO") if name.startswith("ISO8859") else name for name in bare]
    for name in names:
        if name in RECODED:
            try:
                return body.decode(RECODED[name]).encode(), "utf-8", RECODED[name]
            except UnicodeDecodeError:
                break
    return body, next((CHARSETS[name] for name in names if name in CHARSETS), "utf-8"), ""

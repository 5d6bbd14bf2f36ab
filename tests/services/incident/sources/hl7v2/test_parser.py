"""The reader: what real senders do, what the standard allows, and bytes that are no message at all."""

import string
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leeward.settings.policy import Source
from leeward.testing import ManualClock
from services.incident.decisions.claims import Mention
from services.incident.sources.hl7v2.parser import Hl7Error, Hl7Message
from services.incident.sources.hl7v2.receiver import read_hl7
from tests.services.incident.conftest import death, hl7

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
SOURCES = {"ehr": Source(kind="hl7v2")}
PLAIN = b"MSH|^~\\&|A|B|C|D|20261121||ADT^A03|1|P|2.5"


def pid5(value: bytes, header: bytes = PLAIN) -> str:
    return Hl7Message(header + b"\rPID|||||" + value + b"\r").segment(b"PID").text(5)


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n", b"\r\r\n\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"\r\n ", b"\n\xef\xbb\xbf", b"\x0b"])
def test_line_ends_blank_lines_and_marks(start: bytes, end: bytes) -> None:
    message = Hl7Message(start + death().replace(b"\r", end))
    assert message.segment(b"PV1").text(36) == "20"
    assert message.names() == ["MSH", "PID", "PV1"]


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_a_line_break_inside_a_value_ends_no_segment(end: bytes) -> None:
    raw = hl7(PID_11="1 Street\n\nMSH Town\nPID 1", PID_30="Y", NTE_3="one\nMSH EMERGENCY\nDOE JANE")
    message = Hl7Message(raw.replace(b"\r", end))
    assert message.segment(b"PID").text(30) == "Y"
    assert message.segment(b"PV1").text(19) == "V1"
    assert message.names() == ["MSH", "PID", "PV1", "NTE"]


def test_nor_does_a_text_that_goes_on_begin_one() -> None:
    message = Hl7Message(death() + b"NTE|1||one\rMSH EMERGENCY\rPV1 IS EMPTY\rDOE JANE\rEVN\r")
    assert message.names() == ["MSH", "PID", "PV1", "NTE"]
    assert len(message.segments(b"PV1")) == len(message.segments(b"EVN")) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_wide_encodings_with_a_mark(encoding: str) -> None:
    assert Hl7Message(hl7(PID_5="Žofie").decode().encode(encoding)).segment(b"PID").text(5) == "Žofie"


def test_the_delimiters_are_the_messages_own() -> None:
    raw = death(PID_5="Nov&x^B~C").decode().replace("|", "!").replace("^", "*").replace("~", "%")
    message = Hl7Message(raw.encode())
    assert message.segment(b"PV1").text(36) == "20"
    assert message.segment(b"PID").text(5, 2) == "B"
    assert [message.notation.part(one) for one in message.segment(b"PID").repetitions(5)] == ["Nov", "C"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (rb"A\F\B\S\C\T\D\R\E\E\F", "A|B^C&D~E\\F"),
        (rb"\H\bold\N\ x", "bold x"),
        (rb"\X41C3A9\ ", "Aé"),
        (rb"a\.br\b", "a\nb"),
        (rb"\Z1\x\C2842\y\M1B2C3D\ ", "xy"),
        (rb"\XZZ\ ", ""),
        (rb"lonely \ mark", "lonely \\ mark"),
    ],
)
def test_escapes(written: bytes, meant: str) -> None:
    assert pid5(written) == meant


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("", "utf-8", "Žofie"),
        ("UNICODE UTF-8", "utf-8", "Žofie"),
        ("8859/1", "latin-1", "Müller"),
        ("8859/15", "iso8859-15", "Œuvre €"),
        ("8859/2", "iso8859-2", "Žofie"),
        ("ASCII", "latin-1", "Müller"),
        ("", "latin-1", "Müller"),
        ("UNKNOWN SET", "utf-8", "Žofie"),
        ("~ISO IR87", "iso2022_jp", "山田太郎 ^B"),
        ("ISO IR87", "iso2022_jp", "看護"),
        ("ISO-IR 87", "iso2022_jp", "看護"),
        ("iso_ir_87~ASCII", "iso2022_jp", "看護"),
        ("UNICODE UTF-8~ISO-IR 87", "utf-8", "Žofie"),
        ("ASCII~8859/15", "iso8859-15", "Œuvre €"),
        ("~8859-15~8859/1", "iso8859-15", "Œuvre €"),
        ("ISO-8859-15", "iso8859-15", "Œuvre €"),
        ("ISO 8859/1", "latin-1", "Müller"),
        ("windows-1252", "cp1252", "„€“"),
        ("GB 18030-2000", "gb18030", "護士"),
        ("BIG-5", "big5", "護士功"),
    ],
)
def test_character_sets_with_a_sane_way_out(declared: str, encoding: str, text: str) -> None:
    header = PLAIN + b"||||||" + declared.encode()
    assert pid5(text.encode(encoding), header) == text.partition(" ^")[0]


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        (b"", 100, "no_header"),
        (b"PID|1\r", 100, "no_header"),
        (b"MS", 100, "no_header"),
        (b"MSH", 102, "bad_delimiters"),
        (b"MSHA^~\\&A", 102, "bad_delimiters"),
        (b"MSH|||A|B", 102, "bad_delimiters"),
        (b"MSH|^^\\&|A", 102, "bad_delimiters"),
        (b"MSH|^~\\&#$|A", 102, "bad_delimiters"),
        (PLAIN + b"\r" + PLAIN, 100, "several_headers"),
    ],
)
def test_what_is_no_message_says_so(raw: bytes, code: int, reason: str) -> None:
    with pytest.raises(Hl7Error) as raised:
        Hl7Message(raw)
    assert (raised.value.code, raised.value.reason) == (code, reason)


def test_what_a_message_has_not_is_empty() -> None:
    message = Hl7Message(PLAIN)
    assert message.segment(b"PV1").text(36) == ""
    assert message.segment(b"PV1").repetitions(7) == []
    assert message.segment(b"MSH").text(40, 3, 2) == ""
    assert message.header.text(1) == "|"
    assert message.header.raw(2) == b"^~\\&"


MARKS = rb"MSH|^~\&| MSH PID| PV1| ||||||| \X \ ^ ~ &".split(b" ")
pieces = st.one_of(st.binary(max_size=40), st.sampled_from([*MARKS, b"\r", b"\n", b"\x1b$B", b"\xff\xfe"]))


@given(st.lists(pieces, max_size=30).map(b"".join))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    """Whatever the bytes: a message, or the reader's own error; and then what it claims can be read out."""
    reading = read_hl7(raw, SOURCES, ManualClock(NOW))
    assert reading.fault is None or reading.fault.code in (100, 101, 102, 103, 202)


values = st.text(alphabet=string.printable + "éŽ山\x00\x1b", max_size=30)
PLACES = "PID_3 PID_18 PID_29 PID_30 PV1_3 PV1_6 PV1_7 PV1_19 PV1_36 PV1_45 ROL_3 ROL_4 MRG_1 EVN_2"
places = st.sampled_from(PLACES.split())


@given(st.sampled_from(["A01", "A03", "A08", "A13", "A31", "A40"]), st.dictionaries(places, values))
def test_no_field_breaks_what_a_message_claims(event: str, fields: dict[str, str]) -> None:
    reading = read_hl7(hl7(event, **fields), SOURCES, ManualClock(NOW))
    if reading.claim:
        assert all(isinstance(one, Mention) for one in reading.claim.mentions)
        assert reading.claim.occurred_at is None or reading.claim.occurred_at <= NOW


letters = st.text(st.characters(codec="utf-8", exclude_characters="|^~\\&\r\n\0"), max_size=20)


@given(st.lists(letters, min_size=1, max_size=8))
def test_components_come_back_as_they_were_put_in(parts: list[str]) -> None:
    message = Hl7Message(PLAIN + b"\rPID|||||" + "^".join(parts).encode() + b"\r")
    assert [message.segment(b"PID").text(5, n) for n in range(1, len(parts) + 1)] == [part.strip() for part in parts]

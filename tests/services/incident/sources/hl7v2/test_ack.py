"""Acknowledgements: which one a message gets, in which mode, and what stands in it."""

from datetime import UTC, datetime

import hl7 as python_hl7
import pytest

from services.incident.sources.hl7v2.ack import Header, build_answers, guess_header, header_of, internal_error
from services.incident.sources.hl7v2.parser import Hl7Error, Hl7Message
from tests.services.incident.conftest import codes, hl7

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
FAULT = Hl7Error(202, "MSH^1^11", "processing_id")


def header(accept: str = "", application: str = "", **more: str) -> Header:
    return header_of(Hl7Message(hl7(msh=f"|||{accept}|{application}", **more)))


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("", "", ["AA"], ["AR"]),
        (" ", "  ", ["AA"], ["AR"]),
        ("AL", "", ["CA"], ["CR"]),
        ("AL", "NE", ["CA"], ["CR"]),
        ("", "AL", ["AA"], ["AR"]),
        ("NE", "AL", ["AA"], ["AR"]),
        ("NE", "NE", [], []),
        ("NE", "", [], []),
        ("", "NE ", [], []),
        ("ER", "", [], ["CR"]),
        ("SU", "", ["CA"], []),
        ("ER", "AL", ["AA"], ["CR"]),
        ("SU", "ER", ["CA"], ["AR"]),
        ("AL", "AL", ["CA", "AA"], ["CR"]),
        ("al", "ne", ["CA"], ["CR"]),
        ("??", "", ["CA"], ["CR"]),
    ],
)
def test_the_mode_is_the_senders(accept: str, application: str, good: list[str], bad: list[str]) -> None:
    assert codes(build_answers(header(accept, application), None, NOW, "i")) == good
    assert codes(build_answers(header(accept, application), FAULT, NOW, "i")) == bad


def test_a_fault_of_ours_is_no_refusal_of_theirs() -> None:
    assert codes(internal_error(header(), NOW, "i")) == ["AE"]
    assert codes(internal_error(header("AL", "NE"), NOW, "i")) == ["CE"]


def test_an_acknowledgement_is_not_acknowledged() -> None:
    assert build_answers(header_of(Hl7Message(hl7("A03", kind="ACK"))), None, NOW, "i") == []


def test_what_stands_in_it_is_read_by_another_parser() -> None:
    [answer] = build_answers(header(ident="CTRL-7"), FAULT, NOW, "abc")
    parsed = python_hl7.parse(answer.decode())
    assert [str(parsed["MSH"][0][n]) for n in (3, 4, 5, 6)] == ["US", "HERE", "EHR", "HOSPITAL"]
    assert str(parsed["MSH"][0][9]) == "ACK^A03^ACK"
    assert (str(parsed["MSA"][0][1]), str(parsed["MSA"][0][2])) == ("AR", "CTRL-7")
    assert (str(parsed["ERR"][0][2]), str(parsed["ERR"][0][3])) == (
        "MSH^1^11",
        "202^Unsupported processing id^HL70357",
    )


def test_before_version_2_5_the_error_stands_in_its_first_field() -> None:
    old = header_of(Hl7Message(hl7().replace(b"|P|2.5", b"|P|2.3")))
    [answer] = build_answers(old, FAULT, NOW, "i")
    assert answer.split(b"\r")[2] == b"ERR|MSH^1^11^202&Unsupported processing id&HL70357"


def test_delimiters_and_bytes_go_back_as_they_came() -> None:
    raw = hl7(ident="1").replace(b"HOSPITAL", "H\xf4pital".encode("latin-1")).replace(b"|", b"!").replace(b"^", b"*")
    [answer] = build_answers(header_of(Hl7Message(raw)), None, NOW, "i")
    assert answer.startswith(b"MSH!*~\\&!US!HERE!EHR!H\xf4pital!")


@pytest.mark.parametrize(
    ("declared", "encoding", "name"),
    [("~ISO IR87", "iso2022_jp", "病院"), ("GB 18030-2000", "gb18030", "医院"), ("8859/1", "latin-1", "Hôpital")],
)
def test_names_go_back_in_the_character_set_they_came_in(declared: str, encoding: str, name: str) -> None:
    raw = hl7(msh=f"||||||{declared}").replace(b"HOSPITAL", name.encode(encoding))
    [answer] = build_answers(header_of(Hl7Message(raw)), None, NOW, "i")
    assert answer.split(b"\r")[0].endswith(declared.encode())
    assert name.encode(encoding) in answer
    assert Hl7Message(answer).header.text(6) == name


def test_a_control_id_goes_back_as_it_came() -> None:
    [answer] = build_answers(header_of(Hl7Message(hl7(ident=" 12 "))), None, NOW, "i")
    assert answer.split(b"\r")[1] == b"MSA|AA| 12 "


@pytest.mark.parametrize(
    ("raw", "control_id"),
    [
        (b"", b""),
        (b"\x00\xff rubbish", b""),
        (b"MSH", b""),
        (b"\xef\xbb\xbfMSH|^^\\&|A|B|C|D|E||ADT^A03|77|P|2.5", b"77"),
        (b"MSHX^~\\&XAXB", b""),
    ],
)
def test_what_cannot_be_read_is_refused_all_the_same(raw: bytes, control_id: bytes) -> None:
    [answer] = build_answers(guess_header(raw), Hl7Error(100, "MSH^1", "no_header"), NOW, "i")
    lines = answer.split(b"\r")
    assert lines[1].split(b"|")[1:] == [b"AR", control_id]
    assert b"100^Segment sequence error^HL70357" in lines[2]

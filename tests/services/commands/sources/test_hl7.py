"""Files of HL7 messages: told apart however they were saved, and answered only as they ask."""

import asyncio
import json
from pathlib import Path

import pytest
import typer

from leeward.adapters import store_of
from leeward.runtime import http_client
from leeward.service import Context
from leeward.settings import Settings, load_settings
from leeward.settings.keys import own_key
from leeward.testing import listening
from services.commands import catalogue
from services.commands.console import Failed
from services.commands.sources.hl7 import Acknowledgement, MllpConnection, acknowledgement, expected, send, split
from services.commands.sources.replay import replay
from services.demo.world.hospital import EMERGENCY_DEATH, ICU_DEATH
from services.incident.hashing import Hasher
from services.incident.intake.intake import Intake
from services.incident.sources.hl7v2.receiver import Hl7Receiver
from tests.services.commands.conftest import Leeward

ONE, OTHER = ICU_DEATH.message(), EMERGENCY_DEATH.message()


@pytest.mark.parametrize(
    "raw",
    [
        ONE + OTHER,
        ONE.replace(b"\r", b"\n") + b"\n\n" + OTHER.replace(b"\r", b"\r\n"),
        b"\xef\xbb\xbf" + ONE + b"\r" + OTHER,
        b"\x0b" + ONE + b"\x1c\r\x0b" + OTHER + b"\x1c\r",
    ],
)
def test_a_file_may_hold_several_messages(raw: bytes) -> None:
    assert split(raw) == [ONE, OTHER]


def test_a_field_that_says_msh_begins_nothing() -> None:
    assert split(b"MSH|^~\\&|A\rNTE|1|MSH|x\r") == [b"MSH|^~\\&|A\rNTE|1|MSH|x\r"]
    assert split(b"MSH|^~\\&|A\rNTE|1||one\nMSH WARD\rMSH WARD\r") == [b"MSH|^~\\&|A\rNTE|1||one\nMSH WARD\rMSH WARD\r"]
    assert split(b"hello\n") == []


@pytest.mark.parametrize(
    ("accept", "application", "answers"), [("", "", 1), ("AL", "NE", 1), ("AL", "AL", 2), ("NE", "NE", 0)]
)
def test_answers_are_waited_for_as_the_header_asks(accept: str, application: str, answers: int) -> None:
    header = f"MSH|^~\\&|A|B|C|D|20261121||ADT^A03|1|P|2.5|||{accept}|{application}"
    assert expected(header.encode() + b"\rEVN|A03\r") == answers


def test_a_refusal_says_where_and_which_rule() -> None:
    frame = (
        b"MSH|^~\\&|L|H|E|H|20261121||ACK|1|P|2.5\rMSA|AR|7\rERR||MSH^1^11|202^Unsupported processing id^HL70357|E\r"
    )
    assert str(acknowledgement(frame)) == "AR (202 Unsupported processing id at MSH^1^11)"
    old = b"MSH|^~\\&|L|H|E|H|20261121||ACK|1|P|2.3\rMSA|AR|7\rERR|MSH^1^11^202&Unsupported processing id&HL70357\r"
    assert str(acknowledgement(old)) == "AR (202 Unsupported processing id at MSH^1^11)"
    assert acknowledgement(b"hello") == Acknowledgement("unreadable")


async def test_a_refused_message_fails_and_the_next_is_still_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[bytes] = []

    async def listener(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for code in ("AR", "AA"):
            seen.append(await reader.readuntil(b"\x1c\r"))
            writer.write(f"\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|{code}|1\r\x1c\r".encode())
        await writer.drain()

    file = tmp_path / "two.hl7"
    file.write_bytes(ONE + OTHER)
    async with listening(listener) as port:
        with pytest.raises(Failed, match="1 of 2 not accepted"):
            await asyncio.to_thread(send, file, "127.0.0.1", port)
    assert seen == [b"\x0b" + ONE + b"\x1c\r", b"\x0b" + OTHER + b"\x1c\r"]
    assert capsys.readouterr().out == "message 1: AR\nmessage 2: AA\n"


async def test_a_line_that_closes_is_no_acknowledgement() -> None:
    async def listener(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\x1c\r")

    def talk(port: int) -> None:
        with MllpConnection("127.0.0.1", port) as line:
            line.exchange(ONE)

    async with listening(listener) as port:
        with pytest.raises(Failed, match="no acknowledgement"):
            await asyncio.to_thread(talk, port)


@pytest.mark.parametrize(
    ("conditions", "answers", "told"),
    [
        ("AL|AL", b"\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|CR|1\r\x1c\r", "CR"),
        ("ER|NE", b"\x0bMSH|^~\\&|||||||ACK|1|P|2.5\rMSA|CR|1\r\x1c\r", "CR"),
        ("ER|", b"", "none asked for"),
        ("ER|ER", b"", "none asked for"),
        ("SU|", b"", "no acknowledgement"),
        ("|", b"", "no acknowledgement"),
    ],
)
async def test_a_refusal_says_both_and_silence_is_consent_where_faults_alone_are_answered(
    monkeypatch: pytest.MonkeyPatch, conditions: str, answers: bytes, told: str
) -> None:
    monkeypatch.setattr("services.commands.sources.hl7.PATIENCE", 0.3)
    done = asyncio.Event()

    async def listener(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\x1c\r")
        writer.write(answers)
        await done.wait()

    def talk(port: int) -> str:
        header = f"MSH|^~\\&|A|B|C|D|20261121||ADT^A03|1|P|2.5|||{conditions}\r"
        try:
            with MllpConnection("127.0.0.1", port) as line:
                return str(line.exchange(header.encode()))
        except Failed as fault:
            return str(fault)

    async with listening(listener) as port:
        said = await asyncio.to_thread(talk, port)
        done.set()
    assert said.startswith(told)


def test_explaining_tells_nothing_of_the_patient(leeward: Leeward, tmp_path: Path) -> None:
    file = tmp_path / "death.hl7"
    file.write_bytes(ONE + OTHER)
    done = leeward("hl7", "explain", file, LEEWARD_CLOCK="2026-11-24T14:00:00Z")
    assert done.returncode == 0
    assert done.stdout.count("message ") == 2
    assert "record (discharged_dead)" in done.stdout
    for value in ("Fictitious", "Quentin", "704711", "P4773"):
        assert value not in done.stdout + done.stderr


def test_what_was_sent_is_decided_anew(leeward: Leeward, tmp_path: Path, environment: dict[str, str]) -> None:
    """Nothing of a patient is printed, and the command says what it cannot do."""
    none = leeward("hl7", "replay", "--source", "ehr", "--since", "36h")
    assert (none.returncode, none.stdout) == (1, "")
    assert "72 hours" in none.stderr
    settings = load_settings(environment)
    moved = ICU_DEATH.message().replace(b"|20|", b"|99|")
    assert moved != ICU_DEATH.message()
    asyncio.run(taken(settings, moved))
    config = Path(environment["LEEWARD_CONFIG"])
    config.write_text('[sources.ehr]\nkind = "hl7v2"\ndeath_dispositions = ["99"]\n')
    words = ("hl7", "replay", "--source", "ehr", "--since", "36h")
    dry = leeward(*words, "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "1 messages of ehr\nrecorded 1 (discharged_dead 1)\n" in dry.stdout
    assert "4711" not in dry.stdout
    done = json.loads(leeward(*words, "--json").stdout)
    assert done["counts"]["recorded"] == {"count": 1, "reasons": {"discharged_dead": 1}}


@pytest.mark.parametrize(
    ("source", "since", "until"),
    [("nobody", "36h", ""), ("ehr", "yesterday", ""), ("ehr", "1h", "2h"), ("ehr", "2026-11-21T08:00:00", "")],
)
def test_a_replay_needs_a_source_and_a_time(source: str, since: str, until: str) -> None:
    with pytest.raises(typer.BadParameter):
        replay(source, since, until, dry_run=True, as_json=False)


async def taken(settings: Settings, message: bytes) -> None:
    """What a running service has stored."""
    (service,) = catalogue.load(["incident"])
    store = store_of(settings, "incident", service.metadata, settings.clock())
    async with http_client() as http:
        context = Context("incident", settings, settings.clock(), store, own_key(settings, "incident"), http)
        receiver = Hl7Receiver(settings.sources, context.clock, Hasher.of(context.keys), Intake(context))
        [answer] = await receiver.from_mllp(message)
    await store.close()
    assert b"MSA|AA" in answer

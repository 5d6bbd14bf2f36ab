"""Whatever bytes come over a real MLLP connection: its protocol's answer, a counter with a reason, no trace, no value
echoed, and the connection lives on."""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import httpx
import psutil
import pytest
from hypothesis import strategies as st

from leeward import telemetry
from leeward.service import Context
from leeward.settings import load_settings
from leeward.settings.keys import keyring
from leeward.testing import ManualClock
from services.incident.models import METADATA
from services.incident.sources.hl7v2.mllp import LIMIT, framed
from services.incident.sources.hl7v2.parser import Hl7Message
from tests.databases import SqliteDatabases
from tests.fuzzing import fuzzed
from tests.services.incident.conftest import STAFF, Desk, death, hl7
from tests.services.incident.sources.hl7v2.ports import control_id, opened

CANARY = "Zq7Canary"
HEADER_END = death().index(b"\r") + 1
PERSONAL = {"PID_3": f"{CANARY}^^^HOSP^MR", "PID_5": f"{CANARY}^Jo", "PID_29": "20261121", "PV1_44": CANARY}
BASES = [
    death(**PERSONAL, NK1_2=CANARY, OBX_5=CANARY),
    hl7("A40", **PERSONAL, MRG_1=f"{CANARY}^^^HOSP"),
    hl7("A08", **PERSONAL, PID_30="Y", ROL_4=f"{CANARY}^X^^^^^^^EHR"),
    hl7("R01", kind="ORU", **PERSONAL, OBX_5=CANARY),
]
ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "latin-1", "iso2022_jp", "shift_jis", "gb18030", "utf-7", "cp037")


@dataclass
class Wire:
    """A running service and one blocking connection to it, made anew when it was closed."""

    number: int
    lines: list[str]
    desk: Desk
    _probes: Iterator[int] = field(default_factory=lambda: count(1))
    _socket: socket.socket | None = None
    _rest: bytes = b""

    def tell(self, *pieces: bytes) -> list[bytes]:
        """What is answered to some bytes, however they are cut; a good message behind them must get its AA."""
        probe = f"PROBE{next(self._probes)}"
        wire, self._socket = self._socket or socket.create_connection(("127.0.0.1", self.number), timeout=20), None
        for piece in (*pieces, framed(hl7("A05", ident=probe))):
            wire.sendall(piece)
        answers: list[bytes] = []
        self._rest = b""
        while not answers or Hl7Message(answers[-1]).segment(b"MSA").text(2) != probe:
            answers.append(self._answer(wire))
        assert said(answers[-1:]) == ["AA"]
        self._socket = wire  # one that something went wrong on would carry it into the next example
        return answers[:-1]

    def _answer(self, wire: socket.socket) -> bytes:
        while b"\x1c\r" not in self._rest:
            some = wire.recv(65536)
            assert some, "the connection was closed"
            self._rest += some
        frame, _, self._rest = self._rest.partition(b"\x1c\r")
        assert frame.startswith(b"\x0bMSH")
        return frame[1:]

    def close(self) -> None:
        if self._socket:
            self._socket.close()


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One service for every example: what an earlier one left behind is part of what a later one meets."""
    ready, found, stop = threading.Event(), [], asyncio.Event()
    loop = asyncio.new_event_loop()
    logger, heard = logging.getLogger("leeward"), Heard()

    async def serve() -> None:
        async with httpx.AsyncClient() as client:
            desk = await _desk(tmp_path_factory.mktemp("fuzz"), client)
            async with opened(desk.receiver.from_mllp) as port:
                found.append(Wire(port.number, heard.lines, desk))
                ready.set()
                await stop.wait()
            await desk.context.store.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    logger.addHandler(heard)
    thread.start()
    assert ready.wait(20)
    yield found[0]
    found[0].close()
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()
    logger.removeHandler(heard)


class Heard(logging.Handler):
    """Everything that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {vars(record).get('fields')}")


async def _desk(folder: Path, client: httpx.AsyncClient) -> Desk:
    settings = load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(folder)})
    clock = ManualClock(datetime(2026, 11, 21, 9, tzinfo=UTC))
    store = SqliteDatabases(folder).open("incident", METADATA, clock)
    desk = Desk(Context("incident", settings, clock, store, keyring(settings, "incident"), client))
    await desk.import_roster(STAFF)
    return desk


def said(answers: list[bytes]) -> list[str]:
    """MSA-1 of each, in whatever delimiters it came."""
    return [Hl7Message(answer).segment(b"MSA").text(1) for answer in answers]


def refusals() -> dict[str, float]:
    """Messages refused so far over MLLP, by reason."""
    [metric] = telemetry.MESSAGES_REFUSED.collect()
    rows = [one for one in metric.samples if one.name.endswith("_total") and one.labels["way"] == "mllp"]
    return {one.labels["reason"]: one.value for one in rows}


@contextlib.contextmanager
def well(wire: Wire) -> Iterator[list[bytes]]:
    """Whatever is answered inside: refusals are counted, none is a fault of ours, nothing of a person's is said."""
    answers: list[bytes] = []
    before, heard = refusals(), len(wire.lines)
    yield answers
    refused = {reason: number - before.get(reason, 0) for reason, number in refusals().items()}
    assert set(said(answers)) <= {"AA", "AR", "CA", "CR"}
    assert sum(refused.values()) >= sum(code in ("AR", "CR") for code in said(answers))
    assert refused.get("internal", 0) == refused.get("storage", 0) == 0
    told = b"\n".join(answers) + "\n".join(wire.lines[heard:]).encode()
    assert CANARY.encode() not in told
    assert b"Traceback" not in told


Change = tuple[str, int, bytes]
changes = st.lists(
    st.tuples(
        st.sampled_from(["insert", "remove", "replace", "double", "cut"]),
        st.integers(0, 400),
        st.one_of(
            st.binary(max_size=12), st.sampled_from([b"|", b"^", b"~", b"\\", b"&", b"\r", b"\n\n", b"\x00", b'""'])
        ),
    ),
    max_size=8,
)


def changed(raw: bytes, steps: list[Change]) -> bytes:
    """The message with its body changed; a frame's own marks would begin another frame, and so are left out."""
    header, body = raw[:HEADER_END], raw[HEADER_END:]
    for kind, place, some in steps:
        at = place % (len(body) + 1)
        end = at + len(some)
        body = {
            "insert": body[:at] + some + body[at:],
            "remove": body[:at] + body[end:],
            "replace": body[:at] + some + body[end:],
            "double": body[:at] + body,
            "cut": body[:at],
        }[kind]
    return header + body.replace(b"\x0b", b"").replace(b"\x1c", b"")


@fuzzed(st.sampled_from(BASES), changes)
def test_a_message_that_was_damaged_is_answered_and_echoes_nothing(wire: Wire, raw: bytes, steps: list[Change]) -> None:
    with well(wire) as answers:
        answers += wire.tell(framed(changed(raw, steps)))
        assert len(answers) == 1


@fuzzed(st.sampled_from(BASES), st.integers(0, 300), st.integers(0, 300))
def test_truncated_messages(wire: Wire, raw: bytes, start: int, end: int) -> None:
    with well(wire) as answers:
        if start % 3:
            answers += wire.tell(framed(raw[: HEADER_END + end]))
        else:  # without its header nothing says whose fields are whose
            answers += wire.tell(framed(raw[HEADER_END + start : HEADER_END + start + end]))
            assert said(answers) == ["AR"]


@fuzzed(
    st.sampled_from(BASES), st.binary(min_size=1, max_size=6).filter(lambda hasher: not {11, 13, 10, 28} & set(hasher))
)
def test_wrong_delimiters(wire: Wire, raw: bytes, hasher: bytes) -> None:
    with well(wire) as answers:
        answers += wire.tell(framed(raw.replace(b"|^~\\&", hasher, 1)))
        assert said(answers) in (["AR"], ["AA"])


@fuzzed(st.sampled_from(BASES), st.lists(st.tuples(st.sampled_from(ENCODINGS), st.text(max_size=20)), max_size=5))
def test_mixed_encodings(wire: Wire, raw: bytes, parts: list[tuple[str, str]]) -> None:
    notes = b"".join(b"NTE|1||" + text.encode(name, "replace") + b"\r" for name, text in parts)
    declared = parts[0][0].upper().encode() if parts else b""
    raw = raw[: HEADER_END - 1] + b"||||||" + declared + b"\r" + raw[HEADER_END:]
    with well(wire) as answers:
        answers += wire.tell(framed(raw + notes.replace(b"\x0b", b"").replace(b"\x1c", b"")))
        assert said(answers) in (["AA"], ["AR"])


junk = st.one_of(
    st.binary(max_size=80), st.sampled_from([b"\x0b", b"\x1c", b"\r", b"\x1c\r", b"\x0bMSH|", b"\x0b\x0b", b"\n"])
)


@fuzzed(st.lists(junk, max_size=12))
def test_frames_of_anything_in_pieces_of_any_size(wire: Wire, pieces: list[bytes]) -> None:
    with well(wire) as answers:
        answers += wire.tell(*pieces)


@fuzzed(
    st.sampled_from("A01 A02 A03 A04 A06 A07 A08 A11 A13 A31 A40".split()),  # noqa: SIM905
    st.dictionaries(
        st.sampled_from("PID_2 PID_3 PID_18 PID_29 PID_30 PV1_3 PV1_7 PV1_19 PV1_36 PV1_45 ROL_3 ROL_4 MRG_1".split()),  # noqa: SIM905
        st.one_of(
            st.text(alphabet="0129YNZ^~&\\|.\"' é\x00", max_size=40), st.sampled_from(["9" * 500, '""', "20", "Y"])
        ),
        max_size=6,
    ),
)
def test_any_values_in_the_fields_that_decide(wire: Wire, event: str, fields: dict[str, str]) -> None:
    with well(wire) as answers:
        answers += wire.tell(framed(hl7(event, **{"PID_5": CANARY, **fields})))
        assert said(answers) == ["AA"]


@pytest.mark.parametrize(
    ("raw", "error", "reason"),
    [
        (b"PID|1||4711\r", b"100", "no_header"),
        (b"MSHx^~\\&|A\r", b"102", "bad_delimiters"),
        (b"MSH|^^~\\&|A\r", b"102", "bad_delimiters"),
        (hl7() + hl7(), b"100", "several_headers"),
        (hl7(ident=""), b"101", "no_control_id"),
        (hl7(kind="", event=""), b"101", "no_message_type"),
        (hl7().replace(b"|P|", b"|T|"), b"202", "processing_id"),
        (hl7(OBX_5="x" * (LIMIT + 1)), b"104", "too_large"),
    ],
)
def test_each_fault_has_its_error_and_its_reason(wire: Wire, raw: bytes, error: bytes, reason: str) -> None:
    before = refusals().get(reason, 0)
    with well(wire) as answers:
        answers += wire.tell(framed(raw))
        assert said(answers) == ["AR"]
        assert b"\rERR|" in answers[0]
        assert error + b"^" in answers[0]
    assert refusals()[reason] == before + 1


def test_fifty_megabytes_in_one_frame_are_refused_and_not_held(wire: Wire) -> None:
    wire.tell(framed(hl7(OBX_5="x" * (LIMIT + 1))))
    process, chunk, peak = psutil.Process(), b"x" * 1_000_000, 0
    before = process.memory_info().rss

    def pieces() -> Iterator[bytes]:
        nonlocal peak
        yield b"\x0b" + hl7(ident="BIG") + b"OBX|1||||"
        for _ in range(50):
            yield chunk
            peak = max(peak, process.memory_info().rss)
        yield b"\x1c\r"

    with well(wire) as answers:
        answers += wire.tell(*pieces())
        assert said(answers) == ["AR"]
        assert control_id(answers[0]) == b"BIG"
    assert peak - before < 10_000_000


def test_a_slow_sender_gets_its_answer(wire: Wire) -> None:
    def slowly() -> Iterator[bytes]:
        for place, one in enumerate(framed(death(ident="SLOW", PID_3="S1^^^H"))):
            time.sleep(0.005 if place % 4 == 0 else 0)
            yield bytes([one])

    with well(wire) as answers:
        answers += wire.tell(*slowly())
        assert said(answers) == ["AA"]

"""MLLP: frames however the bytes arrive, answers in order, and a real socket with a third party's client."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hl7.client import MLLPClient
from hypothesis import given
from hypothesis import strategies as st

from leeward import telemetry
from leeward.listening import allow_files
from leeward.settings import SettingsError
from services.incident import listen
from services.incident.sources.hl7v2 import mllp
from services.incident.sources.hl7v2.mllp import END, Framer, Oversized, framed
from tests.services.incident.conftest import Desk, codes, death, full, hl7, refused
from tests.services.incident.sources.hl7v2.ports import Port, answer, closed, control_id, opened

contents = st.binary(max_size=60).filter(lambda raw: b"\x1c" not in raw and b"\x0bMSH" not in raw)
between = st.binary(max_size=10).map(lambda raw: raw.replace(b"\x0b", b""))


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


@given(st.lists(st.tuples(between, contents), max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_frames_come_out_however_the_bytes_are_cut(parts: list[tuple[bytes, bytes]], places: list[int]) -> None:
    framer = Framer()
    raw = b"".join(junk + framed(content) for junk, content in parts)
    out = [frame for piece in cut(raw, places) for frame in framer.feed(piece)]
    assert out == [content for _, content in parts]
    assert framer.dropped == sum(len(junk) for junk, _ in parts)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_no_bytes_break_the_framer(pieces: list[bytes]) -> None:
    framer = Framer(limit=100)
    for piece in pieces:
        for frame in framer.feed(piece):
            assert isinstance(frame, Oversized) or len(frame) <= 100
    assert len(framer._buffer) <= 300


@pytest.mark.parametrize("end", [b"\x1c\r", b"\x1c\n", b"\x1c\r\n", b"\x1c"])
def test_some_end_a_frame_in_their_own_way(end: bytes) -> None:
    assert Framer().feed(b"\x0bone" + end + b"\x0btwo\x1c\r") == [b"one", b"two"]


def test_a_frame_that_begins_anew_counts_from_there() -> None:
    assert Framer().feed(b"\x0bMSH|half\x0bMSH|whole\x1c\r") == [b"MSH|whole"]


def test_a_frame_above_the_limit_is_not_kept_and_the_next_one_is_read() -> None:
    framer = Framer(limit=1000)
    framer.feed(b"\x0bMSH|head")
    for _ in range(1000):
        assert framer.feed(b"x" * 1000) == []
        assert len(framer._buffer) < 2500
    assert framer.feed(b"\x1c\r\x0bnext\x1c\r") == [Oversized(b"MSH|head" + b"x" * 1000), b"next"]


async def test_a_third_partys_client_gets_its_answer(desk: Desk, port: Port) -> None:
    def send() -> bytes:
        with MLLPClient("127.0.0.1", port.number) as client:
            return bytes(client.send_message(death(ident="77")))

    reply = (await asyncio.to_thread(send)).strip(b"\x0b\x1c\r")
    assert codes([reply]) == ["AA"]
    assert control_id(reply + b"\r") == b"77"
    assert await desk.kinds() == ["recorded"]


async def test_pipelined_frames_are_answered_in_order(desk: Desk, port: Port) -> None:
    reader, writer = await port.open()
    messages = [death(ident=str(n), PID_3=f"{n}^^^H") if n % 3 else b"rubbish" for n in range(600)]
    writer.write(b"noise" + b"".join(framed(message) for message in messages))
    replies = [await answer(reader) for _ in messages]
    assert [control_id(one) for one in replies] == [str(n).encode() if n % 3 else b"" for n in range(600)]
    assert codes(replies) == ["AA" if n % 3 else "AR" for n in range(600)]
    assert len(await desk.kinds()) == 400


async def test_a_peer_that_has_finished_sending_still_gets_its_answers(port: Port) -> None:
    reader, writer = await port.open()
    writer.write(framed(death(ident="1")) + framed(death(ident="2")) + b"\x0bMSH|half")
    writer.write_eof()
    assert codes([await answer(reader), await answer(reader)]) == ["AA", "AA"]
    assert await closed(reader)


async def test_a_last_frame_without_its_cr_is_whole_when_the_peer_has_finished(port: Port) -> None:
    reader, writer = await port.open()
    writer.write(framed(death(ident="1")) + framed(death(ident="2"))[:-1])
    writer.write_eof()
    assert codes([await answer(reader), await answer(reader)]) == ["AA", "AA"]
    assert await closed(reader)


async def test_a_frame_too_large_is_refused_and_the_connection_lives(port: Port) -> None:
    reader, writer = await port.open()
    writer.write(framed(hl7(ident="BIG", OBX_5="x" * 2_000_000)) + framed(hl7(ident="2")))
    first, second = await answer(reader), await answer(reader)
    assert (codes([first]), control_id(first)) == (["AR"], b"BIG")
    assert b"104^Value too long" in first
    assert codes([second]) == ["AA"]


async def test_no_answer_is_no_answer(port: Port) -> None:
    reader, writer = await port.open()
    writer.write(framed(hl7(ident="1", msh="|||NE|NE")) + framed(hl7(ident="2", msh="|||AL|AL")))
    replies = [await answer(reader), await answer(reader)]
    assert codes(replies) == ["CA", "AA"]
    assert [control_id(one) for one in replies] == [b"2", b"2"]


@pytest.mark.database("sqlite")
async def test_what_could_not_be_stored_is_not_acknowledged(desk: Desk, port: Port) -> None:
    before = telemetry.MESSAGES_REFUSED.labels("mllp", "storage")._value.get()
    reader, writer = await port.open()
    with full(desk):
        writer.write(b"".join(framed(death(ident=str(n), NTE_3="x" * 50_000)) for n in range(20)))
        assert await closed(reader)
    assert telemetry.MESSAGES_REFUSED.labels("mllp", "storage")._value.get() > before
    assert await desk.kinds() == []
    reader, writer = await port.open()
    writer.write(framed(death(ident="0")))
    assert codes([await answer(reader)]) == ["AA"]


async def test_one_message_that_breaks_us_does_not_hold_up_the_feed(
    desk: Desk, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a fault of ours")

    reader, writer = await port.open()
    with monkeypatch.context() as patched:
        patched.setattr("services.incident.decisions.decide.decide_claim", broken)
        writer.write(framed(death(ident="1")))
        assert codes([await answer(reader)]) == ["AE"]
    writer.write(framed(death(ident="2")))
    assert codes([await answer(reader)]) == ["AA"]


async def test_a_message_with_more_names_than_a_statement_takes(desk: Desk, port: Port) -> None:
    reader, writer = await port.open()
    names = "~".join(f"{n}^^^H" for n in range(40_000))
    writer.write(framed(death(ident="1", PID_3=names, PV1_7=names)) + framed(death(ident="2")))
    assert codes([await answer(reader), await answer(reader)]) == ["AA", "AA"]
    assert await desk.kinds() == ["recorded", "recorded"]


def let_go(fault: str) -> float:
    return float(telemetry.MLLP_CLOSED.labels(fault)._value.get())


async def test_a_silent_peer_is_let_go(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp, "IDLE_SECONDS", 0.05)
    before = let_go("idle")
    reader, _ = await port.open()
    assert await closed(reader)
    assert let_go("idle") == before + 1


async def test_bytes_outside_frames_are_counted_once_and_line_ends_are_none(port: Port) -> None:
    before = refused("outside_frame", "mllp")
    reader, writer = await port.open()
    writer.write(framed(death(ident="1")) + b"\n\r\n" + framed(death(ident="2")))
    assert codes([await answer(reader), await answer(reader)]) == ["AA", "AA"]
    assert refused("outside_frame", "mllp") == before
    writer.write(b"MSH|a message without its VT\r" + END)
    writer.write(framed(death(ident="3")))
    assert codes([await answer(reader)]) == ["AA"]
    assert refused("outside_frame", "mllp") == before + 1


async def test_a_frame_that_is_cut_off_is_counted(port: Port) -> None:
    before = refused("unfinished", "mllp")
    reader, writer = await port.open()
    writer.write(b"\x0bMSH|half")
    writer.write_eof()
    assert await closed(reader)
    assert refused("unfinished", "mllp") == before + 1


async def test_a_peer_that_never_ends_its_frame_is_let_go(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mllp, "FRAME_SECONDS", 0.15)
    before = let_go("slow"), refused("unfinished", "mllp")
    reader, writer = await port.open()
    loop = asyncio.get_running_loop()
    start = loop.time()
    writer.write(b"\x0bMSH|")
    reading = asyncio.create_task(closed(reader))
    while not reading.done() and loop.time() < start + 3:
        with contextlib.suppress(ConnectionError):
            writer.write(b"x")
        await asyncio.sleep(0.02)
    assert await reading
    assert (let_go("slow"), refused("unfinished", "mllp")) == (before[0] + 1, before[1] + 1)


async def test_stopping_finishes_what_was_taken(desk: Desk, port: Port) -> None:
    reader, writer = await port.open()
    writer.write(b"".join(framed(death(ident=str(n), PID_3=f"{n}^^^H")) for n in range(50)))
    first = await answer(reader)
    port.stop()
    await port.ended
    replies = [first]
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            replies.append(await answer(reader))
    assert set(codes(replies)) == {"AA"}
    assert len(await desk.kinds()) == len(replies)
    with pytest.raises(OSError):  # noqa: PT011 which one is the platform's choice
        await port.open()


async def test_a_hundred_connections_at_once(desk: Desk, port: Port) -> None:
    async def one(n: int) -> str:
        reader, writer = await port.open()
        writer.write(framed(death(ident=str(n), PID_3=f"{n}^^^H")))
        [code] = codes([await answer(reader)])
        return code

    assert await asyncio.gather(*(one(n) for n in range(100))) == ["AA"] * 100
    assert len(await desk.kinds()) == 100


async def test_two_thousand_connections_at_once(port: Port) -> None:
    count = min(2000, (allow_files() - 500) // 2)
    begun = asyncio.get_running_loop().time()
    streams = [await port.open() for _ in range(count)]
    for n, (_, writer) in enumerate(streams):
        writer.write(framed(hl7(ident=str(n), PID_3=f"{n}^^^H")))
    replies = [await answer(reader) for reader, _ in streams]
    assert codes(replies) == ["AA"] * count
    assert [control_id(reply) for reply in replies] == [str(n).encode() for n in range(count)]
    assert count < 2000 or asyncio.get_running_loop().time() - begun < 30


@dataclass
class SlowDatabase:
    """Takes messages and answers them when it is let."""

    free: asyncio.Event = field(default_factory=asyncio.Event)
    taken: int = 0

    async def __call__(self, frame: bytes | Oversized, _source: str | None) -> list[bytes]:
        self.taken += 1
        await self.free.wait()
        return [bytes(frame) if isinstance(frame, bytes) else b""]


async def test_a_slow_database_slows_the_sender() -> None:
    frames = [f"MSH|{n}".encode() for n in range(3 * mllp.PIPELINE)]
    database = SlowDatabase()
    async with opened(database) as port:
        reader, writer = await port.open()
        writer.writelines(map(framed, frames))
        await asyncio.sleep(0.2)
        assert database.taken == mllp.PIPELINE
        database.free.set()
        assert [await answer(reader) for _ in frames] == frames


async def test_what_waits_for_a_slow_database_is_bounded_over_all_connections() -> None:
    room, most = mllp.Room(100), 0

    async def one(size: int) -> None:
        nonlocal most
        await room.take(size)
        most = max(most, room.held if size < 500 else 0)
        try:
            await asyncio.sleep(0)
        finally:
            room.give(size)

    given_up = [asyncio.create_task(one(60)) for _ in range(20)]
    tasks = [asyncio.create_task(one(size)) for size in [*range(1, 100), 500]]
    await asyncio.sleep(0)
    for task in given_up[::2]:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, *given_up, return_exceptions=True)
    assert room.held == 0
    assert 60 <= most <= 100


async def test_the_files_of_a_process_are_raised_once() -> None:
    assert allow_files() == allow_files() >= 256


async def test_a_port_that_is_taken_stops_the_start(desk: Desk) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = desk.context.settings.model_copy(update={"mllp_port": other.getsockname()[1]})
        with pytest.raises(SettingsError, match="LEEWARD_MLLP_PORT"):
            await listen(settings, desk.receiver, asyncio.Event())

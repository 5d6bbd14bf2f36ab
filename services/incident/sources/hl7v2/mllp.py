"""MLLP (HL7 v2 minimal lower layer protocol, release 1): frames over raw bytes, answers in order.

A frame is VT … FS CR. What stands between frames is dropped, a frame above the limit is refused without being held in
memory, and a frame that begins again inside another counts from its new beginning.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from leeward import telemetry

VT: Final = b"\x0b"
END: Final = b"\x1c\r"
LIMIT: Final = 1024 * 1024
KEPT: Final = 4096  # of a frame that is too large: enough for its header
PIPELINE: Final = 256  # frames of one connection that may wait for their answers
HELD: Final = 64 * 1024 * 1024  # bytes of messages, of all connections, that may wait for the database
IDLE_SECONDS: Final = 3600.0
FRAME_SECONDS: Final = 60.0  # from a frame's first byte to its last, and for a peer to take its answers
FINISH_SECONDS: Final = 10.0
_END: Final = re.compile(rb"\x1c(?:[\r\n]|(?=\x0b))")  # some send LF, some nothing before the next VT
_RESTART: Final = b"\x0bMSH"


@dataclass(frozen=True, slots=True)
class Oversized:
    """A frame above the limit: its first bytes."""

    head: bytes


class Framer:
    """Bytes in, whole frames out; holds one frame at most."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._head: bytes | None = None  # of a frame that has grown too large
        self.inside = False
        self.dropped = 0  # bytes outside frames, so far
        self.noise = False  # whether some of them were more than blanks

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """The frames that these bytes complete, in order."""
        self._buffer += data
        frames: list[bytes | Oversized] = []
        while True:
            if not self.inside:
                start = self._buffer.find(VT)
                self.inside = start >= 0
                skipped = start if self.inside else len(self._buffer)
                self.dropped += skipped
                self.noise = self.noise or bool(self._buffer[:skipped].strip())
                del self._buffer[: skipped + self.inside]
            if not self.inside:
                break
            found = _END.search(self._buffer, self._scanned)
            if not found:
                if len(self._buffer) > self._limit:
                    self._head = self._head or bytes(self._buffer[:KEPT])
                    del self._buffer[:-1]
                self._scanned = max(0, len(self._buffer) - 1)
                break
            if self._head is not None or found.start() > self._limit:
                frames.append(Oversized(self._head or bytes(self._buffer[:KEPT])))
            else:
                restart = self._buffer.rfind(_RESTART, 0, found.start())
                frames.append(bytes(self._buffer[restart + 1 if restart >= 0 else 0 : found.start()]))
            del self._buffer[: found.end()]
            self._scanned, self._head, self.inside = 0, None, False
        return frames


def framed(content: bytes) -> bytes:
    """Content as one frame."""
    return VT + content + END


Answer = Callable[[bytes | Oversized], Awaitable[list[bytes]]]


class Room:
    """Room for messages that wait for the database, shared by all connections: while it is full, none is read from."""

    def __init__(self, limit: int = HELD) -> None:
        self._limit = limit
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.held = 0

    async def take(self, size: int) -> None:
        """Wait for room; what is larger than all of it goes in alone."""
        while self.held and self.held + size > self._limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()
                raise
        self.held += size
        if self.held < self._limit:
            self._wake()

    def give(self, size: int) -> None:
        """Let the next one look whether there is room now."""
        self.held -= size
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


@dataclass(eq=False)
class Connection:
    """One peer: frames are handed on as they come, at most `PIPELINE` at a time, and answered in their order."""

    answer: Answer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    room: Room = field(default_factory=Room)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PIPELINE))
    _waiting: asyncio.Queue[asyncio.Task[list[bytes]] | None] = field(default_factory=asyncio.Queue)
    _reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the peer is done, idle for too long, or a message could not be stored."""
        self._reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        await asyncio.wait([self._reading])
        self._waiting.put_nowait(None)
        await asyncio.wait([writing])
        self.writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self.writer.wait_closed()

    def finish(self) -> None:
        """Take nothing more; what was taken is still answered."""
        if self._reading:
            self._reading.cancel()

    async def _read(self) -> None:
        framer, loop = Framer(), asyncio.get_running_loop()
        deadline = loop.time() + IDLE_SECONDS
        more = True
        try:
            while more:
                async with asyncio.timeout_at(deadline):
                    data = await self.reader.read(65536)
                more = bool(data)
                # a frame whose CR never came is whole all the same
                was_inside, frames = framer.inside, framer.feed(data or END[-1:])
                for frame in frames:
                    await self._hand_on(frame)
                if framer.noise:
                    telemetry.MESSAGES_REFUSED.labels("mllp", "outside_frame").inc()
                    framer.noise = False
                if not framer.inside:
                    deadline = loop.time() + IDLE_SECONDS
                elif frames or not was_inside:
                    deadline = loop.time() + FRAME_SECONDS
        except TimeoutError:
            telemetry.MLLP_CLOSED.labels("slow" if framer.inside else "idle").inc()
        except OSError:
            pass  # the peer has broken it off
        if framer.inside:
            telemetry.MESSAGES_REFUSED.labels("mllp", "unfinished").inc()

    async def _hand_on(self, frame: bytes | Oversized) -> None:
        size = len(frame) if isinstance(frame, bytes) else 0
        await self._slots.acquire()
        await self.room.take(size)
        task = asyncio.ensure_future(self.answer(frame))
        task.add_done_callback(lambda _: self.room.give(size))
        self._waiting.put_nowait(task)

    async def _write(self) -> None:
        """Answer in order. A message that was not stored gets no answer: the connection closes instead."""
        try:
            # one write for all the answers that are there: a commit gives many at once
            ready = bytearray()
            while True:
                if self._waiting.empty():
                    await self._flush(ready)
                taken = await self._waiting.get()
                if taken is None or not (taken.done() and taken.exception() is None):
                    await self._flush(ready)
                if taken is None:
                    break
                for one in await taken:
                    ready += framed(one)
                self._slots.release()
        except Exception as fault:
            telemetry.MLLP_CLOSED.labels(type(fault).__name__).inc()
            self.finish()
        rest = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]
        for task in rest:
            if task:
                task.cancel()
        await asyncio.gather(*(task for task in rest if task), return_exceptions=True)

    async def _flush(self, ready: bytearray) -> None:
        if not ready:
            return
        self.writer.write(bytes(ready))
        ready.clear()
        async with asyncio.timeout(FRAME_SECONDS):
            await self.writer.drain()

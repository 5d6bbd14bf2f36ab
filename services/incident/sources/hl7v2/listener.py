"""The MLLP port: who may speak, in the clear on this machine alone, else by certificate; and one `Connection` each."""

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Final

from leeward import telemetry
from leeward.clock import first_of
from services.incident.sources.hl7v2.mllp import FINISH_SECONDS, Connection, Oversized, Room
from services.incident.sources.hl7v2.tls import PeerVerifier

HANDSHAKE_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.5  # when the system gives no more files
SPARE: Final = 256  # files for databases, HTTP and mail
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Answer = Callable[[bytes | Oversized, str | None], Awaitable[list[bytes]]]


class Listener:
    """Takes connections until it is stopped, as many at once as this process may have files, less some to spare.

    `answer` is given each frame and the source that the certificate speaks for, None in the clear.
    """

    def __init__(self, answer: Answer, verifier: PeerVerifier | None = None) -> None:
        self._answer = answer
        self._verifier = verifier or PeerVerifier()
        self._room = Room()
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        self._places = asyncio.Semaphore(max(SPARE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE))

    async def run(self, bound: socket.socket, stop: asyncio.Event) -> None:
        """Serve on a bound socket, which is closed in the end, until `stop`; then finish what was taken."""
        accepting = asyncio.ensure_future(self._accept(bound))
        try:
            await first_of(stop.wait(), asyncio.shield(accepting))
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            bound.close()
            for task, connection in self._connections.items():
                if connection:
                    connection.finish()
                else:
                    task.cancel()
            if self._connections:
                await asyncio.wait(list(self._connections), timeout=FINISH_SECONDS)
        if not stop.is_set():
            accepting.result()

    async def _accept(self, bound: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            try:
                taken, _ = await loop.sock_accept(bound)
            except OSError as fault:
                self._places.release()
                if fault.errno in EXHAUSTED:
                    telemetry.MLLP_CLOSED.labels("no_files").inc()
                    await asyncio.sleep(PAUSE_SECONDS)
                continue
            task = asyncio.ensure_future(self._serve(taken))
            self._connections[task] = None
            task.add_done_callback(self._gone)

    def _gone(self, task: "asyncio.Task[None]") -> None:
        del self._connections[task]
        self._places.release()
        if not task.cancelled() and (fault := task.exception()):
            telemetry.MLLP_CLOSED.labels(type(fault).__name__).inc()

    async def _serve(self, taken: socket.socket) -> None:
        opened = await self._opened(taken)
        if opened is None:
            return
        reader, writer = opened
        if self._verifier.mutual:
            source = self._verifier.source_of(writer.get_extra_info("peercert") or {})
            refused = "" if source else "unknown_certificate"
        else:
            # in the clear each frame says whose it is
            source, refused = None, "" if on_loopback(writer) else "not_loopback"
        if refused:
            telemetry.MESSAGES_REFUSED.labels("mllp", refused).inc()
            telemetry.log("mllp_refused", reason=refused)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(lambda frame: self._answer(frame, source), reader, writer, self._room)
        self._connections[task] = connection
        telemetry.MLLP_CONNECTIONS.inc()
        try:
            await connection.run()
        finally:
            telemetry.MLLP_CONNECTIONS.dec()

    async def _opened(self, taken: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Streams once the handshake is over, None where it failed."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limits = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": FINISH_SECONDS}
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, taken, ssl=self._verifier.context, **(limits if self._verifier.context else {})
            )
        except OSError as fault:
            telemetry.MESSAGES_REFUSED.labels("mllp", "handshake").inc()
            telemetry.log("mllp_refused", reason="handshake", fault=type(fault).__name__)
            with contextlib.suppress(OSError):
                taken.close()
            return None
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def on_loopback(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer is on this machine."""
    peer = writer.get_extra_info("peername")
    return bool(peer) and ip_address(peer[0]).is_loopback

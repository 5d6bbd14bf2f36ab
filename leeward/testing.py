"""For tests and the demonstration alone: a clock turned by hand, people, a mail server, and waiting until."""

import asyncio
import contextlib
import email
import email.policy
import heapq
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.message import EmailMessage
from itertools import count
from typing import Any, Final, TypeVar

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from leeward.people import Member

T = TypeVar("T")


class ManualClock:
    """A clock that stands still until it is advanced; sleepers wake in the order of their times."""

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._set_by = timedelta()
        self._order = count()
        self._sleepers: list[tuple[datetime, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._now + self._set_by

    def steady(self) -> float:
        return self._now.timestamp()

    def leap(self, **span: float) -> None:
        """Be set to another time, forwards or backwards: no time passes, and nobody wakes."""
        self._set_by += timedelta(**span)

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        # counts from the call, where the caller has read the time, and not from when its task has its first turn
        waiting: asyncio.Future[None] | None = None
        if seconds > 0:
            waiting = asyncio.get_running_loop().create_future()
            heapq.heappush(self._sleepers, (self._now + timedelta(seconds=seconds), next(self._order), waiting))

        async def wait() -> None:
            await (waiting or asyncio.sleep(0))

        return wait()

    async def advance(self, **span: float) -> None:
        """Move on by a timedelta's keywords, waking every sleeper that falls due on the way."""
        target = self._now + timedelta(**span)
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, waiting = heapq.heappop(self._sleepers)
            self._now = max(self._now, due)
            if not waiting.done():
                waiting.set_result(None)
            await asyncio.sleep(0)
        self._now = target
        await asyncio.sleep(0)


async def eventually(check: Callable[[], object], within: float = 10.0) -> None:
    """Wait until `check`, a coroutine function or not, gives something true: what no clock of ours decides.

    Raises:
        AssertionError: when it has not after so many seconds.
    """
    until = time.monotonic() + within
    while True:
        found = check()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert time.monotonic() < until, f"it did not happen within {within} s"
        await asyncio.sleep(0.002)


def wait_until(
    look: Callable[[], T], seconds: float = 10.0, until: Callable[[T], bool] = bool, *, pause: float = 0.02
) -> T:
    """The same where no loop runs: what `look` gives as soon as it satisfies `until`.

    Raises:
        AssertionError: after so many seconds, with what was seen last.
    """
    patience = time.monotonic() + seconds
    while True:
        seen = look()
        if until(seen):
            return seen
        assert time.monotonic() < patience, f"not within {seconds} s; last seen: {seen!r}"
        time.sleep(pause)


@contextlib.asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server on loopback that somebody connects to; gives its port, and ends once every connection is closed."""
    answered: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await eventually(lambda: answered)
        await asyncio.gather(*answered)


def reference(name: str) -> str:
    """The same UUIDv4 for the same name."""
    return str(uuid.UUID(bytes=uuid.uuid5(uuid.NAMESPACE_DNS, name).bytes, version=4))


def member(name: str, **differences: Any) -> Member:
    """Somebody on the roster: a nurse of the ICU, unless said otherwise."""
    plain = Member(
        person_ref=reference(f"person {name}"),
        recipient_ref=reference(f"recipient {name}"),
        identifiers=(("ehr", name),),
        display_name=name,
        profession="nurse",
        unit="ICU",
        line_managers=(),
        languages=("en",),
        email=f"{name}@example.org",
        mobile="",
        timezone="UTC",
        status="active",
        supporter=False,
        introduction="",
        training_completed=None,
        training_expires=None,
        max_active=None,
    )
    return replace(plain, **differences)


@dataclass(frozen=True)
class Received:
    """One mail as it was handed over to one address."""

    sender: str
    to: str
    raw: bytes
    mail: EmailMessage


def ignore(_received: Received) -> None:
    """For mails of which nobody wants to hear."""


HANGS_UP: Final = "hangs up"
# mail servers with manners of their own: by what they are called, at which verb they say what
MANNERS: Final = {
    "closes at mail": ("MAIL", "421 4.3.2 closing"),
    "closes at rcpt": ("RCPT", "421 4.3.2 closing"),
    "closes at the dot": ("DATA", "421 4.3.2 closing"),
    "greylists": ("RCPT", "450 4.2.0 greylisted"),
    "too many recipients": ("RCPT", "452 4.5.3 too many recipients"),
    "full box": ("RCPT", "552 5.2.2 mailbox full"),
    "hangs up at mail": ("MAIL", HANGS_UP),
    "hangs up at rcpt": ("RCPT", HANGS_UP),
    "refuses by policy": ("RCPT", "550 5.7.1 relaying denied"),
}


class MailServer:
    """A real SMTP server on loopback that keeps what it is given, on a loop or in a thread of its own.

    Its manners can be changed: `replies` by verb (MAIL, RCPT, DATA) instead of a friendly one, each once, `HANGS_UP`
    for none at all; `manners` the same for whatever comes, or `for_address` alone. With `password` set it wants that.
    With `slow` it acknowledges no mail before that is set, and so many connections are dropped `after the dot` instead.
    """

    def __init__(self, came: Callable[[Received], object] = ignore) -> None:
        self.received: list[Received] = []
        self.replies: dict[str, list[str]] = {}
        self.manners: dict[str, str] = {}
        self.for_address: dict[str, str] = {}
        self.password: str | None = None
        self.slow: asyncio.Event | None = None
        self.cut_after_dot = 0
        self.connections = 0
        self.port = 0
        self._came = came
        self._sessions: set[SMTP] = set()
        self._server: asyncio.Server | None = None
        self._thread: Controller | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on the running loop."""
        self._server = await asyncio.get_running_loop().create_server(self.new_session, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more, and drop every connection."""
        if self._server is not None:
            self._server.close()
        for session in self._sessions:
            _drop(session)
        # a dropped connection is closed in the next turn of the loop
        await asyncio.sleep(0)

    def start_thread(self, port: int) -> None:
        """Listen where no loop runs."""
        self.port = port
        self._thread = _InThread(self, hostname="127.0.0.1", port=port)
        self._thread.start()

    def stop_thread(self) -> None:
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(self.stop(), self._thread.loop).result(10)
            self._thread.stop()

    @property
    def mails(self) -> list[EmailMessage]:
        return [one.mail for one in list(self.received)]

    @property
    def envelopes(self) -> list[tuple[str, str]]:
        """(sender, address) of each."""
        return [(one.sender, one.to) for one in self.received]

    def ids(self) -> list[str]:
        """The Message-ID of each."""
        return [str(mail["Message-ID"]) for mail in self.mails]

    def new_session(self) -> SMTP:
        """What speaks with one connection of the running loop."""
        self.connections += 1
        session = SMTP(
            self,
            loop=asyncio.get_running_loop(),
            hostname="localhost",
            ident="mail",
            authenticator=self._authenticate if self.password is not None else None,
            auth_require_tls=False,
        )
        self._sessions.add(session)
        return session

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any
    ) -> AuthResult:
        given = data.password if isinstance(data, LoginPassword) else b""
        return AuthResult(success=given == (self.password or "").encode(), handled=False)

    def _reply(self, server: SMTP, verb: str, address: str = "") -> str | None:
        reply = self.replies[verb].pop(0) if self.replies.get(verb) else self.manners.get(verb)
        reply = self.for_address.get(address, reply)
        if reply == HANGS_UP:
            _drop(server)
        return reply

    async def handle_MAIL(  # noqa: N802 the library's name
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self._reply(server, "MAIL") or "250 OK"

    async def handle_RCPT(  # noqa: N802 the library's name
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if reply := self._reply(server, "RCPT", address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        if reply := self._reply(server, "DATA"):
            return reply
        raw = bytes(envelope.original_content or b"")
        for to in envelope.rcpt_tos:
            mail = email.message_from_bytes(raw, _class=EmailMessage, policy=email.policy.default)
            self.received.append(Received(envelope.mail_from or "", to, raw, mail))
            self._came(self.received[-1])
        if self.slow is not None:
            await self.slow.wait()
        if self.cut_after_dot:
            self.cut_after_dot -= 1
            _drop(server)
        return "250 OK"


class _InThread(Controller):
    """Runs a mail server's loop; the sessions are the mail server's own."""

    def factory(self) -> SMTP:
        server: MailServer = self.handler
        return server.new_session()


def _drop(session: SMTP) -> None:
    """Drop a connection without a word."""
    if isinstance(session.transport, asyncio.Transport):
        session.transport.abort()

"""Where messages arrive: a real SMTP server and a webhook gateway that write down what came, from when to when."""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from services.demo.servers.server import Port
from tests.e2e.harness import Mailbox

_LINK: Final = re.compile(r"https?://\S+")
# some answers take a while, so that what dies at any moment is often in the middle of a hand-off
DAWDLES: Final = 1.2
_SLOW: Final = (0.0, 0.0, 0.0, 0.0, 0.05, 0.3)


@dataclass(frozen=True)
class Arrival:
    """One message as it arrived, `key` being its Message-ID without the domain, or its idempotency key.

    begun: when the other side began to hand it over; at: when it was here whole; both by the machine's clock.
    """

    key: str
    to: str
    channel: str
    text: str
    begun: float
    at: float

    @property
    def link(self) -> str:
        """The link in it, "" where there is none."""
        found = _LINK.search(self.text)
        return found[0] if found else ""


@dataclass
class Arrivals:
    """Everything that came, and who is told of it."""

    all: list[Arrival]
    told: Callable[[Arrival], object]

    def note(self, arrival: Arrival) -> None:
        self.all.append(arrival)
        self.told(arrival)

    def begin(self, told: Callable[[Arrival], object]) -> None:
        """Forget what came, and tell this one from now on."""
        self.all = []
        self.told = told


def nobody(_arrival: Arrival) -> None:
    """For arrivals of which nobody wants to hear."""


class Post(Mailbox):
    """An SMTP server; it has a thread of its own.

    manner: how it treats what comes now; "" takes everything. `later` answers 451, `hang_up` drops the connection at
    RCPT, `slow_dot` takes its time before it says that it has a mail, `silent` before it says anything.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._begun: dict[int, float] = {}
        self._chance = random.Random(0)
        self.manner = ""
        super().__init__()

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """A hand-off begins (the name is the library's)."""
        if self.manner == "silent":
            await asyncio.sleep(DAWDLES)
        self._begun[id(session)] = time.monotonic()
        return await super().handle_MAIL(server, session, envelope, address, options)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.manner == "later":
            return "451 4.7.1 Greylisted, try again later"
        if self.manner == "hang_up" and server.transport is not None:
            server.transport.close()
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        before = len(self.received)
        answer = await super().handle_DATA(server, session, envelope)
        for one in self.received[before:]:
            key = str(one.mail["Message-ID"]).strip("<>").partition("@")[0]
            text = one.mail.get_content()
            self._arrivals.note(Arrival(key, one.to, "email", text, self._begun[id(session)], time.monotonic()))
        await asyncio.sleep(DAWDLES) if self.manner == "slow_dot" else await _hesitate(self._chance)
        return answer


class Gateway:
    """The webhook's other side, on the runner's loop.

    manner: `busy` answers 503, `cut` drops the connection when it has the message, `slow` takes its time.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._port = Port()
        self._arrivals = arrivals
        self._chance = random.Random(0)
        self.manner = ""
        app = web.Application()
        app.router.add_post("/", self._take)
        self._runner = web.AppRunner(app, access_log=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port.number}/"

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port.number).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        if self.manner == "busy":
            return web.Response(status=503, headers={"Retry-After": "1"})
        if self.manner == "slow":
            await asyncio.sleep(DAWDLES)
        begun = time.monotonic()
        try:
            data = json.loads(await request.text())["data"]
        except ConnectionResetError:  # who sent it died half-way
            return web.Response(status=400)
        to = data["to"].get("email") or data["to"]["mobile"]
        self._arrivals.note(
            Arrival(request.headers["webhook-id"], to, "webhook", data["text"], begun, time.monotonic())
        )
        if self.manner == "cut" and request.transport is not None:
            request.transport.abort()
        await _hesitate(self._chance)
        return web.Response(status=204)


async def _hesitate(chance: random.Random) -> None:
    if pause := chance.choice(_SLOW):
        await asyncio.sleep(pause)

"""A small world around notify: a real mail server, a real gateway, a stand-in for matching's one route, a clock."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import httpx
from aiohttp import web
from sqlalchemy import Table, select

from leeward import testing
from leeward.contracts import Event, EventData, MessageCancelled, MessageRequested, bucket_up
from leeward.people import Member, recipient_ref
from leeward.service import Context, Wiring
from leeward.store import Timer, Unit
from leeward.store.retention import Retention
from leeward.store.timers import due, fire
from leeward.testing import MailServer, ManualClock, eventually
from leeward.web.app import create_app
from services.notify import SERVICE
from services.notify.delivery.sender import Post
from services.notify.recipients import importing

KEY = b"p" * 32
WEBHOOK_SECRET = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"


def member(staff_id: str, **given: Any) -> Member:
    """Somebody on the roster, by what matters to the story."""
    own = {
        "recipient_ref": recipient_ref(KEY, staff_id),
        "identifiers": (),
        "display_name": f"{staff_id.capitalize()} Example",
        "email": f"{staff_id}@hospital.example",
        "mobile": "+44 20 7946 0001",
        "timezone": "Europe/Berlin",
    }
    return testing.member(staff_id, **(own | given))


ANNA = member("anna", display_name="Dr. Anna Weber")
SAM = member("sam", supporter=True, display_name="Sam Field", introduction="I have worked nights for ten years.")


def link(mail: EmailMessage) -> str:
    """The path that a mail's link leads to; empty where it has none."""
    found = re.search(r"https?://[^/\s]+(/m/\S+)", mail.get_content())
    return found[1] if found else ""


class HttpServer:
    """A real HTTP server: the site's gateway, and matching's one route that notify asks."""

    def __init__(self) -> None:
        self.received: list[tuple[Mapping[str, str], dict[str, Any]]] = []
        self.bodies: list[str] = []
        self.statuses: list[int] = []
        self.retry_after = ""
        self.introduced: dict[str, str] = {}
        self.asked: list[str] = []
        self.port = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/gateway", self._gateway)
        app.router.add_get("/v1/cases/{ref}/introduction", self._introduction)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _gateway(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.bodies.append(body)
        self.received.append((dict(request.headers), json.loads(body)))
        again = {"Retry-After": self.retry_after} if self.retry_after else {}
        return web.Response(status=self.statuses.pop(0) if self.statuses else 202, headers=again)

    async def _introduction(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers.get("Authorization", ""))
        other = self.introduced.get(request.query["for"])
        return web.json_response({"recipient_ref": other}) if other else web.Response(status=404)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()


@dataclass
class World:
    """notify as it runs, without the bus: events go in by `happens`, and come out in `told`."""

    context: Context
    clock: ManualClock
    mail: MailServer
    http: HttpServer
    client: httpx.AsyncClient
    parts: Wiring = field(init=False)
    told: list[EventData] = field(default_factory=list)
    _tasks: list[asyncio.Future[None]] = field(default_factory=list)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _posts: list[Post] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.store.listeners.append(lambda unit: self.told.extend(event.data for event in unit.emitted))

    async def start(self) -> None:
        """Build notify anew, as after a restart."""
        self.parts = SERVICE.build(self.context)
        self._stop = asyncio.Event()
        self._run()
        owners = [getattr(task, "__self__", None) for task in self.parts.tasks]
        self._posts += [owner for owner in owners if isinstance(owner, Post)]
        recovery: Any = getattr(self.parts.tasks[0], "__self__", None)
        async with asyncio.timeout(10):
            await recovery.present.wait()
        app = create_app(self.context, self.parts.router)
        self.client = self.browser(app)
        self.app = app
        await asyncio.sleep(0)

    def browser(self, app: Any = None) -> httpx.AsyncClient:
        """Another browser, with cookies of its own."""
        transport = httpx.ASGITransport(app=app or self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://notify.test", follow_redirects=True)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks), 10)

    async def die(self) -> None:
        """As kill -9 would: nothing is finished."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Die, and close what a system closes for a process that was killed."""
        await self.die()
        for post in self._posts:
            if post.entry.name == "webhook":
                await post.channel.close()

    def wakes_up(self) -> None:
        """A process that stood still goes on where it was."""
        self._run()

    def _run(self) -> None:
        """The service's tasks and its retention, as the runtime runs them."""
        retention = Retention(self.context.store, *self.parts.retention)
        self._tasks = [asyncio.ensure_future(task(self._stop)) for task in (*self.parts.tasks, retention.run)]

    async def people(self, *members: Member) -> None:
        await self.context.store.write(lambda unit: importing.apply(unit, members))

    async def happens(self, *datas: EventData) -> None:
        """What the bus would bring, in one batch of one type."""
        handler = self.parts.handlers[type(datas[0])]

        def work(unit: Unit) -> None:
            handler(unit, [Event(str(uuid4()), data.key, data, unit.now) for data in datas])

        await self.context.store.write(work)

    async def asks(self, to: Member, template: str = "offer", **given: Any) -> MessageRequested:
        """matching asks for one message."""
        requested = self.request(to, template, **given)
        await self.happens(requested)
        return requested

    def request(self, to: Member, template: str = "offer", **given: Any) -> MessageRequested:
        fields: dict[str, Any] = {
            "request_ref": str(uuid4()),
            "case_ref": str(uuid4()),
            "step": template,
            "recipient_ref": to.recipient_ref,
            "template": template,
            "expires_at": bucket_up(self.clock.now() + timedelta(days=14)),
        }
        return MessageRequested(**{**fields, **given})

    async def cancels(self, *requests: MessageRequested) -> None:
        await self.happens(*(MessageCancelled(request_ref=request.request_ref) for request in requests))

    async def mailed(self, count: int = 1) -> list[str]:
        """The links of the mails, once there are so many; waits a moment more to see that there are no others."""
        await eventually(lambda: len(self.mail.mails) >= count)
        await asyncio.sleep(0.05)
        assert len(self.mail.mails) == count
        return self.links

    @property
    def links(self) -> list[str]:
        return [link(mail) for mail in self.mail.mails]

    async def fire_timers(self) -> None:
        """Fire what is due, as the runtime would."""

        def work(unit: Unit) -> list[Timer]:
            timers = due(unit)
            fire(unit, timers, self.parts.timers)
            return timers

        while await self.context.store.write(work):
            pass

    async def rows(self, table: Table) -> list[Any]:
        return await self.context.store.read(lambda conn: list(conn.execute(select(table)).all()))

    async def in_time(self, true: Callable[[], bool]) -> None:
        """Wait until something is so while time goes on: who looked a moment before it was due looks again."""

        async def ticking() -> None:
            while True:
                await asyncio.sleep(0.05)
                await self.clock.advance(seconds=61)

        ticks = asyncio.create_task(ticking())
        try:
            await eventually(true)
        finally:
            ticks.cancel()

    def answers(self) -> list[tuple[str, dict[str, str]]]:
        return [(e.answer, dict(e.options)) for e in self.told if hasattr(e, "answer") and hasattr(e, "options")]

    def outcomes(self) -> list[str]:
        return [e.state for e in self.told if hasattr(e, "state")]


Answer = Callable[..., Awaitable[httpx.Response]]


def when(text: str) -> datetime:
    return datetime.fromisoformat(text)

"""Every mailbox of the hospital: a real SMTP server, and a page on which its mails can be read and time let pass."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from leeward.settings import Settings
from leeward.testing import MailServer, Received
from leeward.web.app import Guard
from leeward.web.look import pages
from leeward.web.look.files import files
from services.demo.world.clock import DemoClock

TEMPLATES: Final = Path(__file__).parents[1] / "templates"
LINK: Final = re.compile(r"https?://\S+")
SPANS: Final = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
Door = Callable[[], Awaitable[str]]


@dataclass(frozen=True)
class Mail:
    """One mail as it was handed over."""

    number: int
    to: str
    sender: str
    subject: str
    text: str
    raw: bytes
    message_id: str
    at: datetime

    @property
    def link(self) -> str:
        """The one link of a message, "" where there is none."""
        found = LINK.search(self.text)
        return found[0] if found else ""


class Mailbox:
    """Keeps what it is given, for everybody, in memory."""

    def __init__(self, clock: DemoClock) -> None:
        self.mails: list[Mail] = []
        self.came: Callable[[Mail], None] = lambda _mail: None
        self._clock = clock
        self._server = MailServer(self._keep)
        self.start = self._server.start
        self.stop = self._server.stop

    def _keep(self, received: Received) -> None:
        parsed = received.mail
        body = parsed.get_body(("plain", "html"))
        text = body.get_content() if body else ""
        heads = (str(parsed["From"]), str(parsed["Subject"]), text, received.raw, str(parsed["Message-ID"]))
        mail = Mail(len(self.mails) + 1, received.to, *heads, self._clock.now())
        self.mails.append(mail)
        self.came(mail)

    def to(self, address: str) -> list[Mail]:
        """The mails of one address, oldest first."""
        return [mail for mail in self.mails if mail.to == address]


def web(mailbox: Mailbox, settings: Settings, clock: DemoClock, door: Door) -> FastAPI:
    """The page of all mailboxes; `door` gives a fresh sign-in link to the coordinator's board."""
    app = FastAPI(openapi_url=None)
    look = pages(TEMPLATES, settings)
    links = {
        "What needs somebody: the coordinator's board": "/board",
        "Ask for yourself or a colleague": f"{settings.public_url}/ask",
        "Ratings and reports": settings.box_url,
    }
    app.include_router(files(settings, clock))
    app.add_middleware(Guard)

    @app.get("/")
    async def list_mails(request: Request, to: str = "") -> HTMLResponse:
        shown = [mail for mail in reversed(mailbox.mails) if to in ("", mail.to)]
        return look.render(request, "mailbox.html", mails=shown, to=to, now=clock.now(), links=links, spans=SPANS)

    @app.get("/mail/{number}")
    async def show_mail(request: Request, number: int) -> HTMLResponse:
        found = [mail for mail in mailbox.mails if mail.number == number]
        if not found:
            return look.render(request, "no_mail.html", status=404)
        before, link, after = found[0].text.partition(found[0].link) if found[0].link else (found[0].text, "", "")
        return look.render(request, "mail.html", mail=found[0], before=before, link=link, after=after)

    @app.post("/time")
    async def pass_time(span: str = Form(default="hour")) -> RedirectResponse:
        await clock.skip(SPANS.get(span, SPANS["hour"]))
        return RedirectResponse("/", 303)

    @app.get("/board")
    async def open_board() -> RedirectResponse:
        return RedirectResponse(await door(), 303)

    return app

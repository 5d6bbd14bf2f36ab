"""People of a run: they follow the link of a message when it comes and answer through the page's own forms."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urljoin

import httpx

from services.demo.play.browser import Form, Page, read_page

PAUSE: Final = 0.15
WAITS: Final = 10.0
FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "accept": {"when": "hours"},
    "not_now": {"again": "week"},
    "close": {"channel": "phone", "duration": "15_45", "contacts": "1", "referral": "none", "strain": "2"},
}
_CODE: Final = re.compile(r"\b\d{8}\b")
Look = Callable[[], Awaitable[Page]]
Fate = Literal["taken", "in_doubt", "not_offered", "too_late"]


@dataclass(frozen=True)
class Given:
    """Something that somebody tried to say through a page: an answer to the message `key`, or that they ask.

    fate: `taken`: they saw it go through, at `at` (the machine's clock); `in_doubt`: the connection broke first and the
    page did not say; `not_offered`: the page had no such button any more; `too_late`: the run was over. presses: how
    often they pressed the button, since a page that comes back as it was may have been heard all the same. began: when
    they went to the page.
    """

    contact: str
    key: str
    answer: str
    fate: Fate
    at: float
    presses: int = 1
    began: float = 0.0


class Calm:
    """Whether anybody may do anything now: while a backup is made and put back, nothing is accepted that it lacks."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._busy = 0

    @asynccontextmanager
    async def doing(self) -> AsyncIterator[None]:
        """Wait until it is allowed, and be waited for."""
        await self._open.wait()
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    async def begin(self) -> None:
        """From here on nobody does anything."""
        self._open.clear()
        while self._busy:
            await asyncio.sleep(PAUSE)

    def end(self) -> None:
        self._open.set()


@dataclass
class Crowd:
    """Everybody, over one pool of connections, and what they did; they give up when it is `over`."""

    http: httpx.AsyncClient = field(default_factory=lambda: httpx.AsyncClient(timeout=10.0))
    over: asyncio.Event = field(default_factory=asyncio.Event)
    calm: Calm = field(default_factory=Calm)
    given: list[Given] = field(default_factory=list)

    async def answer(self, contact: str, key: str, link: str, answers: Sequence[tuple[str, float]]) -> None:
        """Give these answers one after the other in one browser, each after a delay; stop where one fails."""
        browser = Browser(self)
        for answer, delay in answers:
            await asyncio.sleep(delay)
            began = time.monotonic()
            fate = await browser.answer(link, answer)
            self._note(contact, key, answer, fate, browser.presses, began)
            if fate != "taken":
                return

    async def ask(self, address: str, url: str, mails: "asyncio.Queue[str]") -> None:
        """Go through the steps of /ask; `mails` are the texts that arrive at the address."""
        began = time.monotonic()
        self._note(address, "", "ask", await Browser(self).ask(url, address, mails), 1, began)

    def _note(self, contact: str, key: str, answer: str, fate: Fate, presses: int, began: float) -> None:
        self.given.append(Given(contact, key, answer, fate, time.monotonic(), presses, began))

    async def close(self) -> None:
        self.over.set()
        await self.http.aclose()


class Browser:
    """One person's browser, patient with a site that is away for a moment."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self.presses = 0
        self._cookies: dict[str, str] = {}

    async def answer(self, link: str, answer: str) -> Fate:
        """Press a button of the page behind a link."""
        return await self._press(lambda: self._look(link), "answer", answer)

    async def ask(self, url: str, address: str, mails: "asyncio.Queue[str]") -> Fate:
        """Prove an address by the code that is sent there, then ask for oneself."""
        while not self._crowd.over.is_set():
            page = await self._fill(await self._look(url), "address", address)
            while page is not None and (text := await _next(mails)):
                code = _CODE.search(text)
                proved = await self._fill(page, "code", code[0]) if code else page
                if proved is None:
                    mails.put_nowait(text)
                elif _form(proved, "for", "myself"):
                    return await self._ask_for_oneself(proved)
        return "too_late"

    async def _ask_for_oneself(self, page: Page) -> Fate:
        async def same() -> Page:
            return page

        return await self._press(same, "for", "myself")

    async def _press(self, look: Look, name: str, value: str) -> Fate:
        lost, self.presses = False, 0
        while not self._crowd.over.is_set():
            page = await look()
            form = _form(page, name, value)
            if form is None:
                return "in_doubt" if lost else "not_offered"
            self.presses += 1
            answer = await self._send(page, form, {**_chosen(form, value), name: value})
            if answer is not None and answer.status_code in (200, 303):
                return "taken"
            if answer is not None and answer.status_code < 500:
                return "in_doubt" if lost else "not_offered"
            lost = True
            await asyncio.sleep(PAUSE)
        return "in_doubt" if lost else "too_late"

    async def _fill(self, page: Page, name: str, value: str) -> Page | None:
        """The page after a form with one field; None where the connection broke."""
        form = next((one for one in page.forms if name in one.choices), None)
        answer = await self._send(page, form, {name: value}) if form else None
        return None if answer is None or answer.status_code >= 500 else read_page(answer)

    async def _look(self, url: str) -> Page:
        """Open a page, again and again until it comes."""
        while not self._crowd.over.is_set():
            try:
                answer = await self._crowd.http.get(url, headers=self._headers())
                if answer.status_code < 500:
                    return read_page(answer)
            except httpx.TransportError:
                pass
            await asyncio.sleep(PAUSE)
        return Page(url, 503, "", [])

    async def _send(self, page: Page, form: Form, chosen: Mapping[str, str]) -> httpx.Response | None:
        data, url = {**dict(form.hidden), **chosen}, urljoin(page.url, form.action)
        try:
            async with self._crowd.calm.doing():
                answer = await self._crowd.http.post(url, data=data, headers=self._headers())
        except httpx.TransportError:
            return None
        self._cookies.update(answer.cookies)
        return answer

    def _headers(self) -> dict[str, str]:
        # one client serves everybody, so its jar must stay empty
        self._crowd.http.cookies.clear()
        kept = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        return {"Cookie": kept} if kept else {}


async def _next(mails: "asyncio.Queue[str]") -> str:
    """The next mail; "" where none comes for so long that a code would have expired."""
    try:
        async with asyncio.timeout(WAITS):
            return await mails.get()
    except TimeoutError:
        return ""


def _form(page: Page, name: str, value: str) -> Form | None:
    return next((form for form in page.forms if form.offers(name, value)), None)


def _chosen(form: Form, answer: str) -> dict[str, str]:
    """What goes with an answer, as far as the form asks for it: the first way of contact that it offers."""
    chosen = dict(FIELDS.get(answer, {}))
    if "how" in form.choices:
        chosen["how"] = form.choices["how"][0]
    return chosen

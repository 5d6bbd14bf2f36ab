"""The pages behind a link: a question as it stands, an answer in one form, and a kind page where the link has ended.

GET changes nothing: mail scanners follow links and even post forms, so only a named answer does anything.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Connection, select

from leeward import telemetry
from leeward.service import Context
from leeward.web.access import LINK
from leeward.web.app import SECURITY_HEADERS
from leeward.web.look import Pages
from services.notify.channels import WAYS
from services.notify.channels.wording import locale_for
from services.notify.links import new_secret
from services.notify.models import QUESTION, RECIPIENT
from services.notify.on_call import Calls
from services.notify.questions.answers import Answers, Found, Taken, find, question_of
from services.notify.questions.assertion import Assertions
from services.notify.questions.question import FIELDS, Impossible, Incomplete, Question, possible
from services.notify.recipients.names import first_name

COOKIE: Final = "b"
COOKIE_LIFE: Final = timedelta(days=90)
CALLING: Final = timedelta(hours=2)
LONGEST_FORM: Final = 20
PATIENCE: Final = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
SHOWS_OTHER: Final = frozenset({("offer", "accepted"), ("check_in", "accepted"), ("supporter_request", "confirmed")})


@dataclass(frozen=True, slots=True)
class Other:
    """What one side sees of the other once the supporter has confirmed."""

    name: str
    introduction: str = ""
    email: str = ""
    mobile: str = ""


class MessagePages:
    """Shows and answers questions."""

    def __init__(self, context: Context, pages: Pages, answers: Answers, calls: Calls) -> None:
        self._ground = context
        self._pages = pages
        self._answers = answers
        self._calls = calls
        self._assertions = Assertions(context.keys)

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/m/{token}", self.show, methods=["GET", "HEAD"], dependencies=[LINK])
        router.add_api_route("/m/{token}", self.answer, methods=["POST"], dependencies=[LINK])
        return router

    async def show(self, request: Request, token: str) -> Response:
        """The page as it stands for this browser."""
        browser = request.cookies.get(COOKIE, "")
        now = self._ground.clock.now()
        found = await self._ground.store.read(lambda conn: find(conn, token, browser, now))
        return await self._page(request, found)

    async def answer(self, request: Request, token: str) -> Response:
        """Take an answer, then lead back to the page with 303, so that loading it again sends nothing."""
        form = await read_form(request)
        known = request.cookies.get(COOKIE, "")
        browser = known or new_secret()
        try:
            taken = await self._ground.store.write(lambda unit: self._answers.take(unit, token, browser, form))
        except Incomplete as fault:
            return await self._incomplete(request, token, form, fault)
        except Impossible:
            return await self._impossible(request, token, form)
        answer = self._next(request, token, form, taken)
        if form.get("answer") != "new_link":
            self._bind(answer, browser)
        return answer

    def _next(self, request: Request, token: str, form: Mapping[str, str], taken: Taken | None) -> Response:
        if form.get("answer") == "new_link":
            return self._ended(request, sent=True)
        if form.get("answer") == "keep" and taken is not None:
            assertion = self._assertions.sign(taken.case_ref, self._ground.clock.now())
            return RedirectResponse(f"{self._ground.settings.box_url}/keep#{assertion}", 303)
        return RedirectResponse(f"/m/{token}", 303)

    def _bind(self, answer: Response, browser: str) -> None:
        answer.set_cookie(
            COOKIE,
            browser,
            max_age=int(COOKIE_LIFE.total_seconds()),
            path="/m/",
            secure=self._ground.settings.public_url.startswith("https:"),
            httponly=True,
            samesite="lax",
        )

    async def _incomplete(self, request: Request, token: str, form: Mapping[str, str], fault: Incomplete) -> Response:
        browser, now = request.cookies.get(COOKIE, ""), self._ground.clock.now()
        found = await self._ground.store.read(lambda conn: find(conn, token, browser, now))
        return await self._page(request, found, typed=form, problems=fault.fields)

    async def _impossible(self, request: Request, token: str, form: Mapping[str, str]) -> Response:
        """An answer that is not there any more (tapped twice, answered elsewhere): the page as it stands."""
        browser, now = request.cookies.get(COOKIE, ""), self._ground.clock.now()
        found = await self._ground.store.read(lambda conn: find(conn, token, browser, now))
        if found.view in ("question", "moved", "call"):
            return RedirectResponse(f"/m/{token}", 303)
        return self._ended(request, sent=form.get("answer") == "new_link")

    async def _page(
        self,
        request: Request,
        found: Found,
        typed: Mapping[str, str] | None = None,
        problems: tuple[str, ...] = (),
    ) -> Response:
        if found.view == "question" and found.row is not None:
            return await self._question(request, found, typed or {}, problems)
        if found.view == "moved":
            return self._pages.render(request, "moved.html")
        if found.view == "call" and found.row is not None:
            return self._pages.render(request, "call.html", acknowledged=bool(found.row.acknowledged))
        return self._ended(request, status=404 if found.link is None else 410)

    def _ended(self, request: Request, *, sent: bool = False, status: int = 404) -> Response:
        return self._pages.render(request, "ended.html", status=200 if sent else status, sent=sent)

    async def _question(
        self, request: Request, found: Found, typed: Mapping[str, str], problems: tuple[str, ...]
    ) -> Response:
        row, now = found.row, self._ground.clock.now()
        assert row is not None  # the view says so
        question = question_of(row)
        recipient = await self._ground.store.read(lambda conn: _recipient(conn, row.recipient_ref))
        context = self._context(question, recipient, typed, problems)
        context["other"] = await self._other(row, question)
        context["asked_when"] = row.options
        context["suggest"] = question.template == "follow_up" and row.options == "professional"
        context["calling"] = question.said in ("talk_now", "urgent_help") and _lately(question, now)
        locale = locale_for(recipient.get("languages", ""), self._ground.settings.locales)
        status = 422 if problems else 200
        headers = self._headers(question)
        return self._pages.render(
            request, f"{question.template}.html", status, locale=locale, headers=headers, **context
        )

    def _context(
        self, question: Question, recipient: Mapping[str, str], typed: Mapping[str, str], problems: tuple[str, ...]
    ) -> dict[str, Any]:
        named = {name for fields in FIELDS.values() for name in fields}
        ways = [way for way in WAYS if recipient.get(way)]
        return {
            "possible": possible(question, self._ground.clock.now()),
            "state": question.state,
            "said": question.said,
            "wanted": question.wanted,
            "how": question.how,
            "again": question.again,
            "fields": FIELDS,
            "ways": ways or ["email"],
            "typed": {name: typed.get(name, "") for name in named},
            "problems": problems,
            "paged": self._calls.possible,
            "options_of": lambda name, t: [(value, t(f"close_{name}.{value}")) for value in FIELDS["close"][name]],
        }

    def _headers(self, question: Question) -> dict[str, str]:
        """`keep` leads to the box, and browsers hold a form's redirect to the policy of its page."""
        if question.template != "follow_up":
            return {}
        box = urlsplit(self._ground.settings.box_url)
        policy = SECURITY_HEADERS["content-security-policy"]
        allowed = policy.replace("form-action 'self'", f"form-action 'self' {box.scheme}://{box.netloc}")
        return {"Content-Security-Policy": allowed}

    async def _other(self, row: Any, question: Question) -> Other | None:
        """Who the other side is, asked of matching anew for every view: it says so after the confirm alone."""
        if (question.template, question.state) not in SHOWS_OTHER:
            return None
        other_ref = await self._introduced(row.case_ref, row.recipient_ref)
        for pause in PATIENCE if question.said == "confirm" else ():
            if other_ref is not None:
                break
            # the confirm travels by the bus and this page comes right behind it
            await asyncio.sleep(pause)
            other_ref = await self._introduced(row.case_ref, row.recipient_ref)
        if other_ref is None:
            return None
        look = _the_person if question.template == "supporter_request" else _the_supporter
        return await self._ground.store.read(lambda conn: look(conn, other_ref))

    async def _introduced(self, case_ref: str, recipient_ref: str) -> str | None:
        url = f"{self._ground.settings.url('matching')}/v1/cases/{case_ref}/introduction"
        headers = self._ground.call_headers()
        try:
            answer = await self._ground.http.get(url, params={"for": recipient_ref}, headers=headers, timeout=5.0)
            return str(answer.json()["recipient_ref"]) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as fault:
            telemetry.log("introduction_failed", service="notify", fault=type(fault).__name__)
            return None


async def read_form(request: Request) -> dict[str, str]:
    """The form's text fields; what is no text or too much of it is left out."""
    async with request.form(max_files=0, max_fields=LONGEST_FORM) as form:
        return {name: value.strip() for name, value in form.multi_items() if isinstance(value, str)}


def _recipient(conn: Connection, ref: str) -> Mapping[str, str]:
    row = conn.execute(select(RECIPIENT).where(RECIPIENT.c.recipient_ref == ref)).first()
    return dict(row._mapping) if row is not None else {}


def _the_supporter(conn: Connection, ref: str) -> Other | None:
    found = _recipient(conn, ref)
    return Other(found["display_name"], found["introduction"]) if found else None


def _the_person(conn: Connection, ref: str) -> Other | None:
    """First name and the one contact that they chose when they last said yes.

    On a page of an earlier case too: who talks again after the end has said so there, and has one case open at most.
    """
    found = _recipient(conn, ref)
    if not found:
        return None
    said = select(QUESTION.c.how).where(QUESTION.c.recipient_ref == ref, QUESTION.c.how != "")
    how = conn.execute(said.order_by(QUESTION.c.answered_at.desc().nulls_last())).scalar() or "email"
    chosen = how if found.get(how) else ("email" if found["email"] else "mobile")
    person = Other(first_name(found["display_name"]))
    return replace(person, email=found["email"]) if chosen == "email" else replace(person, mobile=found["mobile"])


def _lately(question: Question, now: Any) -> bool:
    return question.answered_at is not None and now < question.answered_at + CALLING

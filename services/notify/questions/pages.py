"""The pages behind a link: a question as it stands, an answer in one form, and a kind page where the link has ended.

GET changes nothing: mail scanners follow links and even post forms, so only a named answer does anything.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from sqlalchemy import Connection, Row

from leeward import telemetry
from leeward.service import Context
from leeward.web.access import LINK
from leeward.web.app import SECURITY_HEADERS
from leeward.web.look import Pages
from services.notify.channels import WAYS
from services.notify.channels.wording import locale_for
from services.notify.links import new_secret
from services.notify.on_call import OnCallRounds
from services.notify.questions import repository
from services.notify.questions.answers import Answers, AppliedAnswer, LinkTarget, find_target, question_of
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
class OtherSide:
    """What one side sees of the other once the supporter has confirmed."""

    name: str
    introduction: str = ""
    email: str = ""
    mobile: str = ""


class MessagePages:
    """Shows and answers questions."""

    def __init__(self, context: Context, pages: Pages, answers: Answers, on_call: OnCallRounds) -> None:
        self._context = context
        self._pages = pages
        self._answers = answers
        self._on_call = on_call
        self._assertions = Assertions(context.keys)

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/m/{token}", self.show, methods=["GET", "HEAD"], dependencies=[LINK])
        router.add_api_route("/m/{token}", self.answer, methods=["POST"], dependencies=[LINK])
        return router

    async def show(self, request: Request, token: str) -> Response:
        """The page as it stands for this browser."""
        return await self._page(request, await self._target(token, request.cookies.get(COOKIE, "")))

    async def answer(self, request: Request, token: str) -> Response:
        """Take an answer, then lead back to the page with 303, so that loading it again sends nothing."""
        form = await read_form(request)
        known = request.cookies.get(COOKIE, "")
        browser = known or new_secret()
        try:
            applied = await self._context.store.write(
                lambda unit: self._answers.apply_answer(unit, token, browser, form)
            )
        except Incomplete as fault:
            return await self._page(request, await self._target(token, known), typed=form, problems=fault.fields)
        except Impossible:
            # an answer that is not offered any more (tapped twice, answered elsewhere): the page as it stands
            target = await self._target(token, known)
            if target.view in ("question", "moved", "call"):
                return RedirectResponse(f"/m/{token}", 303)
            return self._ended(request, sent=form.get("answer") == "new_link")
        answer = self._next(request, token, form, applied)
        if form.get("answer") != "new_link":
            answer.set_cookie(
                COOKIE,
                browser,
                max_age=int(COOKIE_LIFE.total_seconds()),
                path="/m/",
                secure=self._context.settings.public_url.startswith("https:"),
                httponly=True,
                samesite="lax",
            )
        return answer

    def _next(self, request: Request, token: str, form: Mapping[str, str], applied: AppliedAnswer | None) -> Response:
        """Where an answer leads."""
        if form.get("answer") == "new_link":
            return self._ended(request, sent=True)
        if form.get("answer") == "keep" and applied is not None:
            assertion = self._assertions.sign(applied.case_ref, self._context.clock.now())
            return RedirectResponse(f"{self._context.settings.box_url}/keep#{assertion}", 303)
        return RedirectResponse(f"/m/{token}", 303)

    async def _target(self, token: str, browser: str) -> LinkTarget:
        now = self._context.clock.now()
        return await self._context.store.read(lambda conn: find_target(conn, token, browser, now))

    async def _page(
        self,
        request: Request,
        target: LinkTarget,
        typed: Mapping[str, str] | None = None,
        problems: tuple[str, ...] = (),
    ) -> Response:
        if target.view == "question" and target.row is not None:
            return await self._question_page(request, target.row, typed or {}, problems)
        if target.view == "moved":
            return self._pages.render(request, "moved.html")
        if target.view == "call" and target.row is not None:
            return self._pages.render(request, "call.html", acknowledged=bool(target.row.acknowledged))
        return self._ended(request, status=404 if target.link is None else 410)

    def _ended(self, request: Request, *, sent: bool = False, status: int = 404) -> Response:
        return self._pages.render(request, "ended.html", status=200 if sent else status, sent=sent)

    async def _question_page(
        self, request: Request, row: Row[Any], typed: Mapping[str, str], problems: tuple[str, ...]
    ) -> Response:
        question, settings, now = question_of(row), self._context.settings, self._context.clock.now()
        recipient = await self._context.store.read(lambda conn: repository.find_recipient(conn, row.recipient_ref))
        lately = question.answered_at is not None and now < question.answered_at + CALLING
        context = {
            "possible": possible(question, now),
            "state": question.state,
            "said": question.said,
            "wanted": question.wanted,
            "how": question.how,
            "again": question.again,
            "fields": FIELDS,
            "ways": [way for way in WAYS if recipient.get(way)] or ["email"],
            "typed": {name: typed.get(name, "") for fields in FIELDS.values() for name in fields},
            "problems": problems,
            "other": await self._other_side(row, question),
            "asked_when": row.options,
            "suggest": question.template == "follow_up" and row.options == "professional",
            "calling": question.said in ("talk_now", "urgent_help") and lately,
            "paged": self._on_call.possible,
            "options_of": lambda name, t: [(value, t(f"close_{name}.{value}")) for value in FIELDS["close"][name]],
        }
        headers: dict[str, str] = {}
        if question.template == "follow_up":
            # `keep` leads to the box, and browsers hold a form's redirect to the policy of its page
            box, policy = urlsplit(settings.box_url), SECURITY_HEADERS["content-security-policy"]
            allowed = policy.replace("form-action 'self'", f"form-action 'self' {box.scheme}://{box.netloc}")
            headers = {"Content-Security-Policy": allowed}
        locale = locale_for(recipient.get("languages", ""), settings.locales)
        page, status = f"{question.template}.html", 422 if problems else 200
        return self._pages.render(request, page, status, locale=locale, headers=headers, **context)

    async def _other_side(self, row: Any, question: Question) -> OtherSide | None:
        """Who the other side is, asked of matching again for every view: it says so after the confirm alone."""
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
        return await self._context.store.read(lambda conn: _who_is_shown(conn, question.template, other_ref))

    async def _introduced(self, case_ref: str, recipient_ref: str) -> str | None:
        url = f"{self._context.settings.url('matching')}/v1/cases/{case_ref}/introduction"
        headers = self._context.call_headers()
        try:
            answer = await self._context.http.get(url, params={"for": recipient_ref}, headers=headers, timeout=5.0)
            return str(answer.json()["recipient_ref"]) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as fault:
            telemetry.log("introduction_failed", service="notify", fault=type(fault).__name__)
            return None


async def read_form(request: Request) -> dict[str, str]:
    """The form's text fields; files, and what is too much, are left out."""
    async with request.form(max_files=0, max_fields=LONGEST_FORM) as form:
        return {name: value.strip() for name, value in form.multi_items() if isinstance(value, str)}


def _who_is_shown(conn: Connection, template: str, ref: str) -> OtherSide | None:
    """The supporter in full, to the person; to the supporter, first name and the contact that the person chose last.

    On a page of an earlier case too: who talks again after the end has said so there, and has one case open at most.
    """
    found = repository.find_recipient(conn, ref)
    if not found:
        return None
    if template != "supporter_request":
        return OtherSide(found["display_name"], found["introduction"])
    how = repository.chosen_way(conn, ref) or "email"
    way = how if found.get(how) else ("email" if found["email"] else "mobile")
    return OtherSide(first_name(found["display_name"]), **{way: found[way]})

"""/ask: an address, a code sent to it, and then for whom. Strangers see the same whether an address is known or not."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from leeward.contracts import HelpRequested
from leeward.people import keyed_hash
from leeward.refs import new_ref
from leeward.service import Context
from leeward.store import Unit
from leeward.store.retention import MOST
from leeward.web.access import PUBLIC
from leeward.web.look import Pages
from services.notify import repository
from services.notify.channels.email.message import UnfitAddress, envelope_address
from services.notify.delivery.deliveries import Outgoing
from services.notify.delivery.state import Delivery
from services.notify.links import hashed, new_secret
from services.notify.questions.pages import read_form

LIFE: Final = timedelta(minutes=15)
TRIES: Final = 5
CODES_AN_HOUR: Final = 5
# asked for by anybody at all: more cannot be people
BUSY_A_MINUTE: Final = 120


class SelfRequestPages:
    """The form in its three steps; the state between them is a ticket in a hidden field."""

    def __init__(self, context: Context, pages: Pages, outgoing: Outgoing) -> None:
        self._context = context
        self._pages = pages
        self._outgoing = outgoing
        self._key = context.keys.derive("address")

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/ask", self.show, methods=["GET", "HEAD"], dependencies=[PUBLIC])
        router.add_api_route("/ask", self.submit, methods=["POST"], dependencies=[PUBLIC])
        return router

    async def show(self, request: Request) -> Response:
        return self._page(request, "address")

    async def submit(self, request: Request) -> Response:
        """Each step's field says which step it is."""
        form = await read_form(request)
        if "for" in form:
            return await self._submit_whom(request, form)
        if "code" in form:
            return await self._submit_code(request, form)
        return await self._submit_address(request, form)

    def _page(
        self,
        request: Request,
        step: str,
        *,
        status: int = 200,
        ticket: str = "",
        typed: str = "",
        problem: str = "",
        whom: str = "",
    ) -> Response:
        text = self._pages.text(problem, self._pages.locale_of(request)) if problem else ""
        return self._pages.render(
            request, "ask.html", status, step=step, ticket=ticket, typed=typed, problem=text, whom=whom
        )

    async def _submit_address(self, request: Request, form: Mapping[str, str]) -> Response:
        typed = form.get("address", "")
        try:
            envelope_address(typed)
        except UnfitAddress:
            return self._page(request, "address", status=422, typed=typed, problem="ask.address_problem")
        ticket = new_secret()
        if not await self._context.store.write(lambda unit: self._store_code(unit, typed, ticket)):
            return self._page(request, "address", status=429, typed=typed, problem="ask.busy")
        return self._page(request, "code", ticket=ticket)

    def _store_code(self, unit: Unit, address: str, ticket: str) -> bool:
        """Store a code for any address, and send it where the address is known; False when there are too many."""
        repository.delete_old_codes(unit.conn, unit.now, MOST)
        last_minute = unit.now + LIFE - timedelta(minutes=1)
        if repository.count_codes_expiring_after(unit.conn, last_minute) >= BUSY_A_MINUTE:
            return False
        owner = repository.find_owner(unit.conn, address)
        if owner is not None:
            repository.fence_owner(unit, owner)
        address_hash = keyed_hash(self._key, address.lower())
        if repository.count_codes_of(unit.conn, address_hash) >= CODES_AN_HOUR:
            owner = None
        digits = f"{secrets.randbelow(10**8):08d}"
        if owner is not None:
            digits = self._send_code(unit, owner) or digits
        code = {
            "ticket_hash": hashed(ticket),
            "address_hash": address_hash,
            "recipient_ref": owner or "",
            "code_hash": keyed_hash(self._key, ticket, digits),
            "tries": 0,
            "proved": False,
            "expires_at": unit.now + LIFE,
        }
        repository.insert_code(unit.conn, code)
        return True

    def _send_code(self, unit: Unit, owner: str) -> str | None:
        """The digits that go to them; None where no channel reaches them."""
        contact = self._outgoing.contacts(unit.conn, [owner]).get(owner)
        if contact is None:
            return None
        delivery = Delivery(
            kind="code",
            case_ref=new_ref(),
            step="code",
            recipient_ref=owner,
            contact=contact,
            expires_at=unit.now + LIFE,
            accepted_at=unit.now,
        )
        if self._outgoing.address(delivery) is None:
            return None
        self._outgoing.enqueue(unit, [delivery])
        return self._outgoing.token(delivery)

    async def _submit_code(self, request: Request, form: Mapping[str, str]) -> Response:
        ticket = form.get("ticket", "")
        digits = "".join(character for character in form["code"] if character.isdigit())

        def prove(unit: Unit) -> bool:
            code = repository.lock_code(unit.conn, hashed(ticket))
            if code is None or code.expires_at <= unit.now or code.tries >= TRIES:
                return False
            same = secrets.compare_digest(code.code_hash, keyed_hash(self._key, ticket, digits))
            proved = same and bool(code.recipient_ref)
            repository.record_try(unit.conn, code.ticket_hash, code.tries + 1, proved=proved)
            return proved

        if await self._context.store.write(prove):
            return self._page(request, "who", ticket=ticket)
        return self._page(request, "code", status=422, ticket=ticket, problem="ask.code_problem")

    async def _submit_whom(self, request: Request, form: Mapping[str, str]) -> Response:
        ticket, whom = form.get("ticket", ""), form["for"]
        colleague = form.get("colleague", "")
        if whom == "colleague":
            try:
                envelope_address(colleague)
            except UnfitAddress:
                problem = "ask.address_problem"
                return self._page(request, "who", status=422, ticket=ticket, typed=colleague, problem=problem)
        if whom not in ("myself", "colleague") or not await self._context.store.write(
            lambda unit: _request_help(unit, ticket, colleague if whom == "colleague" else None)
        ):
            return self._page(request, "address", status=410)
        return self._page(request, "done", whom="self" if whom == "myself" else "colleague")


def _request_help(unit: Unit, ticket: str, colleague: str | None) -> bool:
    """Publish for whom help is asked, once a ticket. For oneself it goes out at once, whatever the hour."""
    code = repository.lock_code(unit.conn, hashed(ticket))
    if code is None or not code.proved or code.expires_at <= unit.now:
        return False
    repository.record_try(unit.conn, code.ticket_hash, TRIES, proved=False)
    if colleague is None:
        unit.emit(HelpRequested(recipient_ref=code.recipient_ref, urgency="urgent"))
        return True
    meant = repository.find_owner(unit.conn, colleague)
    if meant is not None:
        unit.emit(HelpRequested(recipient_ref=meant, urgency="routine"))
    return True

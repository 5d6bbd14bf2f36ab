"""/ask: an address, a code sent to it, and then for whom. Strangers see the same whether an address is known or not."""

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from sqlalchemy import Connection, Row, delete, func, select

from leeward.contracts import HelpRequested
from leeward.people import keyed_hash
from leeward.refs import new_ref
from leeward.service import Context
from leeward.store import Unit
from leeward.web.access import PUBLIC
from leeward.web.look import Pages
from services.notify.channels.email.message import UnfitAddress, envelope_address
from services.notify.delivery.deliveries import GONE, Outgoing, Wanted
from services.notify.links import hashed, new_secret
from services.notify.models import CODE, RECIPIENT
from services.notify.questions.pages import read_form

LIFE: Final = timedelta(minutes=15)
TRIES: Final = 5
CODES_AN_HOUR: Final = 5
# asked for by anybody at all: more is no longer people
BUSY_A_MINUTE: Final = 120


class AskPages:
    """The form in its three steps; the state between them is a ticket in a hidden field."""

    def __init__(self, context: Context, pages: Pages, outgoing: Outgoing) -> None:
        self._ground = context
        self._pages = pages
        self._outgoing = outgoing
        self._key = context.keys.derive("address")

    def routes(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/ask", self.show, methods=["GET", "HEAD"], dependencies=[PUBLIC])
        router.add_api_route("/ask", self.take, methods=["POST"], dependencies=[PUBLIC])
        return router

    async def show(self, request: Request) -> Response:
        return self._page(request, "address")

    async def take(self, request: Request) -> Response:
        form = await read_form(request)
        if "for" in form:
            return await self._for_whom(request, form)
        if "code" in form:
            return await self._check(request, form)
        return await self._send(request, form)

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

    async def _send(self, request: Request, form: Mapping[str, str]) -> Response:
        typed = form.get("address", "")
        try:
            envelope_address(typed)
        except UnfitAddress:
            return self._page(request, "address", status=422, typed=typed, problem="ask.address_problem")
        ticket = new_secret()
        if not await self._ground.store.write(lambda unit: self._code(unit, typed, ticket)):
            return self._page(request, "address", status=429, typed=typed, problem="ask.busy")
        return self._page(request, "code", ticket=ticket)

    def _code(self, unit: Unit, address: str, ticket: str) -> bool:
        """Store a code for any address, and send it where the address is known; False when there are too many."""
        unit.conn.execute(delete(CODE).where(CODE.c.expires_at < unit.now - timedelta(hours=1)))
        recent = select(func.count()).where(CODE.c.expires_at > unit.now + LIFE - timedelta(minutes=1))
        if (unit.conn.execute(recent).scalar() or 0) >= BUSY_A_MINUTE:
            return False
        owner = known(unit.conn, address)
        if owner is not None:
            # written and not only read: of two who ask at once the second must count the first one's code
            mine = RECIPIENT.c.recipient_ref == owner.recipient_ref
            unit.conn.execute(RECIPIENT.update().where(mine).values(status=RECIPIENT.c.status))
        address_hash = keyed_hash(self._key, address.lower())
        lately = select(func.count()).where(CODE.c.address_hash == address_hash)
        often = (unit.conn.execute(lately).scalar() or 0) >= CODES_AN_HOUR
        digits = f"{secrets.randbelow(10**8):08d}"
        if owner is not None and not often:
            digits = self._mail(unit, owner) or digits
        unit.conn.execute(
            CODE.insert().values(
                ticket_hash=hashed(ticket),
                address_hash=address_hash,
                recipient_ref=owner.recipient_ref if owner is not None and not often else "",
                code_hash=keyed_hash(self._key, ticket, digits),
                tries=0,
                proved=False,
                expires_at=unit.now + LIFE,
            )
        )
        return True

    def _mail(self, unit: Unit, owner: Row[tuple[str]]) -> str | None:
        contact = self._outgoing.contacts(unit.conn, [owner.recipient_ref]).get(owner.recipient_ref)
        channel = self._outgoing.channel(contact) if contact else None
        if contact is None or channel is None:
            return None
        wanted = Wanted(
            kind="code",
            case_ref=new_ref(),
            step="code",
            recipient_ref=owner.recipient_ref,
            contact=contact,
            expires_at=unit.now + LIFE,
            accepted_at=unit.now,
        )
        self._outgoing.enqueue(unit, [(wanted, channel)])
        return self._outgoing.token("code", self._outgoing.key(wanted, channel))

    async def _check(self, request: Request, form: Mapping[str, str]) -> Response:
        ticket = form.get("ticket", "")
        digits = "".join(character for character in form["code"] if character.isdigit())
        if await self._ground.store.write(lambda unit: self._prove(unit, ticket, digits)):
            return self._page(request, "who", ticket=ticket)
        return self._page(request, "code", status=422, ticket=ticket, problem="ask.code_problem")

    def _prove(self, unit: Unit, ticket: str, digits: str) -> bool:
        same = CODE.c.ticket_hash == hashed(ticket)
        row = unit.conn.execute(select(CODE).where(same).with_for_update()).first()
        if row is None or row.expires_at <= unit.now or row.tries >= TRIES:
            return False
        fits = secrets.compare_digest(row.code_hash, keyed_hash(self._key, ticket, digits)) and bool(row.recipient_ref)
        unit.conn.execute(CODE.update().where(same).values(tries=row.tries + 1, proved=fits))
        return fits

    async def _for_whom(self, request: Request, form: Mapping[str, str]) -> Response:
        ticket, whom = form.get("ticket", ""), form["for"]
        colleague = form.get("colleague", "")
        if whom == "colleague":
            try:
                envelope_address(colleague)
            except UnfitAddress:
                problem = "ask.address_problem"
                return self._page(request, "who", status=422, ticket=ticket, typed=colleague, problem=problem)
        if whom not in ("myself", "colleague") or not await self._ground.store.write(
            lambda unit: _ask(unit, ticket, colleague if whom == "colleague" else None)
        ):
            return self._page(request, "address", status=410)
        return self._page(request, "done", whom="self" if whom == "myself" else "colleague")


def _ask(unit: Unit, ticket: str, colleague: str | None) -> bool:
    """Tell matching who it is for, once a ticket. For oneself it goes out at once, whatever the hour."""
    same = CODE.c.ticket_hash == hashed(ticket)
    row = unit.conn.execute(select(CODE).where(same, CODE.c.proved.is_(True)).with_for_update()).first()
    if row is None or row.expires_at <= unit.now:
        return False
    unit.conn.execute(CODE.update().where(same).values(proved=False, tries=TRIES))
    if colleague is None:
        unit.emit(HelpRequested(recipient_ref=row.recipient_ref, urgency="urgent"))
        return True
    meant = known(unit.conn, colleague)
    if meant is not None:
        unit.emit(HelpRequested(recipient_ref=meant.recipient_ref, urgency="routine"))
    return True


def known(conn: Connection, address: str) -> Row[tuple[str]] | None:
    """Whose address this is, among those who are still here."""
    query = select(RECIPIENT.c.recipient_ref).where(func.lower(RECIPIENT.c.email) == address.strip().lower())
    return conn.execute(query.where(RECIPIENT.c.status.not_in(GONE))).first()

"""Access: denied by default. Every route says who it is for, or the app does not start.

API tokens and one-time sign-in links are stored as SHA-256 hashes; a signed-in session is a signed cookie, so that
every service can check it without asking another.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from itsdangerous import BadSignature, Signer
from sqlalchemy import Connection, select
from starlette.staticfiles import StaticFiles

from leeward.service import Context
from leeward.settings.keys import derive
from leeward.store import Unit
from leeward.web.problem import Problem

Role = Literal["coordinator", "trainer", "reporter", "ops"]
COOKIE: Final = "leeward_session"
SESSION: Final = timedelta(hours=8)
TOKEN_LIFE: Final = timedelta(days=365)
LOGIN_LIFE: Final = timedelta(minutes=15)


def token_hash(token: str) -> str:
    """What is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _public() -> None:
    """Anybody."""


def _link() -> None:
    """The holder of a link that nobody can guess; the route itself checks it."""


def _source() -> None:
    """A configured source; the route itself checks its signature or token."""


async def _services(request: Request) -> None:
    """Another of the five services."""
    if not hmac.compare_digest(bearer(request).encode(), request.app.state.access.services_secret.encode()):
        raise _unknown()


_AUDIENCES: Final = frozenset({_public, _link, _source, _services})
PUBLIC: Final = Depends(_public)
LINK: Final = Depends(_link)
SOURCE: Final = Depends(_source)
SERVICES: Final = Depends(_services)


def role(*roles: Role) -> Any:
    """A dependency for routes that need one of these roles: 401 for strangers, 403 for other roles."""

    async def check(request: Request) -> None:
        held = await request.app.state.access.role_of(request)
        if held not in roles:
            raise Problem(403, "not-allowed", "This role may not do that.")

    check.__name__ = "role:" + "+".join(roles)
    return Depends(check)


@dataclass(frozen=True)
class AccessControl:
    """Checks tokens and sessions for one service."""

    context: Context

    @property
    def services_secret(self) -> str:
        return self.context.keys.services_secret

    @cached_property
    def signer(self) -> Signer:
        """Appends a full stop and an HMAC-SHA256 (base64url)."""
        key = derive(self.services_secret.encode(), "session")
        return Signer(key, key_derivation="none", digest_method=hashlib.sha256)

    async def role_of(self, request: Request) -> str:
        """The role of a request by its bearer token or its session.

        Raises:
            Problem: 401 for strangers, 403 for a session's form without its CSRF field.
        """
        now = self.context.clock.now()
        if token := bearer(request):
            held = await self.context.store.read(lambda conn: find(conn, self.context, token, "token", now))
            if held is None:
                raise _unknown()
            return held
        session = request.cookies.get(COOKIE, "")
        held = self._session_role(session, now)
        if held is None:
            raise _unknown()
        if request.method not in ("GET", "HEAD"):
            field = request.headers.get("x-csrf") or str((await request.form()).get("csrf", ""))
            if not self.signer.verify_signature(f"csrf {session}", field):
                raise Problem(403, "not-allowed", "The form has gone stale; go back, reload and try again.")
        return held

    def open_session(self, session_role: str) -> str:
        """A cookie's value: role, expiry in seconds, a nonce, and their HMAC."""
        expires = int((self.context.clock.now() + SESSION).timestamp())
        return self.signer.sign(f"{session_role}.{expires}.{secrets.token_urlsafe(9)}").decode()

    def csrf(self, request: Request) -> str:
        """The hidden field that a form of a signed-in session must carry."""
        return self.signer.get_signature(f"csrf {request.cookies.get(COOKIE, '')}").decode()

    def _session_role(self, session: str, now: datetime) -> str | None:
        try:
            held, expires, _nonce = self.signer.unsign(session).decode().split(".")
        except (BadSignature, ValueError):
            # a CSRF field is signed by the same key and has other parts
            return None
        return held if int(expires) > now.timestamp() else None


def csrf(request: Request) -> str:
    """The hidden field's value for this request's session."""
    return str(request.app.state.access.csrf(request))


def find(conn: Connection, context: Context, token: str, kind: str, now: datetime) -> str | None:
    """The role of a token or sign-in link that has not expired."""
    table = context.store.writes.tables.access
    query = select(table.c.role).where(table.c.token_hash == token_hash(token), table.c.kind == kind)
    held: str | None = conn.execute(query.where(table.c.expires_at > now)).scalar()
    return held


def issue(unit: Unit, access_role: Role, kind: Literal["token", "login"], token: str) -> str:
    """Store a token's hash; gives the short handle by which it is listed and revoked."""
    handle = token_hash(token)[:8]
    life = TOKEN_LIFE if kind == "token" else LOGIN_LIFE
    row = {"token_hash": token_hash(token), "handle": handle, "kind": kind, "role": access_role}
    unit.conn.execute(unit.tables.access.insert().values(**row, expires_at=unit.now + life))
    return handle


def new_token() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def check_routes(app: FastAPI) -> None:
    """Refuse to start with a route that does not say who it is for, or says it twice.

    Raises:
        RuntimeError: naming the route.
    """
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        path = getattr(route, "path", "?")
        if isinstance(route, (APIRoute, APIWebSocketRoute)):
            calls = [depends.call for depends in route.dependant.dependencies]
            # `role` names its checks by what they ask for
            audiences = [call for call in calls if call in _AUDIENCES or getattr(call, "__name__", "")[:5] == "role:"]
            if len(audiences) != 1:
                raise RuntimeError(f"route {path} does not say who it is for")
        elif path != "/openapi.json" and not isinstance(getattr(route, "app", None), StaticFiles):
            # FastAPI's own description of the app, and files, are the same for everybody
            raise RuntimeError(f"route {path} cannot say who it is for")


def bearer(request: Request) -> str:
    """The bearer token of a request, empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unknown() -> Problem:
    detail = "Say who you are: a bearer token or a signed-in session is needed."
    return Problem(401, "not-signed-in", detail, headers={"WWW-Authenticate": "Bearer"})

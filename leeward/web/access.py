"""Access: denied by default. Every route says who it is for, or the app does not start.

API tokens and one-time sign-in links are stored as SHA-256 hashes; a signed-in session is a signed cookie, so that
every service can check it without asking another.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts
from sqlalchemy import Connection, select
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles

from leeward.service import Context
from leeward.settings.keys import derive
from leeward.store import Unit
from leeward.web.problem import Problem

Role = Literal["coordinator", "trainer", "reporter", "ops"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
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
    """Whoever holds a link that nobody can guess; the route itself checks it."""


def _source() -> None:
    """A configured source; the route itself checks its signature or token."""


async def _services(request: Request) -> None:
    """Another service of ours."""
    if not hmac.compare_digest(bearer(request).encode(), request.app.state.gate.services_secret.encode()):
        raise _unknown()


_AUDIENCES: Final = frozenset({_public, _link, _source, _services})
PUBLIC: Final = Depends(_public)
LINK: Final = Depends(_link)
SOURCE: Final = Depends(_source)
SERVICES: Final = Depends(_services)


def role(*roles: Role) -> Any:
    """A dependency for routes that need one of these roles: 401 for strangers, 403 for other roles."""

    async def check(request: Request) -> None:
        found = await request.app.state.gate.role_of(request)
        if found not in roles:
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

    async def role_of(self, request: Request) -> str:
        """The role of a request by its bearer token or its session.

        Raises:
            Problem: 401 for strangers, 403 for a session's form without its CSRF field.
        """
        if token := bearer(request):
            return await self._token_role(token)
        session = request.cookies.get(COOKIE, "")
        found = self._session_role(session)
        if found is None:
            raise _unknown()
        if request.method not in ("GET", "HEAD") and not await self._has_csrf(request, session):
            raise Problem(403, "not-allowed", "The form has gone stale; go back, reload and try again.")
        return found

    async def _token_role(self, token: str) -> str:
        now = self.context.clock.now()
        found = await self.context.store.read(lambda conn: find(conn, self.context, token, "token", now))
        if found is None:
            raise _unknown()
        return found

    def open_session(self, session_role: str) -> str:
        """A cookie's value: role, expiry in seconds, a nonce, and their HMAC."""
        expires = int((self.context.clock.now() + SESSION).timestamp())
        text = f"{session_role}.{expires}.{secrets.token_urlsafe(9)}"
        return f"{text}.{self._sign(text)}"

    def csrf(self, request: Request) -> str:
        """The hidden field that a form of a signed-in session must carry."""
        return self._sign("csrf " + request.cookies.get(COOKIE, ""))

    def _session_role(self, session: str) -> str | None:
        text, _, signature = session.rpartition(".")
        if not text or not hmac.compare_digest(signature.encode(), self._sign(text).encode()):
            return None
        found, expires, _ = text.split(".")
        return found if int(expires) > self.context.clock.now().timestamp() else None

    async def _has_csrf(self, request: Request, session: str) -> bool:
        given = request.headers.get("x-csrf") or str((await request.form()).get("csrf", ""))
        return hmac.compare_digest(given.encode(), self._sign("csrf " + session).encode())

    def _sign(self, text: str) -> str:
        key = derive(self.services_secret.encode(), "session")
        return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).decode().rstrip("=")


def csrf(request: Request) -> str:
    """The hidden field's value for this request's session."""
    return str(request.app.state.gate.csrf(request))


def find(conn: Connection, context: Context, token: str, kind: str, now: datetime) -> str | None:
    """The role of a token or sign-in link that has not expired."""
    table = context.store.writes.tables.access
    query = select(table.c.role).where(table.c.token_hash == token_hash(token), table.c.kind == kind)
    found: str | None = conn.execute(query.where(table.c.expires_at > now)).scalar()
    return found


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
        if isinstance(route, (APIRoute, APIWebSocketRoute)):
            marks = [call for call in _dependencies(route) if _marks(call)]
            if len(marks) != 1:
                raise RuntimeError(f"route {route.path} does not say who it is for")
        elif not _harmless(route):
            raise RuntimeError(f"route {getattr(route, 'path', '?')} cannot say who it is for")


def _dependencies(route: APIRoute | APIWebSocketRoute) -> list[Callable[..., Any]]:
    return [depends.call for depends in route.dependant.dependencies if depends.call]


def _marks(call: Callable[..., Any]) -> bool:
    """Whether a dependency says who a route is for; `role` names its own by what they check."""
    return call in _AUDIENCES or getattr(call, "__name__", "").startswith("role:")


def _harmless(route: BaseRoute) -> bool:
    """FastAPI's own description of the app, and files that are the same for everybody."""
    return getattr(route, "path", "") == "/openapi.json" or isinstance(getattr(route, "app", None), StaticFiles)


def bearer(request: Request) -> str:
    """The bearer token of a request, empty where there is none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unknown() -> Problem:
    detail = "Say who you are: a bearer token or a signed-in session is needed."
    return Problem(401, "not-signed-in", detail, headers={"WWW-Authenticate": "Bearer"})

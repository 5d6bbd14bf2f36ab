"""One service's web app: its routes, access, problem documents, security headers, health, metrics."""

import hmac
from collections.abc import Callable
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leeward import __version__, telemetry
from leeward.service import Context
from leeward.timekeeping.guard import is_doubted
from leeward.web import problem
from leeward.web.access import PUBLIC, AccessControl, bearer, check_routes
from leeward.web.look.files import files

MAX_BODY: Final = 1024 * 1024
READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; manifest-src 'self'; worker-src 'self'; connect-src 'self'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Guard:
    """Plain ASGI around the app: security headers on every answer, and no body that says it is too large.

    Before the service has begun nobody has compared its key with its database: it is read, and takes nothing.

    FastAPI counts the others as they come, but answers those that say so in plain text.
    """

    def __init__(self, app: ASGIApp, service: str = "", begun: Callable[[], bool] = lambda: True) -> None:
        self._app = app
        self._service = service
        self._begun = begun

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 413:
                    telemetry.too_large(self._service)
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        length = Headers(scope=scope).get("content-length", "") if scope["type"] == "http" else ""
        too_large = length.isdecimal() and int(length) > MAX_BODY
        app: ASGIApp = problem.answer(problem.of_status(413)) if too_large else self._app
        if not self._begun() and scope["type"] == "http" and scope["method"] not in READS:
            app = problem.answer(problem.of_status(503, {"Retry-After": "5"}))
        await app(scope, receive, send_with_headers)


class App(FastAPI):
    """FastAPI inside the guard, so that a fault's answer, which Starlette sends outermost, has the headers too."""

    def build_middleware_stack(self) -> ASGIApp:
        return Guard(super().build_middleware_stack(), self.state.access.context.name, self.state.begun)


def create_app(
    context: Context,
    router: APIRouter,
    *,
    unready: Callable[[], str] = lambda: "",
    notes: Callable[[], list[str]] = list,
    begun: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """The app of one service.

    Args:
        unready: gives the code of why it cannot do its work now, empty while it can.
        notes: gives codes of what somebody should know although it can.
        begun: whether it may take any.

    Raises:
        RuntimeError: when a route does not say who it is for.
    """
    title = f"Leeward {context.name}"
    app = App(title=title, version=__version__, docs_url=None, redoc_url=None, max_body_size=MAX_BODY)
    app.state.access = AccessControl(context)
    app.state.begun = begun
    app.include_router(_ground_routes(context, unready, notes))
    app.include_router(files(context.settings, context.clock))
    app.include_router(router)
    check_routes(app)
    problem.install(app)
    return app


def _ground_routes(context: Context, unready: Callable[[], str], notes: Callable[[], list[str]]) -> APIRouter:
    router = APIRouter()

    @router.get("/livez", dependencies=[PUBLIC])
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz", dependencies=[PUBLIC])
    async def readyz() -> JSONResponse:
        # what the last write and the last look found: asking costs the database nothing
        if reason := context.store.health.reason or unready():
            return JSONResponse({"status": "not ready", "reason": reason}, 503)
        told = [*notes(), *(["clock_doubted"] if is_doubted(context.clock) else [])]
        return JSONResponse({"status": "ready", "notes": told} if told else {"status": "ready"})

    @router.get("/metrics", dependencies=[PUBLIC])
    async def metrics(request: Request) -> Response:
        # open on loopback alone: elsewhere they need the token, and where none is set nobody gets them
        token = context.settings.variable("METRICS_TOKEN") or ""
        if not context.settings.on_loopback and not (
            token and hmac.compare_digest(bearer(request).encode(), token.encode())
        ):
            raise problem.Problem(401, "not-signed-in", "Metrics need LEEWARD_METRICS_TOKEN as a bearer token.")
        return Response(generate_latest(telemetry.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return router

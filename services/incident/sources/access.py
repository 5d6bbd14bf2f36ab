"""Who sends: a source's bearer token, or its Standard Webhooks signature over the body."""

import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from fastapi import Request
from standardwebhooks import Webhook

from leeward import telemetry
from leeward.clock import SystemClock
from leeward.settings import Settings
from leeward.settings.policy import SourceKind
from leeward.web.problem import Problem

SIGNED: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
WINDOW: Final = timedelta(minutes=5)
UNKNOWN: Final = "Say which source you are: its bearer token or its Standard Webhooks signature is needed."
STALE: Final = (
    "webhook-timestamp: is more than five minutes from the time here: the message is old, or a clock is wrong. "
    "Send it again with the same webhook-id and a new signature."
)
_BEARER: Final = {"WWW-Authenticate": "Bearer"}


def authenticate_source(settings: Settings, kind: SourceKind, request: Request, body: bytes, *, only: str = "") -> str:
    """The name of the source a request comes from. One without a secret cannot come this way.

    Args:
        only: the one source that it may be, where its address names it.

    Raises:
        Problem: 401 for everybody else, and for what a source signed too long ago.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    headers = {name: request.headers.get(name, "") for name in SIGNED}
    stale = False
    for name, source in settings.sources.items():
        if source.kind != kind or only not in ("", name):
            continue
        for secret in settings.source_secrets(name):
            signature = _signature(secret, headers, body)
            if signature == "good" or (bearer and hmac.compare_digest(bearer.encode(), secret.encode())):
                return name
            stale = stale or signature == "stale"
    telemetry.MESSAGES_REFUSED.labels("http", "stale_signature" if stale else "unknown_sender").inc()
    if stale:
        raise Problem(401, "stale-signature", STALE, headers=_BEARER)
    raise Problem(401, "unknown-source", UNKNOWN, headers=_BEARER)


def signed_at(request: Request) -> datetime | None:
    """When a request that has shown whose it is was signed, by its sender's clock."""
    given = request.headers.get("webhook-timestamp", "")
    return (
        datetime.fromtimestamp(int(given), UTC) if given.isascii() and given.isdecimal() and len(given) < 12 else None
    )


def _signature(secret: str, headers: Mapping[str, str], body: bytes) -> Literal["good", "stale", "none"]:
    """Standard Webhooks 1.0: HMAC-SHA256 over id, time and body; five minutes either way by the machine's clock.

    The library's own check looks at the time first, so that it could not tell an old message from a stranger's.
    """
    if not secret.startswith("whsec_") or not all(headers.values()):
        return "none"
    try:
        at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        expected = Webhook(secret).sign(headers["webhook-id"], at, body.decode())
    except (ValueError, OverflowError, OSError):
        return "none"
    given = headers["webhook-signature"].split()
    if not any(hmac.compare_digest(expected.encode(), one.encode()) for one in given):
        return "none"
    return "good" if abs(SystemClock().now() - at) <= WINDOW else "stale"

"""Who sends: a source's bearer token, or its Standard Webhooks signature over the body."""

import hmac
from typing import Final

from fastapi import Request
from standardwebhooks import Webhook, WebhookVerificationError

from leeward import telemetry
from leeward.policy import SourceKind
from leeward.settings import Settings
from leeward.web.problem import Problem

SIGNED: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")


def sender(settings: Settings, kind: SourceKind, request: Request, body: bytes) -> str:
    """The name of the source a request comes from. One without a secret cannot come this way.

    Raises:
        Problem: 401 for everybody else.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    headers = {name: request.headers.get(name, "") for name in SIGNED}
    for name, source in settings.sources.items():
        secret = settings.source_secret(name) if source.kind == kind else None
        if secret and (_same(bearer, secret) or _signed(secret, headers, body)):
            return name
    telemetry.MESSAGES_REFUSED.labels("http", "unknown_sender").inc()
    detail = "Say which source you are: its bearer token or its Standard Webhooks signature is needed."
    raise Problem(401, "unknown-source", detail, headers={"WWW-Authenticate": "Bearer"})


def _same(bearer: str, secret: str) -> bool:
    return bool(bearer) and hmac.compare_digest(bearer.encode(), secret.encode())


def _signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """Standard Webhooks 1.0: HMAC-SHA256 over id, time and body; five minutes either way by the machine's clock."""
    if not secret.startswith("whsec_") or not all(headers.values()):
        return False
    try:
        Webhook(secret).verify(body, headers, json_parse=False)
    except (WebhookVerificationError, ValueError, RuntimeError):
        return False
    return True

"""`fhir subscribe` and `fhir keys`: ask a FHIR server to tell a source's outcomes, and what it must know of us."""

import asyncio
from typing import Any, Final

from leeward.runtime import http_client
from leeward.settings import Settings, load_settings
from services.commands.console import Failed, say, show_json
from services.incident.sources.fhir.client import FhirServer, NotRead, private_key, public_keys
from services.incident.sources.fhir.tree import Node

BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
JSON: Final = "application/fhir+json"


def subscribe(name: str, content: str, *, as_json: bool) -> None:
    """Create the subscription of a source at its server.

    Raises:
        Failed: for a source that is not set up for it, or when the server refuses.
    """
    settings = load_settings(starting=False)
    _source(settings, name)

    async def create() -> Node:
        async with http_client() as http:
            server = FhirServer(name, settings.sources[name], private_key(settings, name), http)
            return await server.create("Subscription", subscription(settings, name, content))

    try:
        made = asyncio.run(create())
    except NotRead as fault:
        raise Failed(f"sources.{name}: its server did not take the subscription ({fault.reason})") from None
    ident, status = (str(made.value.get(key) or "") for key in ("id", "status"))
    if as_json:
        show_json({"id": ident, "status": status})
    else:
        say(f"Subscription/{ident}: {status}" if ident else "Subscription: created")


def keys(name: str) -> None:
    """Print the JWK set that is registered with a source's server.

    Raises:
        Failed: where the source has no private key.
    """
    settings = load_settings(starting=False)
    key = private_key(settings, name)
    if key is None:
        raise Failed(f"LEEWARD_SOURCE_{name.upper()}_PRIVATE_KEY: is needed, PEM of an EC key on P-384 or an RSA key")
    show_json(public_keys(key))


def subscription(settings: Settings, name: str, content: str) -> dict[str, Any]:
    """The resource to create: topic-based (R4 backport, R4B, R5) where the source has a topic, else classic R4.

    Args:
        content: empty, id-only or full-resource.
    """
    source = settings.sources[name]
    endpoint = f"{settings.url('incident')}/v1/fhir/{name}"
    secret = settings.source_secrets(name)[0]
    period = int(source.heartbeat.total_seconds()) if source.heartbeat else None
    if source.fhir_version == "R5":
        return _r5(source.topic, endpoint, secret, content, period)
    channel: dict[str, Any] = {
        "type": "rest-hook",
        "endpoint": endpoint,
        "header": [f"Authorization: Bearer {secret}"],
        **({"payload": JSON} if source.topic or content != "empty" else {}),
    }
    found = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Outcomes",
        "criteria": source.topic or source.criteria,
        "channel": channel,
    }
    if source.topic:
        found["meta"] = {"profile": [f"{BACKPORT}/backport-subscription"]}
        channel["_payload"] = {"extension": [{"url": f"{BACKPORT}/backport-payload-content", "valueCode": content}]}
        if period:
            heartbeat = {"url": f"{BACKPORT}/backport-heartbeat-period", "valueUnsignedInt": period}
            channel["extension"] = [heartbeat]
    return found


def _r5(topic: str, endpoint: str, secret: str, content: str, period: int | None) -> dict[str, Any]:
    kind = {"system": "http://terminology.hl7.org/CodeSystem/subscription-channel-type", "code": "rest-hook"}
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Outcomes",
        "topic": topic,
        "channelType": kind,
        "endpoint": endpoint,
        "parameter": [{"name": "Authorization", "value": f"Bearer {secret}"}],
        "contentType": JSON,
        "content": content,
        **({"heartbeatPeriod": period} if period else {}),
    }


def _source(settings: Settings, name: str) -> None:
    """What must be set up before a server can be asked.

    Raises:
        Failed: naming the setting.
    """
    source = settings.sources.get(name)
    if source is None or source.kind != "fhir":
        raise Failed(f"sources.{name}: must be there, of kind fhir")
    if not source.base_url:
        raise Failed(f"sources.{name}.base_url: is needed; it is where the subscription is made")
    if not settings.source_secrets(name) or settings.source_secrets(name)[0].startswith("whsec_"):
        raise Failed(f"LEEWARD_SOURCE_{name.upper()}_SECRET: is needed, a bearer token that the server will send")
    if source.fhir_version == "R5" and not source.topic:
        raise Failed(f"sources.{name}.topic: is needed; in R5 every subscription has one")

"""A signed POST to a gateway of the site's own (Standard Webhooks 1.0): `webhook-id` is the idempotency key."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from httpx_aiohttp import AiohttpTransport
from standardwebhooks.webhooks import Webhook as Signer

from leeward.settings import Settings
from services.notify.channels import WAYS, ChannelEntry, Later, Letter, Now, Result, Words
from services.notify.channels.wording import wording

LANES: Final = 32
TIMEOUT: Final = 15.0
# answers that ask to come again although they are 4xx (RFC 9110, 15.5.9; RFC 8470; RFC 6585)
AGAIN: Final = frozenset({408, 425, 429})
# seconds; no message is wanted for longer than a year
_LONGEST_PAUSE: Final = 366 * 86400
# not this letter's fault: the gateway takes nothing from us (RFC 9110, 15.5.2, 15.5.4)
NOT_ALLOWED: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to post, the secret to sign with (`whsec_…`), and the base of the links."""

    url: str
    secret: str = field(repr=False)
    public_url: str


def pooled_transport(lanes: int) -> httpx.AsyncBaseTransport:
    """A pool of connections for one gateway, opened with the first request (encode/httpx#3215)."""

    def session() -> ClientSession:
        connector = TCPConnector(limit=lanes, keepalive_timeout=30)
        unlimited = ClientTimeout(total=None)
        return ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=unlimited, auto_decompress=False)

    return AiohttpTransport(client=session)


class Webhook:
    """Hands letters to one URL. A gateway that sees the same `webhook-id` again has it already."""

    def __init__(self, transport: httpx.AsyncBaseTransport, gateway: Gateway, words: Words, now: Now) -> None:
        self._transport = transport
        self._url = httpx.URL(gateway.url)
        self._signer = Signer(gateway.secret)
        self._public_url = gateway.public_url
        self._words = words
        self._now = now

    async def send(self, letter: Letter[Mapping[str, str]], lane: int) -> Result | Later:
        body, headers = self._signed(letter)
        request = httpx.Request("POST", self._url, content=body, headers=headers)
        try:
            async with asyncio.timeout(TIMEOUT):
                status, retry_after = await self._post(request)
        except httpx.ConnectError:
            return Result.NOT_TRIED
        except (httpx.HTTPError, TimeoutError):
            return Result.UNSURE
        if status < 300:
            return Result.TAKEN
        if status in NOT_ALLOWED:
            return Result.ILL
        if status not in AGAIN and status < 500:
            return Result.REFUSED
        pause = pause_of(retry_after, self._now())
        return Result.LATER if pause is None else Later(pause)

    async def _post(self, request: httpx.Request) -> tuple[int, str]:
        """Below httpx's client: redirects, cookies and credentials, none of which there are, cost half its time."""
        answer = await self._transport.handle_async_request(request)
        try:
            async for _ in answer.stream:  # type: ignore[union-attr]
                pass  # read to its end, the connection is kept
        finally:
            await answer.aclose()
        return answer.status_code, answer.headers.get("retry-after", "")

    def _signed(self, letter: Letter[Mapping[str, str]]) -> tuple[str, dict[str, str]]:
        now = self._now()
        words = self._words(letter.kind, letter.locale)
        link = letter.link(self._public_url)
        text = words.body.format(link=link, code=letter.token).rstrip()
        data = {"to": letter.address, "subject": words.subject, "text": text}
        body = json.dumps({"type": "message", "timestamp": now.isoformat(), "data": {**data, "url": link}})
        headers = {
            "content-type": "application/json",
            "webhook-id": letter.key,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(letter.key, now, body),
            "user-agent": "webhook",
        }
        return body, headers

    async def close(self) -> None:
        await self._transport.aclose()


def pause_of(retry_after: str, now: datetime) -> timedelta | None:
    """What `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3); None where it asks for nothing."""
    given = retry_after.strip()
    if given.isdecimal():
        return timedelta(seconds=min(int(given), _LONGEST_PAUSE))
    try:
        until = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(timedelta(), until.replace(tzinfo=until.tzinfo or UTC) - now)


def _make(settings: Settings, now: Now, lanes: int) -> Webhook:
    assert settings.channels.webhook is not None  # it is on
    secret = settings.variable("WEBHOOK_SECRET") or ""
    gateway = Gateway(settings.channels.webhook.url, secret, settings.public_url)
    return Webhook(pooled_transport(lanes), gateway, wording, now)


WEBHOOK: Final[ChannelEntry[Mapping[str, str]]] = ChannelEntry(
    name="webhook",
    turned_on_by="channels.webhook",
    is_on=lambda settings: settings.channels.webhook is not None,
    required={"WEBHOOK_SECRET": "channels.webhook signs every request with it"},
    # all that is known: which way to use is the gateway's to decide
    address=lambda contact: {way: value for way in WAYS if (value := getattr(contact, way))},
    lanes=LANES,
    # a gateway drops repetitions by their `webhook-id`, so that it may be asked as often as after any failure
    repeats_in_doubt=7,
    make=_make,
)

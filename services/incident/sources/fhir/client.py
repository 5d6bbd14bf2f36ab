"""Reading from a FHIR server: SMART Backend Services (`private_key_jwt`, SMART App Launch 2.2 §Backend Services).

Only paths below a source's `base_url` are asked for, redirects are not followed, answers are bounded.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, RSAKey

from leeward.settings import Settings, SettingsError
from leeward.settings.policy import Source
from services.incident.sources.fhir.tree import NOTHING, JsonError, Node, load

ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JSON: Final = "application/fhir+json"
LARGEST: Final = 8 * 1024 * 1024
PATIENCE: Final = 20.0
LIFE: Final = 240  # seconds; the standard allows 300
EARLY: Final = 30
LATER: Final = frozenset({401, 408, 429})  # of the 4xx those that may be answered otherwise the next time


class NotRead(Exception):
    """A server did not give what was asked for; `reason` is a code.

    `gone`: it is not there; `refused`: it, and asking again will hardly help.
    """

    def __init__(self, reason: str, *, gone: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.gone = gone
        self.refused = refused

    @property
    def deleted(self) -> bool:
        """Whether it was there, and is no more."""
        return self.reason == "410"


def private_key(settings: Settings, name: str) -> Key | None:
    """A source's key from LEEWARD_SOURCE_<NAME>_PRIVATE_KEY (PEM): an EC key on P-384, or RSA of 2048 bits or more.

    None for a source that does not sign in; the others' key is asked for here, for no other service may have it.

    Raises:
        SettingsError: for any other, and where it is missing.
    """
    variable = f"SOURCE_{name.upper()}_PRIVATE_KEY"
    text = settings.variable(variable)
    if text is None and name in settings.sources and settings.sources[name].client_id:
        raise SettingsError(f"LEEWARD_{variable}: is missing; sources.{name} has a client_id")
    if text is None:
        return None
    for kind in (ECKey, RSAKey):
        try:
            key = kind.import_key(text)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if key.is_private and algorithm(key):
            return key
    raise SettingsError(f"LEEWARD_{variable}: is no private key; allowed is PEM of an EC key on P-384 or an RSA key")


def algorithm(key: Key) -> str:
    """ES384 or RS384, the two that SMART asks servers for; "" for a key of neither."""
    if isinstance(key, ECKey):
        return "ES384" if key.curve_name == "P-384" else ""
    return "RS384" if isinstance(key, RSAKey) else ""


def public_keys(key: Key) -> dict[str, Any]:
    """What is registered with the server: a JWK set."""
    shown = key.as_dict(private=False)
    return {"keys": [{**shown, "kid": key.thumbprint(), "alg": algorithm(key), "use": "sig"}]}


@dataclass
class FhirServer:
    """One source's FHIR server. A token is asked for once and used until it expires.

    Tokens live by the machine's clock: that of the server knows no other.
    """

    name: str
    source: Source
    key: Key | None
    http: httpx.AsyncClient
    _token: str = ""
    _until: float = 0.0
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def base(self) -> str:
        """Where the server is, without a slash at its end."""
        return self.source.base_url.rstrip("/")

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Node:
        """A resource or a search's Bundle, by its path below the base, or what follows upon that (`?page=2`).

        Raises:
            NotRead: it could not be read.
        """
        return await self._call("GET", path, params=params)

    async def create(self, kind: str, resource: Mapping[str, Any]) -> Node:
        """POST a resource; gives it as the server stores it, empty from one that does not say.

        Raises:
            NotRead: it was refused.
        """
        return await self._call("POST", kind, content=json.dumps(resource))

    async def _call(self, method: str, path: str, **given: Any) -> Node:
        url = f"{self.base}{path}" if path.startswith(("/", "?")) else f"{self.base}/{path}"
        extra = {"Content-Type": JSON, "Prefer": "return=representation"} if "content" in given else {}
        for last in (False, True):
            who = await self._authorize()
            status, body = await self._exchange(method, url, {"Accept": JSON, **extra, **who}, given)
            if status == 401 and self.key and not last:
                # others may have been told the same, and have asked for a new one
                if who == self._header():
                    self._token = ""
                continue
            if status in (404, 410):
                raise NotRead(str(status), gone=True)
            if status not in (200, 201):
                raise NotRead(str(status), refused=400 <= status < 500 and status not in LATER)
            if status == 201 and not body.strip():
                return NOTHING
            try:
                return load(body)
            except JsonError:
                raise NotRead("not_json") from None
        raise NotRead("401")

    async def _exchange(self, method: str, url: str, headers: Any, given: Any) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(PATIENCE),
                self.http.stream(method, url, headers=headers, follow_redirects=False, **given) as answer,
            ):
                body = bytearray()
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST:
                        raise NotRead("too_large")
                return answer.status_code, bytes(body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as fault:
            raise NotRead(type(fault).__name__) from None

    async def _authorize(self) -> dict[str, str]:
        """The header with a valid token; no header for a server that is set up without a client."""
        if self.key is None or not self.source.client_id:
            return {}
        async with self._asking:
            if not self._token or time.time() >= self._until:
                await self._request_token(self.key)
            return self._header()

    def _header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    async def _request_token(self, key: Key) -> None:
        """Ask the `token_url`, else the endpoint that the base's `.well-known/smart-configuration` names."""
        plain = {"Accept": "application/json"}
        url: Any = self.source.token_url
        if not url:
            status, body = await self._exchange("GET", f"{self.base}/.well-known/smart-configuration", plain, {})
            url = _object(body).get("token_endpoint") if status == 200 else None
            if not isinstance(url, str) or not url.startswith(("https://", "http://")):
                raise NotRead("no_token_endpoint")
        client, used = self.source.client_id, algorithm(key)
        claims = {
            "iss": client,
            "sub": client,
            "aud": url,
            "jti": secrets.token_urlsafe(24),
            "exp": int(time.time()) + LIFE,
        }
        header = {"alg": used, "kid": key.thumbprint(), "typ": "JWT"}
        form = {
            "grant_type": "client_credentials",
            "scope": self.source.scopes,
            "client_assertion_type": ASSERTION,
            "client_assertion": jwt.encode(header, claims, key, algorithms=[used]),
        }
        status, body = await self._exchange("POST", url, plain, {"data": form})
        answer = _object(body) if status == 200 else {}
        token, lasts = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token:
            raise NotRead("no_token")
        span = lasts if isinstance(lasts, int) and 0 < lasts < 10**6 else 300
        self._token, self._until = token, time.time() + span - EARLY


def _object(body: bytes) -> dict[str, Any]:
    try:
        return load(body).value
    except JsonError:
        return {}

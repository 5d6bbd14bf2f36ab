"""Links, message keys, cookies and codes: all derived or random, all stored as hashes."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from leeward.settings.keys import Keyring

TOKEN_BYTES = 24


def hashed(token: str) -> str:
    """What is stored of a token, cookie or ticket: SHA-256 in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Seals:
    """Derives what must survive a crash between commit and sending, so that a repeated mail has the same link.

    A key (32 hex digits) names one hand-off in every channel; its token (192 bits, base64url) opens the question and
    cannot be had from the key without this service's own secret.
    """

    link: bytes
    message: bytes
    code: bytes

    def key(self, *parts: str) -> str:
        return _mac(self.message, "\x1f".join(parts)).hex()[:32]

    def token(self, key: str) -> str:
        return base64.urlsafe_b64encode(_mac(self.link, key)[:TOKEN_BYTES]).decode()

    def digits(self, key: str) -> str:
        """The 8 digits that a code mail carries."""
        return f"{int.from_bytes(_mac(self.code, key)[:8], 'big') % 10**8:08d}"

    def luck(self, key: str) -> float:
        """In [0, 1), drawn from the message itself."""
        return int.from_bytes(_mac(self.message, f"luck {key}")[:6], "big") / 2**48


def seals(keys: Keyring) -> Seals:
    return Seals(keys.derive("link"), keys.derive("message"), keys.derive("code"))


def new_secret() -> str:
    """192 random bits, base64url: a browser's cookie, a ticket."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")

"""What is stored sealed: AES-256-GCM, as a nonce of 12 bytes and the ciphertext with its tag (NIST SP 800-38D)."""

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE: Final = 12  # bytes


class CannotOpen(Exception):
    """Something sealed cannot be opened: by another key, about something else, or not whole."""


class Sealer:
    """AES-256-GCM under one key of 32 bytes; what it is bound to (`about`) must be the same when it is opened."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, content: bytes, about: str) -> bytes:
        """Nonce and ciphertext."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, content, about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """The content.

        Raises:
            CannotOpen: when it is not of this key, or was changed.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], about.encode())
        except InvalidTag:
            raise CannotOpen("cannot be opened by this key") from None

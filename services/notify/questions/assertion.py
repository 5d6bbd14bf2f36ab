"""The signed word that a browser may ask the issuer for one token: a compact JWS by Ed25519 (RFC 7515, RFC 9864)."""

from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives import serialization
from joserfc import jwt
from joserfc.jwk import OKPKey

from leeward.settings.keys import Keyring, assertion_key

LIFE: Final = timedelta(minutes=15)


class Assertions:
    """Signs with the key whose public half the issuer has."""

    def __init__(self, keys: Keyring) -> None:
        pem = assertion_key(keys.service).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._key = OKPKey.import_key(pem.decode())

    def sign(self, case_ref: str, now: datetime) -> str:
        """Claims `case_ref`, `iat`, `exp` (15 minutes later)."""
        issued = int(now.timestamp())
        claims = {"case_ref": case_ref, "iat": issued, "exp": issued + int(LIFE.total_seconds())}
        return jwt.encode({"alg": "Ed25519"}, claims, self._key, algorithms=["Ed25519"])

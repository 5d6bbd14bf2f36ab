"""TLS of the MLLP port: our certificate, the authority of the senders', and which source each one speaks for."""

import secrets
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from leeward.settings import Settings, SettingsError

CERTIFICATE: Final = "MLLP_CERTIFICATE"
KEY: Final = "MLLP_KEY"
CLIENT_CA: Final = "MLLP_CLIENT_CA"


@dataclass(frozen=True)
class PeerVerifier:
    """How connections come in: in the clear where there is no `context`; with `sources` by a certificate's name."""

    context: ssl.SSLContext | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def mutual(self) -> bool:
        """Whether every sender shows a certificate."""
        return self.context is not None and self.context.verify_mode == ssl.CERT_REQUIRED

    def source_of(self, certificate: Mapping[str, Any]) -> str | None:
        """The one source that a verified certificate speaks for; None for none, or for several."""
        found = {self.sources[name] for name in names_of(certificate) if name in self.sources}
        return found.pop() if len(found) == 1 else None


def peer_verifier_of(settings: Settings) -> PeerVerifier:
    """The verifier as the settings want it.

    Raises:
        SettingsError: what is given cannot be read, does not belong together, or is only half of what is needed.
    """
    sources = {
        name.casefold(): key
        for key, source in settings.sources.items()
        if source.kind == "hl7v2"
        for name in source.certificate
    }
    if sources and not settings.variable(CLIENT_CA):
        place = f"sources.{next(iter(sources.values()))}.certificate"
        raise SettingsError(f"LEEWARD_{CLIENT_CA}: is missing; {place} in leeward.toml needs it")
    if settings.variable(CLIENT_CA) and not sources:
        raise SettingsError(
            f"LEEWARD_{CLIENT_CA}: no sender could come in; name whose certificate it is under [sources.NAME] "
            "certificate in leeward.toml"
        )
    if not settings.variable(CERTIFICATE):
        return PeerVerifier(None, sources)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load(context, settings)
    if settings.variable(CLIENT_CA):
        _certificates(settings, CLIENT_CA)
        context.load_verify_locations(cadata=settings.variable(CLIENT_CA))
        context.verify_mode = ssl.CERT_REQUIRED
    return PeerVerifier(context, sources)


def names_of(certificate: Mapping[str, Any]) -> list[str]:
    """A certificate's DNS names, else its common names, in lower case (the form of `ssl.SSLSocket.getpeercert`)."""
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return [name.casefold() for name in names or common]


def expiries(settings: Settings) -> dict[str, datetime]:
    """Until when each certificate given is valid, the earliest of a chain, by its variable.

    Raises:
        SettingsError: one cannot be read.
    """
    given = [name for name in (CERTIFICATE, CLIENT_CA) if settings.variable(name)]
    return {name: min(one.not_valid_after_utc for one in _certificates(settings, name)) for name in given}


def _certificates(settings: Settings, name: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates((settings.variable(name) or "").encode())
    except ValueError:
        raise SettingsError(f"LEEWARD_{name}: holds no certificate; allowed is PEM") from None


def _load(context: ssl.SSLContext, settings: Settings) -> None:
    """`ssl` reads from files alone: the key lies in one for a moment, under a password that is never written."""
    certificates = _certificates(settings, CERTIFICATE)
    password = secrets.token_bytes(32)
    try:
        key = load_pem_private_key((settings.variable(KEY) or "").encode(), None)
        sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingsError(f"LEEWARD_{KEY}: holds no private key; allowed is PEM without a password") from None
    with tempfile.NamedTemporaryFile() as file:
        file.write(sealed + b"".join(one.public_bytes(Encoding.PEM) for one in certificates))
        file.flush()
        try:
            context.load_cert_chain(file.name, password=password)
        except ssl.SSLError:
            raise SettingsError(
                f"LEEWARD_{KEY}: is not the key of LEEWARD_{CERTIFICATE}; allowed are the two that belong together"
            ) from None

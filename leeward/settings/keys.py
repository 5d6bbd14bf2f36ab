"""Keys: made under `keys/` by the first command that needs them when embedded, given by settings otherwise."""

import base64
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from leeward.settings import ServiceName, Settings, SettingsError
from leeward.settings.files import describe_fault
from leeward.store.sqlite import holds_rows

KeyName = ServiceName | Literal["people"]
# they speak to no other service and sign nobody in, so they are not given what would let them
APART: Final[tuple[ServiceName, ...]] = ("issuer", "box")


@dataclass(frozen=True)
class Keyring:
    """What one service may know of keys.

    service: 32 bytes of its own; services_secret: by which the services know one another over HTTP;
    assertion_public: raw Ed25519 public key (32 bytes) by which issuer checks notify's assertions, None elsewhere.
    """

    service: bytes
    services_secret: str
    assertion_public: bytes | None

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, from the service's own key (HKDF-SHA256, RFC 5869)."""
        return derive(self.service, purpose)

    @property
    def assertion_public_key(self) -> Ed25519PublicKey:
        if self.assertion_public is None:
            raise LookupError("only issuer checks assertions")
        return Ed25519PublicKey.from_public_bytes(self.assertion_public)

    def __repr__(self) -> str:
        return "Keyring(…)"


def derive(key: bytes, purpose: str) -> bytes:
    """HKDF-SHA256 of a key, bound to a purpose."""
    return HKDF(hashes.SHA256(), 32, salt=None, info=f"leeward {purpose}".encode()).derive(key)


def assertion_key(notify_key: bytes) -> Ed25519PrivateKey:
    """The key with which notify signs that a browser may ask for a token."""
    return Ed25519PrivateKey.from_private_bytes(derive(notify_key, "assertion"))


def keyring(settings: Settings, service: ServiceName) -> Keyring:
    """A service's keys.

    Raises:
        SettingsError: when a key is missing in a distributed run.
    """
    shared = services_secret(settings) if service not in APART else secrets.token_hex()
    public = _assertion_public(settings) if service == "issuer" else None
    return Keyring(service_key(settings, service), shared, public)


def own_key(settings: Settings, service: ServiceName) -> Keyring:
    """A service's own key and no other's, for a command that works on its database.

    Raises:
        SettingsError: when it is missing in a distributed run.
    """
    return Keyring(service_key(settings, service), secrets.token_hex(), None)


def service_key(settings: Settings, service: ServiceName) -> bytes:
    """The 32 bytes of LEEWARD_<SERVICE>_KEY, or of `keys/<service>.key` when embedded.

    Raises:
        SettingsError: when it is missing in a distributed run, or where the service's database holds something already.
    """
    if found := found_key(settings, service):
        return found
    if not settings.embedded:
        raise _missing(f"{service.upper()}_KEY")
    if holds_rows(settings.database_file(service), service):
        raise SettingsError(lost_key(settings, service))
    return _kept(key_file(settings, service))


def people_key(settings: Settings, *, new: bool = False) -> bytes:
    """The key that makes references from `staff_id`; for imports alone, never for a service.

    Args:
        new: nobody is on a roster yet, so that it may be made when embedded.

    Raises:
        SettingsError: when it is missing.
    """
    if found := found_key(settings, "people"):
        return found
    if not settings.embedded:
        raise _missing("PEOPLE_KEY")
    if not new:
        raise SettingsError(lost_key(settings, "people"))
    return _kept(key_file(settings, "people"))


def found_key(settings: Settings, name: KeyName) -> bytes | None:
    """A key that is given or kept; None where it is neither, and none is made.

    Raises:
        SettingsError: when its file holds no key.
    """
    if given := settings.variable(f"{name.upper()}_KEY"):
        return base64.b64decode(given)
    return _read_if_there(key_file(settings, name)) if settings.embedded else None


def key_file(settings: Settings, name: str) -> Path:
    """Where a key is kept when embedded."""
    return settings.data / "keys" / f"{name}.key"


def check_value(key: bytes, name: KeyName) -> str:
    """What a database keeps of a key to know it again: an HMAC-SHA256 (hex), from which the key cannot be had."""
    return hmac.digest(derive(key, "check value"), name.encode(), "sha256").hex()


def lost_key(settings: Settings, name: KeyName) -> str:
    """One line: a database was made with a key that is not there."""
    return f"{key_file(settings, name)}: is missing, and {_made_with(name)} it; put it back from your copy of the keys"


def foreign_key(settings: Settings, name: KeyName) -> str:
    """One line: a database was made with another key than this."""
    variable = f"{name.upper()}_KEY"
    place = f"LEEWARD_{variable}" if settings.variable(variable) else f"{key_file(settings, name)}"
    return f"{place}: is another key than {_made_with(name)}; put that one back from your copy of the keys"


def _made_with(name: KeyName) -> str:
    what = "the roster was imported" if name == "people" else f"the database of {name} was made"
    return f"{what} with"


def services_secret(settings: Settings) -> str:
    """The secret the services show one another, made when embedded."""
    if given := settings.variable("SERVICES_SECRET"):
        return given
    if not settings.embedded:
        raise _missing("SERVICES_SECRET")
    # nothing that is stored rests on it: with a new one everybody signs in again
    return _kept(key_file(settings, "services")).hex()


def _assertion_public(settings: Settings) -> bytes:
    if given := settings.variable("ASSERTION_PUBLIC_KEY"):
        return base64.b64decode(given)
    if not settings.embedded:
        raise _missing("ASSERTION_PUBLIC_KEY")
    public = assertion_key(service_key(settings, "notify")).public_key()
    return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _missing(variable: str) -> SettingsError:
    return SettingsError(f"LEEWARD_{variable}: is missing; a distributed run needs 32 bytes, base64")


def _kept(path: Path) -> bytes:
    """The key in a file, made with mode 0600 where there is none; the first of two makers wins.

    Raises:
        SettingsError: see `_read`, and where none can be made.
    """
    try:
        _make(path)
    except OSError as fault:
        raise SettingsError(f"LEEWARD_DATA: {describe_fault(fault, path.parent)}") from None
    return _read(path)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{secrets.token_hex(4)}")
    if not path.exists():
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(base64.b64encode(secrets.token_bytes(32)).decode())
            file.flush()
            os.fsync(file.fileno())
        try:
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink()
        # a key that a power cut took away would turn every reference made with it into a stranger's
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _read_if_there(path: Path) -> bytes | None:
    try:
        there = path.exists()
    except OSError as fault:  # the folder is closed to us, so that nobody can tell
        raise SettingsError(f"keys/{path.name}: {describe_fault(fault, path)}") from None
    return _read(path) if there else None


def _read(path: Path) -> bytes:
    """The key in a file.

    Raises:
        SettingsError: when it cannot be read, or holds no key; a new one would orphan all that the old one made.
    """
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except OSError as fault:
        raise SettingsError(f"keys/{path.name}: {describe_fault(fault, path)}") from None
    except ValueError:
        key = b""
    if len(key) != 32:
        raise SettingsError(f"{path}: is damaged; allowed are 32 bytes, base64, from a backup of the keys")
    return key

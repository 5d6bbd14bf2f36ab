"""The box's own key of a window: ratings are sealed to it in the browser and opened once, together, after the end."""

import secrets
from collections.abc import Iterable
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from leeward.sealing import Sealer
from services.feedback.reports import Rating, UnreadableRating, parse

BITS: Final = 3072
SIZE: Final = BITS // 8  # bytes of everything that is sealed
OAEP: Final = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def new_key() -> tuple[bytes, bytes]:
    """(public as DER SPKI, private as DER PKCS #8) for WebCrypto's RSA-OAEP with SHA-256."""
    private = rsa.generate_private_key(65537, BITS)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public, private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def open_batch(secret: bytes, epoch: str, locked: bytes, sealed: Iterable[bytes]) -> tuple[list[Rating], int]:
    """Everything that was sealed, in an order drawn by chance, and how many of it could not be read."""
    der = Sealer(secret).open(locked, epoch)
    # authenticated encryption of our own: no need to check both primes again
    private = load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(private, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    ratings, unreadable = [], 0
    for each in sealed:
        try:
            ratings.append(parse(private.decrypt(each, OAEP)))
        except (ValueError, UnreadableRating):
            unreadable += 1
    secrets.SystemRandom().shuffle(ratings)
    return ratings, unreadable

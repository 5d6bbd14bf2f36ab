"""Blind signatures: RSABSSA-SHA384-PSS-Randomized of RFC 9474, with 3072-bit keys, one an epoch.

The person's browser prepares and blinds a nonce and later finalises what was signed (RFC 9474 §4.1, §4.2, §4.4). This
side signs without seeing it (§4.3) and verifies the finished token (§4.5), which is an ordinary RSA-PSS signature.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

import gmpy2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

BITS: Final = 3072
EXPONENT: Final = 65537
PREFIX: Final = 32  # bytes of fresh randomness that the Randomized variant puts first (RFC 9474 §4.1)
NONCE: Final = 32  # bytes of our message, itself random: it carries nothing
PREPARED: Final = PREFIX + NONCE
SALT: Final = 48  # bytes: the length of a SHA-384 hash (RFC 9474 §5)
PSS: Final = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=SALT)


class CannotSign(Exception):
    """What came is no blinded message for this key; nothing of it is repeated here."""


class SigningFault(Exception):
    """The signature did not check out. It must not leave: a faulty one can give the private key away."""


@dataclass(frozen=True)
class SigningKey:
    """One epoch's private key. `n`, `e` and `d` as in RFC 8017; `size` is the modulus in bytes."""

    n: int = field(repr=False)
    e: int
    d: int = field(repr=False)
    der: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return (self.n.bit_length() + 7) // 8

    @property
    def spki(self) -> bytes:
        """The public key as DER SubjectPublicKeyInfo with the rsaEncryption OID, which WebCrypto asks for."""
        public = rsa.RSAPublicNumbers(self.e, self.n).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def generate() -> SigningKey:
    """A new epoch's key."""
    return _signing_key(rsa.generate_private_key(EXPONENT, BITS))


def load(der: bytes) -> SigningKey:
    """The key from the PKCS #8 DER kept in `SigningKey.der`. Raises TypeError where it is no RSA key."""
    # the DER comes back from authenticated encryption of our own; checking both primes again would cost 50 ms a token
    key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError("not an RSA key")
    return _signing_key(key)


def _signing_key(key: rsa.RSAPrivateKey) -> SigningKey:
    numbers = key.private_numbers()
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(numbers.public_numbers.n, numbers.public_numbers.e, numbers.d, der)


def sign_blinded(key: SigningKey, blinded: bytes) -> bytes:
    """BlindSign of RFC 9474 §4.3: raw RSA over what the browser blinded, in constant time, checked before it leaves.

    Raises:
        CannotSign: for a wrong length, or a number that is not below the modulus.
        SigningFault: when the check of step 4 fails.
    """
    message = int.from_bytes(blinded)
    if len(blinded) != key.size or not 0 < message < key.n:
        raise CannotSign
    signed = gmpy2.powmod_sec(message, key.d, key.n)
    if gmpy2.powmod(signed, key.e, key.n) != message:
        raise SigningFault
    return int(signed).to_bytes(key.size)


def verify(spki: bytes, prepared: bytes, signature: bytes) -> bool:
    """Whether a finished token holds under an epoch's public key (RFC 9474 §4.5). `prepared` is prefix and nonce."""
    key = load_der_public_key(spki)
    if not isinstance(key, rsa.RSAPublicKey) or len(prepared) != PREPARED:
        return False
    try:
        key.verify(signature, prepared, PSS, hashes.SHA384())
    except InvalidSignature:
        return False
    return True


def fingerprint(spki: bytes) -> str:
    """SHA-256 of the public key in hex, as published."""
    return hashlib.sha256(spki).hexdigest()


def epoch_of(spki: bytes) -> str:
    """An epoch's name: the first 16 characters of its key's fingerprint, so that the name alone pins the key."""
    return fingerprint(spki)[:16]

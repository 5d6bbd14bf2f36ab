"""What is sealed is opened by its key alone, about the same thing and whole; how it lies at rest does not change."""

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from leeward.sealing import CannotOpen, Sealer

KEY = bytes(range(32))


def test_what_was_sealed_is_opened() -> None:
    assert Sealer(KEY).open(Sealer(KEY).seal(b"secret", "row 1"), "row 1") == b"secret"


def test_no_two_are_sealed_alike() -> None:
    assert Sealer(KEY).seal(b"secret", "row 1") != Sealer(KEY).seal(b"secret", "row 1")


def test_another_key_another_thing_and_a_changed_byte_open_nothing() -> None:
    sealed = Sealer(KEY).seal(b"secret", "row 1")
    for sealer, content, about in (
        (Sealer(bytes(32)), sealed, "row 1"),
        (Sealer(KEY), sealed, "row 2"),
        (Sealer(KEY), sealed[:-1] + bytes([sealed[-1] ^ 1]), "row 1"),
    ):
        with pytest.raises(CannotOpen):
            sealer.open(content, about)


def test_what_earlier_versions_stored_is_read() -> None:
    nonce = b"0123456789ab"
    stored = nonce + AESGCM(KEY).encrypt(nonce, b"secret", b"row 1")
    assert Sealer(KEY).open(stored, "row 1") == b"secret"

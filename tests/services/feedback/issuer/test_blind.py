"""The issuer's half of RFC 9474 against the RFC's own numbers and against the browser's half."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key

from services.feedback import blind
from tests.services.feedback.browserless import drive, from_text, text

VECTOR: dict[str, str] = json.loads((Path(__file__).parents[1] / "rfc9474_a1.json").read_text())


def number(name: str) -> int:
    return int(VECTOR[name], 16)


def octets(name: str) -> bytes:
    return bytes.fromhex(VECTOR[name])


@pytest.fixture(scope="module")
def rfc_key() -> blind.SigningKey:
    p, q, d, e = number("p"), number("q"), number("d"), number("e")
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), rsa.RSAPublicNumbers(e, p * q)
    )
    return blind.load(numbers.private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


@pytest.fixture(scope="module")
def epoch_key() -> blind.SigningKey:
    return blind.generate()


def test_signs_what_the_rfc_signs(rfc_key: blind.SigningKey) -> None:
    assert blind.sign_blinded(rfc_key, octets("blinded_msg")) == octets("blind_sig")


def test_unblinding_the_rfcs_answer_gives_the_rfcs_signature(rfc_key: blind.SigningKey) -> None:
    signed = int.from_bytes(blind.sign_blinded(rfc_key, octets("blinded_msg")))
    assert (signed * number("inv") % rfc_key.n).to_bytes(rfc_key.size) == octets("sig")


def test_the_rfcs_signature_is_an_ordinary_pss_one(rfc_key: blind.SigningKey) -> None:
    from cryptography.hazmat.primitives import hashes

    public = load_der_public_key(rfc_key.spki)
    assert isinstance(public, rsa.RSAPublicKey)
    public.verify(octets("sig"), octets("msg_prefix") + octets("msg"), blind.PSS, hashes.SHA384())


def test_our_own_messages_are_a_prefix_and_a_nonce_of_32_bytes_each(rfc_key: blind.SigningKey) -> None:
    """The RFC's example message is 48 bytes long, so it holds for the RFC and is no token of ours."""
    assert not blind.verify(rfc_key.spki, octets("msg_prefix") + octets("msg"), octets("sig"))


def test_a_new_key_is_3072_bits_and_carries_the_oid_browsers_ask_for(epoch_key: blind.SigningKey) -> None:
    assert epoch_key.size * 8 == 3072
    assert bytes.fromhex("06092a864886f70d010101") in epoch_key.spki
    assert blind.load(epoch_key.der) == epoch_key
    assert "n=" not in repr(epoch_key)
    assert blind.fingerprint(epoch_key.spki).startswith(blind.epoch_of(epoch_key.spki))


@pytest.mark.parametrize("size", [0, 1, 383, 385])
def test_a_message_of_another_length_is_not_signed(epoch_key: blind.SigningKey, size: int) -> None:
    with pytest.raises(blind.CannotSign):
        blind.sign_blinded(epoch_key, b"\x01" * size)


def test_a_number_outside_the_modulus_is_not_signed(epoch_key: blind.SigningKey) -> None:
    for value in (0, epoch_key.n, epoch_key.n + 1):
        with pytest.raises(blind.CannotSign):
            blind.sign_blinded(epoch_key, value.to_bytes(384))


def test_a_faulty_signature_never_leaves(epoch_key: blind.SigningKey) -> None:
    struck_by_a_cosmic_ray = replace(epoch_key, d=epoch_key.d ^ (1 << 700))
    with pytest.raises(blind.SigningFault):
        blind.sign_blinded(struck_by_a_cosmic_ray, b"\x02" * 384)


def token(key: blind.SigningKey) -> dict[str, Any]:
    """What the browser's own code makes of our blind signature."""
    state = drive("begin", [{"epoch": blind.epoch_of(key.spki), "key": text(key.spki)}])
    signed = blind.sign_blinded(key, from_text(state["blinded"]))
    code = drive("finish", [state, text(signed)])["code"]
    return {"state": state, "signed": signed, "code": code, **drive("readCode", [code])}


def test_the_browsers_library_finishes_what_we_sign(epoch_key: blind.SigningKey) -> None:
    kept = token(epoch_key)
    prepared, signature = from_text(kept["prepared"]), from_text(kept["signature"])
    assert kept["epoch"] == blind.epoch_of(epoch_key.spki)
    assert blind.verify(epoch_key.spki, prepared, signature)
    assert not blind.verify(blind.generate().spki, prepared, signature)
    assert not blind.verify(epoch_key.spki, prepared[:-1] + bytes([prepared[-1] ^ 1]), signature)
    assert not blind.verify(epoch_key.spki, prepared, signature[:-1])


def test_nothing_the_issuer_sees_is_in_the_token(epoch_key: blind.SigningKey) -> None:
    kept = token(epoch_key)
    seen_by_the_issuer = {from_text(kept["state"]["blinded"]), kept["signed"]}
    in_the_token = {from_text(kept["prepared"]), from_text(kept["signature"])}
    assert not seen_by_the_issuer & in_the_token


def test_the_browser_refuses_an_answer_made_with_another_key(epoch_key: blind.SigningKey) -> None:
    state = drive("begin", [{"epoch": "0" * 16, "key": text(epoch_key.spki)}])
    signed = (int.from_bytes(from_text(state["blinded"])) // 2).to_bytes(384)
    assert drive("finish", [state, text(signed)], refused=True) == {"refused": "Error"}


def test_a_code_survives_the_ways_people_keep_it(epoch_key: blind.SigningKey) -> None:
    kept = token(epoch_key)
    wrapped = "\n ".join(kept["code"][start : start + 40] for start in range(0, len(kept["code"]), 40))
    assert drive("readCode", [f"  {wrapped}\r\n"])["signature"] == kept["signature"]
    assert drive("readCode", ["hello"], refused=True) == {"refused": "NotACode"}

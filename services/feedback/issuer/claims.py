"""Claims: a closed case may fetch one token, and the same request again gets the same answer."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OKPKey
from sqlalchemy import Row

from leeward.contracts import Event
from leeward.settings.policy import Feedback
from leeward.store import Timer, Unit
from services.feedback import blind
from services.feedback.issuer import repository
from services.feedback.issuer.epochs import CLOSE, Safe, may_close, signing_epoch

DELETE: Final = "forget_claim"
UNUSED: Final = timedelta(days=90)  # as long as anything of a case is kept (DESIGN §5.12)
ALGORITHMS: Final = ("Ed25519", "EdDSA")  # RFC 9864's name and RFC 8037's older one for the same signature


class NoClaim(Exception):
    """The assertion is not one of ours, or too old; which of them is not said."""


class NotYet(Exception):
    """The case is not known as closed, or its claim is long over."""


class AlreadyUsed(Exception):
    """This case's token was fetched with another request."""


class EpochChanged(Exception):
    """The key that was blinded for signs no more; nothing is used up."""


@dataclass(frozen=True)
class Minted:
    """A blind signature and the epoch whose key made it."""

    signature: bytes
    epoch: str


def asserted_case(key: Ed25519PublicKey, assertion: str, now: datetime) -> str:
    """The case that notify vouches for: a compact JWS with `case_ref` and `exp`, signed with its Ed25519 key.

    Raises:
        NoClaim: whatever is wrong with it.
    """
    rules = jwt.JWTClaimsRegistry(
        now=int(now.timestamp()), exp={"essential": True}, case_ref={"essential": True, "allow_blank": False}
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # the older name of the algorithm is no weaker
            claims = jwt.decode(assertion, OKPKey.import_key(key), algorithms=list(ALGORITHMS)).claims
        rules.validate(claims)
    except (JoseError, ValueError, TypeError):
        raise NoClaim from None
    return str(claims["case_ref"])


def allow_tokens(unit: Unit, events: Sequence[Event]) -> None:
    """Handler: each closed case may fetch one token from now on."""
    cases = [event.key for event in events]
    repository.add_claims(unit.conn, cases, unit.now.date())
    for case in cases:
        unit.set_timer(DELETE, case, unit.now + UNUSED)


def delete_unused(unit: Unit, timers: Sequence[Timer]) -> None:
    """Timer: delete rights that nobody used; a used one is deleted with its epoch."""
    repository.delete_unused_claims(unit.conn, [timer.key for timer in timers])


def mint_token(
    safe: Safe, policy: Feedback, case_ref: str, blinded: bytes, wanted: str | None
) -> Callable[[Unit], Minted]:
    """Work: sign what the browser blinded, once for a case.

    Args:
        wanted: the epoch it was blinded for, so that a token is not lost when another one begins in between.

    Raises:
        NotYet, AlreadyUsed, EpochChanged, blind.CannotSign: and then nothing is stored.
    """
    asked = hashlib.sha256(blinded).hexdigest()

    def work(unit: Unit) -> Minted:
        claim = repository.lock_claim(unit.conn, case_ref)
        if claim is None:
            raise NotYet
        if claim.epoch is None:
            return sign(unit, signing_epoch(unit, safe, policy))
        if claim.asked != asked:
            raise AlreadyUsed
        return Minted(claim.signature, claim.epoch)

    def sign(unit: Unit, epoch: Row[Any]) -> Minted:
        if wanted not in (None, epoch.epoch):
            raise EpochChanged
        signature = blind.sign_blinded(safe.unlock(epoch.epoch, epoch.private), blinded)
        repository.use_claim(unit.conn, case_ref, epoch.epoch, asked, signature)
        unit.cancel_timer(DELETE, case_ref)
        if may_close(repository.count_token(unit.conn, epoch.epoch), unit.now, policy):
            unit.set_timer(CLOSE, epoch.epoch, unit.now)
        return Minted(signature, epoch.epoch)

    return work

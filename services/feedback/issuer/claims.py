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
from sqlalchemy import Row, delete, select, update

from leeward.contracts import Event
from leeward.settings.policy import Feedback
from leeward.store import Insert, Timer, Unit
from services.feedback import blind
from services.feedback.issuer.epochs import CLOSE, Safe, issuing, may_close
from services.feedback.issuer.models import CLAIM, EPOCH

FORGET: Final = "forget_claim"
UNUSED: Final = timedelta(days=90)  # as long as anything of a case is kept (DESIGN §5.12)
ALGORITHMS: Final = ("Ed25519", "EdDSA")  # RFC 9864's name and RFC 8037's older one for the same signature
ADD: Final = Insert(CLAIM, ("case_ref", "closed_on"), conflict="nothing", keys=("case_ref",))


class NoClaim(Exception):
    """The assertion is not one of ours, or too old; which of them is not told."""


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


def case_closed(unit: Unit, events: Sequence[Event]) -> None:
    """Handler: each closed case may fetch one token from now on."""
    cases = [event.key for event in events]
    ADD.run(unit.conn, [(case, unit.now.date()) for case in cases])
    for case in cases:
        unit.set_timer(FORGET, case, unit.now + UNUSED)


def forget_unused(unit: Unit, timers: Sequence[Timer]) -> None:
    """Timer: a right nobody used is gone; a used one goes with its epoch."""
    unused = CLAIM.c.case_ref.in_([timer.key for timer in timers]) & CLAIM.c.epoch.is_(None)
    unit.conn.execute(delete(CLAIM).where(unused))


def mint(safe: Safe, policy: Feedback, case_ref: str, blinded: bytes, wanted: str | None) -> Callable[[Unit], Minted]:
    """Work: sign what the browser blinded, once for a case.

    Args:
        wanted: the epoch it was blinded for, so that a token is not lost when another one begins in between.

    Raises:
        NotYet, AlreadyUsed, EpochChanged, blind.CannotSign: and then nothing is stored.
    """
    asked = hashlib.sha256(blinded).hexdigest()

    def work(unit: Unit) -> Minted:
        claim = unit.conn.execute(select(CLAIM).where(CLAIM.c.case_ref == case_ref).with_for_update()).first()
        if claim is None:
            raise NotYet
        if claim.epoch is not None:
            return _answer_again(claim, asked)
        return _sign(unit, issuing(unit, safe, policy))

    def _sign(unit: Unit, epoch: Row[Any]) -> Minted:
        if wanted not in (None, epoch.epoch):
            raise EpochChanged
        signature = blind.sign_blinded(safe.unlock(epoch.epoch, epoch.private), blinded)
        used = update(CLAIM).where(CLAIM.c.case_ref == case_ref)
        unit.conn.execute(used.values(epoch=epoch.epoch, asked=asked, signature=signature))
        unit.cancel_timer(FORGET, case_ref)
        _count(unit, epoch, policy)
        return Minted(signature, epoch.epoch)

    return work


def _answer_again(claim: Row[Any], asked: str) -> Minted:
    if claim.asked != asked:
        raise AlreadyUsed
    return Minted(claim.signature, claim.epoch)


def _count(unit: Unit, epoch: Row[Any], policy: Feedback) -> None:
    counted = update(EPOCH).where(EPOCH.c.epoch == epoch.epoch).values(issued=EPOCH.c.issued + 1).returning(EPOCH)
    if may_close(unit.conn.execute(counted).one(), unit.now, policy):
        unit.set_timer(CLOSE, epoch.epoch, unit.now)

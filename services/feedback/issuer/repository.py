"""The issuer's statements."""

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, select, update

from leeward.store import Insert
from leeward.store.lookup import in_list
from leeward.store.retention import Expired
from services.feedback.issuer.models import CLAIM, EPOCH

_SIGNING: Final = select(EPOCH).where(EPOCH.c.issuing == 1).with_for_update()
_ADD_CLAIM: Final = Insert(CLAIM, ("case_ref", "closed_on"), conflict="nothing", keys=("case_ref",))


def count_epochs(conn: Connection) -> int:
    """How many epochs there were."""
    return int(conn.execute(select(func.count()).select_from(EPOCH)).scalar_one())


def lock_signing_epoch(conn: Connection) -> Row[Any] | None:
    """The epoch that signs now, None before the first."""
    return conn.execute(_SIGNING).first()


def is_signing(conn: Connection) -> bool:
    """Whether an epoch signs now."""
    return bool(conn.execute(select(func.count()).select_from(EPOCH).where(EPOCH.c.issuing == 1)).scalar_one())


def list_epochs(conn: Connection) -> Sequence[Row[Any]]:
    """Every epoch, newest first."""
    return conn.execute(select(EPOCH).order_by(EPOCH.c.opened_at.desc())).all()


def add_epoch(conn: Connection, epoch: str, spki: bytes, private: bytes, opened_at: datetime) -> None:
    """Add the epoch that signs from now on; `private` is sealed."""
    row = {"epoch": epoch, "spki": spki, "private": private, "issuing": 1, "issued": 0, "opened_at": opened_at}
    conn.execute(EPOCH.insert().values(**row))


def close_epoch(conn: Connection, epoch: str, closed_at: datetime) -> None:
    """Destroy the private key of an epoch, which signs no more."""
    closed = update(EPOCH).where(EPOCH.c.epoch == epoch)
    conn.execute(closed.values(issuing=None, private=None, closed_at=closed_at))


def count_token(conn: Connection, epoch: str) -> Row[Any]:
    """Count one more token of an epoch; gives the epoch with it."""
    counted = update(EPOCH).where(EPOCH.c.epoch == epoch).values(issued=EPOCH.c.issued + 1).returning(EPOCH)
    return conn.execute(counted).one()


def add_claims(conn: Connection, cases: Collection[str], closed_on: date) -> None:
    """Let each case fetch a token, unless it may already or did."""
    _ADD_CLAIM.run(conn, [(case, closed_on) for case in cases])


def lock_claim(conn: Connection, case_ref: str) -> Row[Any] | None:
    """A case's claim, None where it has none."""
    return conn.execute(select(CLAIM).where(CLAIM.c.case_ref == case_ref).with_for_update()).first()


def use_claim(conn: Connection, case_ref: str, epoch: str, asked: str, signature: bytes) -> None:
    """Keep the answer that a claim was used for, with the hash of what was asked."""
    used = update(CLAIM).where(CLAIM.c.case_ref == case_ref)
    conn.execute(used.values(epoch=epoch, asked=asked, signature=signature))


def delete_unused_claims(conn: Connection, cases: Collection[str]) -> None:
    """Delete the claims of these cases that were not used."""
    conn.execute(delete(CLAIM).where(CLAIM.c.case_ref.in_(cases) & CLAIM.c.epoch.is_(None)))


_CLAIMS_OF: Final = Expired(
    select(CLAIM.c.case_ref).where(CLAIM.c.epoch == bindparam("epoch")), delete(CLAIM).where(in_list(CLAIM.c.case_ref))
)


def delete_claims_of(conn: Connection, epoch: str, most: int) -> bool:
    """Delete the claims that were used in an epoch, so many at most; whether there may be more."""
    return _CLAIMS_OF.delete_from(conn, most, epoch=epoch)

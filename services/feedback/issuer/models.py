"""The issuer's tables: epochs with their keys, and which closed case may still fetch a token. Nothing about who."""

from datetime import date, datetime
from typing import Final

from sqlalchemy import Index, LargeBinary, String
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from leeward.store import UtcTime, table_of

REGISTRY = registry()


class _Model(SQLModel, registry=REGISTRY):
    """Base of this service's tables."""


METADATA = _Model.metadata


class SigningEpoch(_Model, table=True):
    """A key that signs for a while. `private` is encrypted with the service's key, and gone once the epoch closed."""

    __tablename__ = "epoch"
    # at most one epoch issues: NULLs differ from one another, 1 does not
    __table_args__ = (Index("epoch_issuing", "issuing", unique=True),)

    epoch: str = Field(primary_key=True, sa_type=String(16))
    spki: bytes = Field(sa_type=LargeBinary)
    private: bytes | None = Field(sa_type=LargeBinary)
    issuing: int | None = Field(default=1)
    issued: int = Field(default=0)
    opened_at: datetime = Field(sa_type=UtcTime)
    closed_at: datetime | None = Field(default=None, sa_type=UtcTime)


class TokenClaim(_Model, table=True):
    """A closed case's right to one token. Once used: under which key, the hash of what was asked, and the answer."""

    __tablename__ = "claim"

    case_ref: str = Field(primary_key=True, sa_type=String(36))
    closed_on: date
    epoch: str | None = Field(default=None, index=True, sa_type=String(16))
    asked: str | None = Field(default=None, sa_type=String(64))
    signature: bytes | None = Field(default=None, sa_type=LargeBinary)


EPOCH: Final = table_of(SigningEpoch)
CLAIM: Final = table_of(TokenClaim)

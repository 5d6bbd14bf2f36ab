"""The box's tables. No row about a rating has a time, an address, a number in a sequence or anything of a person.

Keys that are hashes do not hide the order of arrival: where a row lies in its page still tells it. So whoever
adds a row writes all of them again, shuffled, in one transaction (`repository.py`).
"""

from datetime import date, datetime
from typing import Final

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from leeward.store import UtcTime, table_of

REGISTRY = registry()


class _Model(SQLModel, registry=REGISTRY):
    """Base of this service's tables."""


METADATA = _Model.metadata


class RatingEpoch(_Model, table=True):
    """The issuer's key of an epoch as first seen, and the box's own key to which ratings are sealed in its window."""

    __tablename__ = "epoch"

    epoch: str = Field(primary_key=True, sa_type=String(16))
    state: str = Field(sa_type=String(8))  # issuing, rating, ended
    key: bytes = Field(sa_type=LargeBinary)
    issued: int | None = None
    opened_on: date
    closed_on: date | None = None
    closes_at: datetime | None = Field(default=None, sa_type=UtcTime)
    seal_key: bytes | None = Field(default=None, sa_type=LargeBinary)
    seal_private: bytes | None = Field(default=None, sa_type=LargeBinary)
    doubtful: int = 0  # ratings that could not be read, and those beyond the tokens issued


class SealedRating(_Model, table=True):
    """A spent token's hash with what was sealed, until the window ends."""

    __tablename__ = "sealed"
    __table_args__ = {"sqlite_with_rowid": False}

    token: str = Field(primary_key=True, sa_type=String(64))
    epoch: str = Field(sa_type=String(16))
    sealed: bytes = Field(sa_type=LargeBinary)


class OpenedRating(_Model, table=True):
    """A rating that waits for its release, under a reference drawn at random when its batch was opened."""

    __tablename__ = "opened"
    __table_args__ = {"sqlite_with_rowid": False}

    ref: str = Field(primary_key=True, sa_type=String(32))
    epoch: str = Field(sa_type=String(16))
    rating: str = Field(sa_type=Text)


class ReportRelease(_Model, table=True):
    """The ledger: what was published, once."""

    __tablename__ = "released"

    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    first_day: date
    last_day: date
    figures: str = Field(sa_type=Text)


EPOCH: Final = table_of(RatingEpoch)
SEALED: Final = table_of(SealedRating)
OPENED: Final = table_of(OpenedRating)
RELEASE: Final = table_of(ReportRelease)

"""Cover messages: the same neutral message for everybody, so that receiving one proves nothing (DESIGN §5.11)."""

import hmac
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import select

from leeward.store import Unit, Update
from services.matching.cases.session import PERSON, CaseSession
from services.matching.inputs.sending import A_BATCH, alone
from services.matching.lifecycle.case import Message
from services.matching.roster.people import GONE
from services.matching.site import Site

FIRST_COVER: Final = timedelta(days=7)
COVER_ENDS: Final = timedelta(days=14)
_SET_COVER: Final = Update(PERSON, ("person_ref",), ("cover_due",))


def send_covers(unit: Unit, site: Site) -> None:
    every = site.cover_every
    if every is None:
        return
    new = unit.conn.execute(select(PERSON.c.person_ref, PERSON.c.since).where(PERSON.c.cover_due.is_(None))).all()
    _SET_COVER.run(unit.conn, [(ref, first_cover(site.key, ref, since, every)) for ref, since in new])
    due = PERSON.select().where(PERSON.c.cover_due <= unit.now, PERSON.c.status.not_in(GONE)).limit(A_BATCH)
    found = unit.conn.execute(due).all()
    session = CaseSession(unit, site)
    for row in found:
        message = Message(f"cover-{unit.now:%Y%m}", "cover", "person")
        session.send(alone(unit, site, message, row.recipient_ref, COVER_ENDS), loose=True)
    _SET_COVER.run(unit.conn, [(row.person_ref, next_cover(row.cover_due, every, unit.now)) for row in found])


def first_cover(key: bytes, person_ref: str, since: datetime, every: timedelta) -> datetime:
    """A time drawn for each person, evenly over the period that begins a week after their import."""
    drawn = int.from_bytes(hmac.digest(key, f"cover {person_ref}".encode(), "sha256")[:8])
    return since + FIRST_COVER + every * (drawn / 2**64)


def next_cover(due: datetime, every: timedelta, now: datetime) -> datetime:
    """The next time in the person's own rhythm that is still ahead."""
    return due + every * (max(0, (now - due) // every) + 1)

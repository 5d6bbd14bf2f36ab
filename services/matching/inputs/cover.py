"""Cover messages: the same neutral message for everybody, so that receiving one proves nothing (DESIGN §5.11)."""

import hmac
from datetime import datetime, timedelta
from typing import Final

from leeward.store import Unit
from services.matching.cases.session import CaseSession
from services.matching.inputs import queries
from services.matching.lifecycle.case import RequestMessage
from services.matching.site import Site

FIRST_COVER: Final = timedelta(days=7)
COVER_ENDS: Final = timedelta(days=14)


def send_covers(unit: Unit, site: Site) -> None:
    """Give each person their next time, and send what is due."""
    every = site.cover_every
    if every is None:
        return
    conn, now = unit.conn, unit.now
    fresh = queries.without_cover(conn)
    queries.set_cover_due(conn, ((ref, first_cover(site.key, ref, since, every)) for ref, since in fresh))
    due = queries.due_for_cover(conn, now)
    session = CaseSession(unit, site)
    message = RequestMessage(f"cover-{now:%Y%m}", "cover", "person")
    for row in due:
        session.send_outside_a_case(message, row.recipient_ref, COVER_ENDS)
    session.write()
    queries.set_cover_due(conn, ((row.person_ref, next_cover(row.cover_due, every, now)) for row in due))


def first_cover(key: bytes, person_ref: str, since: datetime, every: timedelta) -> datetime:
    """A time drawn for each person, evenly over the period that begins a week after their import."""
    drawn = int.from_bytes(hmac.digest(key, f"cover {person_ref}".encode(), "sha256")[:8])
    return since + FIRST_COVER + every * (drawn / 2**64)


def next_cover(due: datetime, every: timedelta, now: datetime) -> datetime:
    """The next time in the person's own rhythm that is still ahead."""
    return due + every * (max(0, (now - due) // every) + 1)

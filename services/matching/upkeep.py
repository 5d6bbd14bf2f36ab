"""Every hour: what is over is forgotten, what is stuck is shown, who waits is tried again, cover messages leave."""

import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import and_, delete, or_, select

from leeward.refs import new_ref
from leeward.store import Timer, Unit, Update
from services.matching import domain, timers
from services.matching.case import UNANSWERED, Message
from services.matching.choosing import EXPOSURE, LOAD, SHIFT
from services.matching.desk import ENTRY, PERSON, Desk
from services.matching.intake import INCIDENT
from services.matching.moves import LIMIT
from services.matching.office import Office
from services.matching.people import GONE
from services.matching.rows import CASE, REQUEST, Draft

EVERY: Final = timedelta(hours=1)
FIRST_COVER: Final = timedelta(days=7)
SHIFTS_KEPT: Final = timedelta(days=15)
OVER_KEPT: Final = timedelta(days=90)
MONTHLY_ENDS: Final = timedelta(days=28)
COVER_ENDS: Final = timedelta(days=14)
A_BATCH: Final = 2000
_SET_COVER: Final = Update(PERSON, ("person_ref",), ("cover_due",))
_OPEN: Final = CASE.c.stage.not_in(("closed", "ended"))


def begin(unit: Unit, office: Office) -> None:
    """At the start: going live ends what was only rehearsed, and the hourly round begins."""
    if not office.rules.rehearsal:
        desk = Desk(unit, office)
        for case in desk.fetch(CASE.c.notes.contains("rehearsal"), CASE.c.person_ref.is_not(None)):
            desk.take(domain.rehearsal_over(case, unit.now))
        desk.write()
    unit.set_timer("hourly", "all", unit.now)


def hourly(unit: Unit, _fired: Sequence[Timer], office: Office) -> None:
    """One round; the next is set for an hour later."""
    _cases(unit, office)
    _forget(unit)
    _cover(unit, office)
    _offer_monthly(unit, office)
    unit.set_timer("hourly", "all", unit.now + EVERY)


def _cases(unit: Unit, office: Office) -> None:
    desk, now, rules = Desk(unit, office), unit.now, office.rules
    tied = CASE.c.person_ref.is_not(None)
    over = and_(CASE.c.stage.in_((*UNANSWERED, "ended")), CASE.c.ends_at <= now)
    unsent = and_(CASE.c.stage == "waiting", CASE.c.attention.is_(None), CASE.c.ends_at <= now + rules.coalesce)
    alone = CASE.c.attention == "no_supporter"
    old = CASE.c.occurred_at <= now - LIMIT
    for case in desk.fetch(tied, or_(over, unsent, alone, old)):
        after = desk.take(domain.lapse(case, now))
        after = desk.take(domain.limit(after, now))
        after = desk.take(domain.not_sent(after))
        desk.take(domain.find_again(after, now, rules, desk.find))
    _gone(desk)
    desk.write()


def _gone(desk: Desk) -> None:
    """A case opened, or a supporter asked, in the moment in which another process imported that they had left."""
    conn = desk.unit.conn
    tied = select(CASE.c.person_ref).where(_OPEN).union(select(CASE.c.supporter).where(_OPEN))
    gone = PERSON.c.status.in_(GONE) & PERSON.c.person_ref.in_(tied)
    if refs := conn.execute(select(PERSON.c.person_ref).where(gone)).scalars().all():
        timers.part(desk, refs)


def _forget(unit: Unit) -> None:
    """Rows that have served; exposures go with the last of them."""
    conn, now = unit.conn, unit.now
    conn.execute(delete(SHIFT).where(SHIFT.c.ends_at < now - SHIFTS_KEPT))
    conn.execute(delete(REQUEST).where(REQUEST.c.case_ref.is_(None), REQUEST.c.expires_at < now))
    conn.execute(delete(CASE).where(CASE.c.person_ref.is_(None), CASE.c.ends_at < now - OVER_KEPT))
    old = select(INCIDENT.c.incident_ref).where(INCIDENT.c.occurred_at < now - LIMIT)
    conn.execute(delete(EXPOSURE).where(EXPOSURE.c.incident_ref.in_(old)))
    conn.execute(delete(ENTRY).where(ENTRY.c.about.in_(old)))
    conn.execute(delete(INCIDENT).where(INCIDENT.c.occurred_at < now - LIMIT))
    # a quiet time that is over would still tell when somebody was written to
    conn.execute(PERSON.update().where(PERSON.c.quiet_until <= now).values(quiet_until=None))
    conn.execute(LOAD.update().where(LOAD.c.exposed_until < now).values(exposed_until=None))
    conn.execute(LOAD.update().where(LOAD.c.rest_until < now).values(rest_until=None))
    _forget_exposures_without_a_case(unit)


def _forget_exposures_without_a_case(unit: Unit) -> None:
    """Whoever was around an outcome and has no case open is tied to it for 15 days, as if they had been written to."""
    conn = unit.conn
    late = select(INCIDENT.c.incident_ref).where(INCIDENT.c.occurred_at < unit.now - SHIFTS_KEPT)
    busy = select(CASE.c.person_ref).where(CASE.c.person_ref.is_not(None))
    supporting = select(PERSON.c.person_ref).where(PERSON.c.supporter)
    conn.execute(
        delete(EXPOSURE).where(
            EXPOSURE.c.incident_ref.in_(late),
            EXPOSURE.c.who.in_(select(PERSON.c.person_ref)),
            EXPOSURE.c.who.not_in(busy),
            EXPOSURE.c.who.not_in(supporting),
        )
    )


# --- the same neutral message for everybody, so that receiving one proves nothing (DESIGN §5.11) ---


def _cover(unit: Unit, office: Office) -> None:
    every = office.cover_every
    if every is None:
        return
    new = unit.conn.execute(select(PERSON.c.person_ref, PERSON.c.since).where(PERSON.c.cover_due.is_(None))).all()
    _SET_COVER.run(unit.conn, [(ref, first_cover(office.key, ref, since, every)) for ref, since in new])
    due = PERSON.select().where(PERSON.c.cover_due <= unit.now, PERSON.c.status.not_in(GONE)).limit(A_BATCH)
    found = unit.conn.execute(due).all()
    desk = Desk(unit, office)
    for row in found:
        message = Message(f"cover-{unit.now:%Y%m}", "cover", "person")
        desk.send(_alone(unit, office, message, row.recipient_ref, COVER_ENDS), loose=True)
    _SET_COVER.run(unit.conn, [(row.person_ref, next_cover(row.cover_due, every, unit.now)) for row in found])


def first_cover(key: bytes, person_ref: str, since: datetime, every: timedelta) -> datetime:
    """A time drawn for each person, evenly over the period that begins a week after their import."""
    drawn = int.from_bytes(hmac.digest(key, f"cover {person_ref}".encode(), "sha256")[:8])
    return since + FIRST_COVER + every * (drawn / 2**64)


def next_cover(due: datetime, every: timedelta, now: datetime) -> datetime:
    """The next time in the person's own rhythm that is still ahead."""
    return due + every * (max(0, (now - due) // every) + 1)


def _offer_monthly(unit: Unit, office: Office) -> None:
    """Where death is expected nobody is written to after one; everybody there is asked once if they like check-ins."""
    if not office.expected_units:
        return
    query = PERSON.select().where(
        PERSON.c.unit.in_(office.expected_units),
        PERSON.c.monthly == "none",
        PERSON.c.status == "active",
        PERSON.c.reachable,
    )
    found = unit.conn.execute(query.limit(A_BATCH)).all()
    desk = Desk(unit, office)
    for row in found:
        message = Message("monthly_offer", "monthly_offer", "person")
        desk.send(_alone(unit, office, message, row.recipient_ref, MONTHLY_ENDS), loose=True)
    asked = PERSON.c.person_ref.in_([row.person_ref for row in found])
    unit.conn.execute(PERSON.update().where(asked).values(monthly="offered"))


def _alone(unit: Unit, office: Office, message: Message, recipient_ref: str, lasts: timedelta) -> Draft:
    """A message under a case reference of its own, which is no case."""
    return Draft(new_ref(), message, recipient_ref, unit.now + lasts, unit.now + office.rules.longest_hold)

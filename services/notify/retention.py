"""What notify forgets by itself: the delivery log after 14 days, questions after 90, codes and calls after a day."""

from datetime import timedelta
from typing import Final

from sqlalchemy import delete, exists, select

from leeward.store import Unit
from services.notify.models import CALL, CODE, DELIVERY, LINK, QUESTION
from services.notify.questions.question import LONGEST, UNDO

LOG: Final = timedelta(days=14)


def forget(unit: Unit) -> None:
    """Delete what is old. A hand-off is remembered as long as its message could still be asked for again."""
    now = unit.now
    waiting = DELIVERY.c.state.in_(("queued", "sending"))
    unit.conn.execute(delete(DELIVERY).where(DELIVERY.c.changed_at < now - LOG, ~waiting))
    unit.conn.execute(delete(CODE).where(CODE.c.expires_at < now - timedelta(hours=1)))
    unit.conn.execute(delete(CALL).where(CALL.c.expires_at < now))
    # what has not left yet is looked at first, lest its end is told nobody
    undelivered = exists().where(DELIVERY.c.question_ref == QUESTION.c.question_ref, waiting)
    silent = QUESTION.c.answered_at.is_(None) & (QUESTION.c.expires_at < now) & ~undelivered
    over = QUESTION.c.state.not_in(("open", "accepted", "confirmed")) & (QUESTION.c.answered_at < now - UNDO)
    done = over & (QUESTION.c.expires_at < now)
    unit.conn.execute(delete(QUESTION).where(silent | done | (QUESTION.c.accepted_at < now - LONGEST)))
    held = select(QUESTION.c.question_ref).union(select(CALL.c.call_ref))
    unit.conn.execute(delete(LINK).where(LINK.c.question_ref.not_in(held)))

"""What notify deletes by itself: the delivery log after 14 days, questions after 90, codes and calls after a day."""

from datetime import timedelta
from typing import Final

from leeward.store import Unit
from services.notify import repository
from services.notify.questions.question import LONGEST, UNDO

LOG: Final = timedelta(days=14)


def delete_expired(unit: Unit) -> None:
    """Delete what is old. A hand-off is kept as long as its message could still be asked for again."""
    conn, now = unit.conn, unit.now
    repository.delete_ended_deliveries(conn, now - LOG)
    repository.delete_old_codes(conn, now)
    repository.delete_expired_calls(conn, now)
    repository.delete_old_questions(conn, now, ended_before=now - UNDO, asked_before=now - LONGEST)
    repository.delete_loose_links(conn)

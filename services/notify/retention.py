"""What notify deletes by itself: the delivery log after 14 days, questions after 90, codes and calls after a day."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from leeward.store import Unit
from leeward.store.retention import MOST, RetentionPart
from services.notify import repository
from services.notify.questions.question import LONGEST, UNDO

LOG: Final = timedelta(days=14)
A_WALK: Final = 20  # slices an hour: links go with what they lead to, so that few are ever loose


def parts() -> Sequence[RetentionPart]:
    """What notify deletes: each so much at most, and whether there may be more."""
    return delete_expired, walk_along_links()


def delete_expired(unit: Unit, most: int = MOST) -> bool:
    """Delete what is old. A hand-off is kept as long as its message could still be asked for again."""
    conn, now = unit.conn, unit.now
    ended, asked = now - UNDO, now - LONGEST
    return any(
        [
            repository.delete_ended_deliveries(conn, now - LOG, most),
            repository.delete_old_codes(conn, now, most),
            repository.delete_expired_calls(conn, now, most),
            repository.delete_old_questions(conn, now, ended_before=ended, asked_before=asked, most=most),
        ]
    )


def walk_along_links() -> RetentionPart:
    """Delete links that lead nowhere, a stretch of them each time, from where the last one ended."""
    after, looked = "", 0

    def walk(unit: Unit, most: int) -> bool:
        nonlocal after, looked
        after, looked = repository.delete_loose_links(unit.conn, after, most), looked + 1
        if after and looked < A_WALK:
            return True
        looked = 0
        return False

    return walk

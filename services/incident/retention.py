"""What incident deletes, and when (DESIGN §5.12)."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from leeward.store import Timer, Unit
from leeward.store.retention import MOST
from services.incident import repository
from services.incident.intake import unmatched
from services.incident.sealing import KEY_LIFE

PEOPLE_KEPT: Final = timedelta(days=90)
PATIENTS_KEPT: Final = timedelta(days=400)
ANSWERS_KEPT: Final = timedelta(days=7)


def resolve_known(unit: Unit, _most: int = MOST) -> bool:
    """Take from the work queue what the roster knows."""
    unmatched.resolve_known(unit)
    return False


def delete_expired(unit: Unit, most: int = MOST) -> bool:
    """Delete what has reached its age, so much of each kind at most; whether there may be more.

    Nothing ties a person to an incident for longer than 90 days after it.
    """
    conn, now = unit.conn, unit.now
    repository.delete_keys(conn, repository.list_old_keys(conn, now - KEY_LIFE))
    return any(
        [
            repository.delete_people(conn, now - PEOPLE_KEPT, most),
            repository.delete_patients(conn, now - PATIENTS_KEPT, most),
            repository.delete_answers(conn, now - ANSWERS_KEPT, most),
            # where a source has been taken out of the settings, nobody reads what it left
            repository.delete_unread(conn, now - PEOPLE_KEPT, most),
            repository.delete_unreadable(conn, most),
        ]
    )


def destroy_keys(unit: Unit, timers: Sequence[Timer], tidy: Callable[[], None] | None = None) -> None:
    """Timer: a day's key is 72 hours old; without it nothing can read that day's messages, here or in a backup.

    `tidy` is called after the commit: retention then deletes those messages and leaves nothing of the key in files.
    """
    repository.delete_keys(unit.conn, [timer.key for timer in timers])
    if tidy:
        unit.after_commit(tidy)

"""What incident deletes, and when (DESIGN §5.12)."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from leeward.store import Timer, Unit
from services.incident import repository
from services.incident.intake import unmatched
from services.incident.sealing import KEY_LIFE

PEOPLE_KEPT: Final = timedelta(days=90)
PATIENTS_KEPT: Final = timedelta(days=400)
ANSWERS_KEPT: Final = timedelta(days=7)


def delete_expired(unit: Unit) -> None:
    """Delete whatever has reached its age, and take from the work queue what the roster knows.

    Nothing ties a person to an incident for longer than 90 days after it.
    """
    unmatched.resolve_known(unit)
    repository.delete_people(unit.conn, unit.now - PEOPLE_KEPT)
    repository.delete_patients(unit.conn, unit.now - PATIENTS_KEPT)
    repository.delete_answers(unit.conn, unit.now - ANSWERS_KEPT)
    # where a source has been taken out of the settings, nobody reads what it left
    repository.delete_unread(unit.conn, unit.now - PEOPLE_KEPT)
    repository.delete_keys(unit.conn, repository.list_old_keys(unit.conn, unit.now - KEY_LIFE))


def destroy_keys(unit: Unit, timers: Sequence[Timer], tidy: Callable[[], None] | None = None) -> None:
    """Timer: a day's key is 72 hours old; without it nothing can read that day's messages, here or in a backup.

    `tidy` is called after the commit: until the write-ahead log is truncated, a file still holds what was deleted.
    """
    repository.delete_keys(unit.conn, [timer.key for timer in timers])
    if tidy:
        unit.after_commit(tidy)

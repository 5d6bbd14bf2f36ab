"""After a restore: what was erased is erased again, and what may have been sent since the copy is in doubt."""

from leeward import telemetry
from leeward.service import Restored
from leeward.store import Unit
from leeward.store.retention import delete_all
from services.notify.delivery import repository
from services.notify.questions.requests import erase_cases
from services.notify.recipients import importing
from services.notify.retention import delete_expired


def bring_to_present(unit: Unit, restored: Restored) -> None:
    """Erase, run retention, and mark what will be repeated once under its Message-ID (DESIGN §8)."""
    erase_cases(unit, restored.cases)
    importing.remove(unit, restored.recipients)
    delete_all(unit, delete_expired)
    telemetry.log("hand_offs_in_doubt", service="notify", count=repository.doubt_sent(unit.conn, unit.now))

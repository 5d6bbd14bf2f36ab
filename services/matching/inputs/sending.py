"""Messages that belong to no case."""

from datetime import timedelta
from typing import Final

from leeward.refs import new_ref
from leeward.store import Unit
from services.matching.cases.repository import Draft
from services.matching.lifecycle.case import Message
from services.matching.site import Site

A_BATCH: Final = 2000


def alone(unit: Unit, site: Site, message: Message, recipient_ref: str, lasts: timedelta) -> Draft:
    """A message under a case reference of its own, which is no case."""
    return Draft(new_ref(), message, recipient_ref, unit.now + lasts, unit.now + site.rules.longest_hold)

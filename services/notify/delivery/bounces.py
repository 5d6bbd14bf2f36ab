"""Whether any channel reaches somebody, and telling matching when that changes."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import select

from leeward.contracts import ReachabilityChanged
from leeward.store import Unit, Update
from leeward.store.lookup import in_list
from services.notify.channels import ChannelEntry, Contact
from services.notify.channels.registry import first_reaching
from services.notify.models import RECIPIENT

_SELECT: Final = select(RECIPIENT.c.recipient_ref, RECIPIENT.c.email, RECIPIENT.c.mobile, RECIPIENT.c.reachable).where(
    in_list(RECIPIENT.c.recipient_ref, "refs")
)
_BOUNCE: Final = Update(RECIPIENT, ("recipient_ref",), ("email", "email_bounced", "reachable"))


def address_hash(address: str) -> str:
    """By which an address that bounced is known again when an import brings it back."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()


def bounced(unit: Unit, refs: Sequence[str], channels: Iterable[ChannelEntry[Any]]) -> None:
    """The server says that these mailboxes do not exist: forget the addresses; `channels` are those turned on."""
    if not refs:
        return
    rows = [row for row in unit.conn.execute(_SELECT, {"refs": list(set(refs))}) if row.email]
    reached = {row.recipient_ref: first_reaching(channels, Contact("", row.mobile)) is not None for row in rows}
    _BOUNCE.run(unit.conn, [(r.recipient_ref, "", address_hash(r.email), reached[r.recipient_ref]) for r in rows])
    for row in rows:
        if row.reachable and not reached[row.recipient_ref]:
            unit.emit(ReachabilityChanged(recipient_ref=row.recipient_ref, reachable=False))

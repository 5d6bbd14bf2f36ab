"""Whether any channel reaches somebody, and telling matching when that changes."""

import hashlib
from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from leeward.contracts import ReachabilityChanged
from leeward.store import Unit, Update
from leeward.store.lookup import in_list
from services.notify.models import RECIPIENT

_SELECT: Final = select(RECIPIENT.c.recipient_ref, RECIPIENT.c.email, RECIPIENT.c.mobile, RECIPIENT.c.reachable).where(
    in_list(RECIPIENT.c.recipient_ref, "refs")
)
_BOUNCE: Final = Update(RECIPIENT, ("recipient_ref",), ("email", "email_bounced", "reachable"))


def address_hash(address: str) -> str:
    """By which an address that bounced is known again when an import brings it back."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()


def bounced(unit: Unit, refs: Sequence[str], *, webhook: bool) -> None:
    """The server says for good that these mailboxes are not there: forget the addresses."""
    if not refs:
        return
    rows = [row for row in unit.conn.execute(_SELECT, {"refs": list(set(refs))}) if row.email]
    reached = {row.recipient_ref: webhook and bool(row.mobile) for row in rows}
    _BOUNCE.run(unit.conn, [(r.recipient_ref, "", address_hash(r.email), reached[r.recipient_ref]) for r in rows])
    for row in rows:
        if row.reachable and not reached[row.recipient_ref]:
            unit.emit(ReachabilityChanged(recipient_ref=row.recipient_ref, reachable=False))

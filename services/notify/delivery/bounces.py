"""Addresses that bounced: they are removed, and matching hears when no channel reaches somebody any more."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from leeward.contracts import ReachabilityChanged
from leeward.store import Unit
from services.notify.channels import ChannelEntry, Contact
from services.notify.channels.registry import first_reaching
from services.notify.delivery import repository


def address_hash(address: str) -> str:
    """By which an address that bounced is known again when an import brings it back."""
    return hashlib.sha256(address.strip().lower().encode()).hexdigest()


def remove_addresses(unit: Unit, refs: Sequence[str], channels: Iterable[ChannelEntry[Any]]) -> None:
    """Forget the mail addresses of these recipients, whose mailboxes do not exist; `channels` are those turned on."""
    if not refs:
        return
    rows = [row for row in repository.find_addresses(unit.conn, refs) if row.email]
    reached = {row.recipient_ref: first_reaching(channels, Contact("", row.mobile)) is not None for row in rows}
    repository.record_bounces(
        unit.conn, [(row.recipient_ref, address_hash(row.email), reached[row.recipient_ref]) for row in rows]
    )
    for row in rows:
        if row.reachable and not reached[row.recipient_ref]:
            unit.emit(ReachabilityChanged(recipient_ref=row.recipient_ref, reachable=False))

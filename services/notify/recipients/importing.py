"""What notify takes from a roster: how each is reached and greeted. Idempotent and in bulk."""

from collections.abc import Sequence
from typing import Any

from leeward.contracts import ReachabilityChanged
from leeward.people import Member
from leeward.store import Unit
from services.notify.channels import Contact, registry
from services.notify.models import LEFT
from services.notify.recipients import repository
from services.notify.recipients.repository import COLUMNS

Values = tuple[Any, ...]


def apply(unit: Unit, members: Sequence[Member]) -> None:
    """Make the recipients those of this roster; whoever is missing from it has left."""
    known = repository.find_all(unit.conn)
    rows = [_row(member) for member in members]
    here = {row[0] for row in rows}
    missing = [row for ref, row in known.items() if ref not in here]
    rows += [_row_of_left(row.recipient_ref, row.status if row.status in LEFT else "left") for row in missing]
    stored = {ref: tuple(getattr(row, name) for name in COLUMNS) for ref, row in known.items()}
    changed = [row for row in rows if row != stored.get(row[0])]
    repository.store(unit.conn, changed)
    repository.end_everything_of(unit.conn, [row[0] for row in changed if row[8] in LEFT])
    for row in changed:
        # everybody counts as reachable until something else is published
        before = known[row[0]].reachable if row[0] in known else True
        if bool(row[10]) != bool(before):
            unit.emit(ReachabilityChanged(recipient_ref=row[0], reachable=bool(row[10])))


def remove(unit: Unit, refs: Sequence[str]) -> None:
    """Keep nothing of those who have left but that they have."""
    repository.store(unit.conn, [_row_of_left(ref, "left") for ref in refs])
    repository.end_everything_of(unit.conn, refs)


def _row(member: Member) -> Values:
    """An import brings an address back that bounced: a relay's mistake must not outlast the relay's mending."""
    if member.status in LEFT:
        return _row_of_left(member.recipient_ref, member.status)
    return (
        member.recipient_ref,
        member.display_name,
        member.email,
        "",
        member.mobile,
        member.introduction,
        " ".join(member.languages),
        member.timezone,
        member.status,
        member.supporter,
        registry.first_reaching(registry.CHANNELS, Contact(member.email, member.mobile)) is not None,
    )


def _row_of_left(ref: str, status: str) -> Values:
    """Of somebody who has left nothing is kept but that they have."""
    return (ref, "", "", "", "", "", "", "UTC", status, False, False)

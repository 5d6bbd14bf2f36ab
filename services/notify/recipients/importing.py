"""What notify takes from a roster: how each is reached and greeted. Idempotent and in bulk."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, delete, select

from leeward.contracts import ReachabilityChanged
from leeward.people import Member
from leeward.store import Insert, Unit
from leeward.store.lookup import in_list
from services.notify.channels import Contact, registry
from services.notify.delivery.bounces import address_hash
from services.notify.delivery.deliveries import GONE
from services.notify.models import DELIVERY, LINK, QUESTION, RECIPIENT

COLUMNS: Final = (
    "recipient_ref",
    "display_name",
    "email",
    "email_bounced",
    "mobile",
    "introduction",
    "languages",
    "timezone",
    "status",
    "supporter",
    "reachable",
)
_UPSERT: Final = Insert(RECIPIENT, COLUMNS, conflict="replace", keys=("recipient_ref",))
_OPEN: Final = select(QUESTION.c.question_ref).where(in_list(QUESTION.c.recipient_ref, "refs"))
_CHUNK: Final = 500

Values = tuple[Any, ...]


def apply(unit: Unit, members: Sequence[Member]) -> None:
    """Make the recipients those of this roster; whoever is missing from it has left."""
    known = {row.recipient_ref: row for row in unit.conn.execute(select(RECIPIENT)).all()}
    rows = [_row(member, known.get(member.recipient_ref)) for member in members]
    here = {row[0] for row in rows}
    rows += [_left(row) for ref, row in known.items() if ref not in here]
    changed = [row for row in rows if row[0] not in known or row != _stored(known[row[0]])]
    for start in range(0, len(changed), _CHUNK):
        _UPSERT.run(unit.conn, changed[start : start + _CHUNK])
    _end(unit, [row[0] for row in changed if row[8] in GONE])
    _tell(unit, changed, known)


def _row(member: Member, known: Row[Any] | None) -> Values:
    """An address that bounced stays unused until the roster has another."""
    if member.status in GONE:
        return _gone(member.recipient_ref, member.status)
    bounced = known.email_bounced if known is not None else ""
    email = "" if bounced and address_hash(member.email) == bounced else member.email
    return (
        member.recipient_ref,
        member.display_name,
        email,
        bounced if not email else "",
        member.mobile,
        member.introduction,
        " ".join(member.languages),
        member.timezone,
        member.status,
        member.supporter,
        registry.first_reaching(registry.CHANNELS, Contact(email, member.mobile)) is not None,
    )


def _left(row: Row[Any]) -> Values:
    return _gone(row.recipient_ref, row.status if row.status in GONE else "left")


def _gone(ref: str, status: str) -> Values:
    """Of somebody who is gone nothing is kept but that they are."""
    return (ref, "", "", "", "", "", "", "UTC", status, False, False)


def _stored(row: Row[Any]) -> Values:
    return tuple(getattr(row, name) for name in COLUMNS)


def _end(unit: Unit, refs: Sequence[str]) -> None:
    """Everything to somebody who is gone is cancelled, and their questions are over."""
    for start in range(0, len(refs), _CHUNK):
        chunk = {"refs": list(refs[start : start + _CHUNK])}
        queued = in_list(DELIVERY.c.recipient_ref, "refs") & (DELIVERY.c.state == "queued")
        unit.conn.execute(DELIVERY.update().where(queued).values(state="cancelled"), chunk)
        unit.conn.execute(delete(LINK).where(LINK.c.question_ref.in_(_OPEN)), chunk)
        unit.conn.execute(delete(QUESTION).where(in_list(QUESTION.c.recipient_ref, "refs")), chunk)


def _tell(unit: Unit, changed: Sequence[Values], known: dict[str, Row[Any]]) -> None:
    """Everybody counts as reachable until something else is said."""
    for row in changed:
        before = known[row[0]].reachable if row[0] in known else True
        if bool(row[10]) != bool(before):
            unit.emit(ReachabilityChanged(recipient_ref=row[0], reachable=bool(row[10])))

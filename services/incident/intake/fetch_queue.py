"""The queue of what is to be read from FHIR servers: filled in the transaction that stores a notification."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import delete

from leeward.refs import new_ref
from leeward.store import Insert, Unit
from services.incident.models import Fetch, table_of
from services.incident.sealing import DayKeys

FETCH: Final = table_of(Fetch)
_ROWS: Final = Insert(FETCH, ("fetch_ref", "key_ref", "source", "sealed", "attempts", "made_at", "due_at"))


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A resource to be read (`Encounter/12`), or, with a time alone, whatever has changed since."""

    source: str
    path: str = ""
    since: str = ""


def enqueue(unit: Unit, keys: DayKeys, wanted: Iterable[FetchRequest]) -> None:
    """Queue what is to be read."""
    today = keys.today(unit)
    rows = []
    for one in wanted:
        ref = new_ref()
        sealed = today.box.seal(json.dumps([one.path, one.since]).encode(), ref)
        rows.append((ref, today.key_ref, one.source, sealed, 0, unit.now, unit.now))
    _ROWS.run(unit.conn, rows)


def delete_fetched(unit: Unit, refs: Sequence[str]) -> None:
    """These have been read."""
    if refs:
        unit.conn.execute(delete(FETCH).where(FETCH.c.fetch_ref.in_(refs)))

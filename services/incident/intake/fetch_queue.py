"""The queue of what is to be read from FHIR servers: filled in the transaction that stores a notification."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from leeward.refs import new_ref
from leeward.store import Unit
from services.incident.intake import repository
from services.incident.sealing import DayKeys


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
    repository.insert_fetches(unit.conn, rows)

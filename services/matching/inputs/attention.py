"""What needs somebody in other services: on the coordinator's list while it stands, without a word of what it is."""

from collections.abc import Sequence

from leeward.contracts import AttentionEvent, Event
from leeward.store import Unit
from services.matching.cases import repository
from services.matching.inputs import queries


def apply_attention(unit: Unit, events: Sequence[Event]) -> None:
    """List what stands now, or take it off."""
    news = {
        (e.data.kind, e.topic.rpartition(".")[2]): e.data.standing for e in events if isinstance(e.data, AttentionEvent)
    }
    queries.delete_entries(unit.conn, [entry for entry, standing in news.items() if standing == "no"])
    repository.insert_entries(unit.conn, [entry for entry, standing in news.items() if standing == "yes"], unit.now)

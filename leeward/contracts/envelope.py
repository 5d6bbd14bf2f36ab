"""The envelope: CloudEvents 1.0, in memory as `Event`, on the wire as headers and a JSON body (binary mode)."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from leeward.contracts.buckets import bucket_down
from leeward.contracts.events import EVENTS, EventData


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a consumer sees it.

    `accepted_at` is when the signal that began the chain was accepted; it travels as an age (`agems`), never as a time.
    """

    id: str
    key: str
    data: EventData
    accepted_at: datetime

    @property
    def type(self) -> str:
        return self.data.type

    @property
    def topic(self) -> str:
        return topic_of(self.type)


class UnknownType(ValueError):
    """An event whose type or version this release does not know."""


def topic_of(event_type: str) -> str:
    """`leeward.incident` for `leeward.incident.recorded.v1`: the type's first two words."""
    return ".".join(event_type.split(".")[:2])


def decode(event_type: str, body: str | bytes) -> EventData:
    """The body of an event, checked.

    Raises:
        UnknownType: for a type that is not in the catalogue.
        pydantic.ValidationError: for a body that does not fit its type.
    """
    model = EVENTS.get(event_type)
    if model is None:
        raise UnknownType("unknown event type")
    return model.model_validate_json(body)


def encode(event: Event, now: datetime) -> tuple[dict[str, str], bytes]:
    """CloudEvents attributes as Kafka headers (`ce_…`, binary content mode) and the JSON body."""
    body = event.data.model_dump_json(exclude_none=True).encode()
    return attributes(event.id, event.type, event.key, now - event.accepted_at, now), body


def attributes(event_id: str, event_type: str, key: str, age: timedelta, now: datetime) -> dict[str, str]:
    """An event's headers: `time` is the 15-minute bucket of `now`, `agems` the age of the chain in milliseconds."""
    return {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": f"/{topic_of(event_type).replace('.', '/')}",
        "ce_type": event_type,
        "ce_subject": key,
        "ce_partitionkey": key,
        "ce_time": bucket_down(now).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "ce_agems": str(max(timedelta(), age) // timedelta(milliseconds=1)),
        "content-type": "application/json",
    }

"""What the services say to one another: event bodies, their envelope, and the 15-minute buckets all times travel in."""

from leeward.contracts.buckets import BUCKET, bucket_down, bucket_up
from leeward.contracts.envelope import Event, decode, encode
from leeward.contracts.events import (
    EVENTS,
    Answered,
    CaseAssigned,
    CaseClosed,
    CaseErased,
    CaseOpened,
    DeliveryOutcome,
    EventData,
    HelpRequested,
    IncidentAmended,
    IncidentRecorded,
    IncidentRetracted,
    Involved,
    MessageCancelled,
    MessageRequested,
    ReachabilityChanged,
    Severity,
)

__all__ = [
    "BUCKET",
    "EVENTS",
    "Answered",
    "CaseAssigned",
    "CaseClosed",
    "CaseErased",
    "CaseOpened",
    "DeliveryOutcome",
    "Event",
    "EventData",
    "HelpRequested",
    "IncidentAmended",
    "IncidentRecorded",
    "IncidentRetracted",
    "Involved",
    "MessageCancelled",
    "MessageRequested",
    "ReachabilityChanged",
    "Severity",
    "bucket_down",
    "bucket_up",
    "decode",
    "encode",
]

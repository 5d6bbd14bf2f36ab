"""What is known of a run when it is over: what was sent, acknowledged, received and answered, and what lies at rest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import select

from leeward.contracts import (
    Answered,
    CaseClosed,
    CaseErased,
    DeliveryOutcome,
    HelpRequested,
    IncidentAmended,
    IncidentRecorded,
    IncidentRetracted,
    MessageCancelled,
    MessageRequested,
    ReachabilityChanged,
)
from leeward.settings import ServiceName, Settings
from services.commands import catalogue
from services.commands.databases import reading, with_databases
from tests.chaos.hours import HospitalTime
from tests.chaos.outside import Arrival
from tests.chaos.people import Given
from tests.chaos.plan import Blow, Plan

READ: Final[tuple[ServiceName, ...]] = ("incident", "matching", "notify", "issuer")
_MATCHING: Final = (
    IncidentRecorded,
    IncidentAmended,
    IncidentRetracted,
    Answered,
    HelpRequested,
    DeliveryOutcome,
    ReachabilityChanged,
)
CONSUMED: Final[Mapping[str, frozenset[str]]] = {
    "matching": frozenset(model.type for model in _MATCHING),
    "notify": frozenset(model.type for model in (MessageRequested, MessageCancelled, CaseErased)),
    "issuer": frozenset({CaseClosed.type}),
}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class AtRest:
    """The rows of every table, by service and table.

    published: (id, type) of every event that was. unsent: how many of them have not been carried to the log yet.
    """

    tables: Mapping[str, Mapping[str, Rows]]
    published: frozenset[tuple[str, str]]
    unsent: int = 0

    def rows(self, service: str, table: str) -> Rows:
        return self.tables[service][table]

    def not_applied(self) -> list[str]:
        """Types of events that a consumer has not taken, one for each event."""
        missing: list[str] = []
        for service, types in CONSUMED.items():
            seen = {row["event_id"] for row in self.rows(service, "inbox")}
            missing += [kind for event_id, kind in self.published if kind in types and event_id not in seen]
        return missing


@dataclass(frozen=True)
class Struck:
    """How a blow fell: `how` is the fail-point that was hit, or `moment`."""

    name: str
    how: str
    after: float
    blow: Blow


@dataclass
class Evidence:
    """Times are the machine's monotonic clock. `troubles`: what went wrong on the way, in words.

    sent, asked: when a death was first sent, or somebody began to ask. down: when anything was not there. lag: the
    longest time for which the machine gave the runner nothing. held: breaches of capacity that were seen on the way.
    left: when the import by which a contact left began and ended.
    """

    plan: Plan
    time: HospitalTime
    sent: dict[int, float] = field(default_factory=dict)
    acknowledged: dict[int, float] = field(default_factory=dict)
    retracted: dict[int, float] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    down: list[tuple[float, float]] = field(default_factory=list)
    lag: float = 0.0
    left: dict[str, tuple[float, float]] = field(default_factory=dict)
    suffered: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    ended: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    at_rest: AtRest = field(default_factory=lambda: AtRest({}, frozenset()))

    def up_between(self, start: float, end: float) -> float:
        """For how many seconds from one moment to another everything was there."""
        away = sum(max(0.0, min(end, back) - max(start, gone)) for gone, back in self.down)
        return max(0.0, end - start - away)

    @property
    def repeats(self) -> int:
        """Arrivals under a key that had arrived before."""
        return len(self.arrivals) - len({arrival.key for arrival in self.arrivals})


@with_databases
def tables(settings: Settings) -> dict[str, dict[str, Rows]]:
    """Everything in the databases; not from a running loop."""
    found: dict[str, dict[str, Rows]] = {}
    for service in catalogue.load(READ):
        with reading(settings, service.name) as conn:
            assert conn is not None, f"{service.name} has no database"
            found[service.name] = {
                name: [dict(row._mapping) for row in conn.execute(select(table))]
                for name, table in service.metadata.tables.items()
            }
    return found


def in_outboxes(found: Mapping[str, Mapping[str, Rows]]) -> Iterable[tuple[str, str]]:
    """(id, type) of what stands in the outboxes."""
    return ((row["id"], row["type"]) for service in found.values() for row in service["outbox"])

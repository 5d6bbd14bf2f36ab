"""A small hospital on a real store, told as a story: an outcome, an answer, some hours, and who was written to."""

import itertools
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from leeward.bus.consumer import apply_events
from leeward.contracts import (
    Answered,
    DeliveryOutcome,
    Event,
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
    bucket_down,
)
from leeward.contracts.envelope import decode
from leeward.people import Member
from leeward.service import Context, Wiring
from leeward.settings import Settings
from leeward.store.retention import MOST
from leeward.store.timing import TimerLoop
from leeward.testing import ManualClock, member, reference
from services.matching.cases import repository
from services.matching.coordinator import routes
from services.matching.lifecycle.case import Case
from services.matching.models import METADATA
from services.matching.roster import importing, rota
from services.matching.site import Site

LIVE: dict[str, Any] = {"mode": "live"}
ROUND = timedelta(hours=8)
ref = reference


def supporter(name: str, **differences: Any) -> Member:
    """A trained peer of another unit."""
    trained = {"training_completed": date(2025, 1, 1), "training_expires": date(2027, 12, 31)}
    return member(name, **{"supporter": True, "unit": "Surgery", **trained, **differences})


@dataclass
class Hospital:
    """matching alone, with what it would tell the other services."""

    context: Context
    clock: ManualClock
    site: Site
    parts: Wiring
    names: dict[str, str] = field(default_factory=dict)
    sent: list[MessageRequested] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    published: list[tuple[str, str]] = field(default_factory=list)
    _seen: int = 0
    _incidents: Any = field(default_factory=itertools.count)

    # --- what happens ---

    async def staff(self, *members: Member) -> None:
        """Import a roster."""
        self.members = list(members)
        self.names |= {m.recipient_ref: m.display_name for m in members}
        await self.context.store.write(lambda unit: importing.apply(unit, members))

    async def duty(self, unit: str, name: str, start: datetime, hours: float, *, on_call: bool = False) -> None:
        """Put somebody on shift."""
        shift = rota.Duty(unit, ref(f"person {name}"), start, start + timedelta(hours=hours), on_call)
        await self.context.store.write(lambda transaction: rota.apply_shifts(transaction, [shift]))

    async def incident(
        self,
        *names: str,
        reviewers: Sequence[str] = (),
        category: str = "patient_death",
        unit: str = "ICU",
        urgency: str = "routine",
        hours_ago: float = 1,
    ) -> str:
        """An outcome with the people involved; gives its reference."""
        incident_ref = ref(f"incident {next(self._incidents)}")
        involved = [Involved(person_ref=ref(f"person {name}")) for name in names]
        involved += [Involved(person_ref=ref(f"person {name}"), reviewer=True) for name in reviewers]
        await self.event(
            IncidentRecorded(
                incident_ref=incident_ref,
                category=category,
                severity=Severity(scheme="leeward", code="death", level="death"),
                unit=unit,
                occurred_at=bucket_down(self.clock.now() - timedelta(hours=hours_ago)),
                urgency=urgency,
                involved=tuple(involved),
            )
        )
        return incident_ref

    async def amend(self, incident_ref: str, *names: str, reviewers: Sequence[str] = ()) -> None:
        involved = [Involved(person_ref=ref(f"person {name}")) for name in names]
        involved += [Involved(person_ref=ref(f"person {name}"), reviewer=True) for name in reviewers]
        await self.event(IncidentAmended(incident_ref=incident_ref, involved=tuple(involved)))

    async def retract(self, incident_ref: str) -> None:
        await self.event(IncidentRetracted(incident_ref=incident_ref))

    async def answer(self, message: MessageRequested, answer: str, **options: str) -> None:
        """Somebody answers on the page of a message."""
        await self.event(
            Answered(request_ref=message.request_ref, case_ref=message.case_ref, answer=answer, options=options)
        )

    async def outcome(self, message: MessageRequested, state: str = "handed_off") -> None:
        await self.event(DeliveryOutcome(request_ref=message.request_ref, state=state))

    async def ask(self, name: str, urgency: str = "routine") -> None:
        await self.event(HelpRequested(recipient_ref=ref(f"recipient {name}"), urgency=urgency))

    async def reachable(self, name: str, *, yes: bool) -> None:
        await self.event(ReachabilityChanged(recipient_ref=ref(f"recipient {name}"), reachable=yes))

    async def event(self, *data: EventData) -> None:
        """Events in one batch."""
        events = [Event(str(uuid.uuid4()), one.key, one, self.clock.now()) for one in data]
        handlers = {model.type: handler for model, handler in self.parts.handlers.items()}
        await self.context.store.write(lambda unit: apply_events(unit, events, handlers))
        await self._listen()

    async def forward(self, **span: float) -> None:
        """Let time pass, firing every timer when it is due."""
        target = self.clock.now() + timedelta(**span)
        loop = TimerLoop("matching", self.context.store, self.parts.timers)
        while self.clock.now() <= target:
            await loop.fire_due()
            await self.delete_expired()
            await self._listen()
            if self.clock.now() == target:
                break
            due = await self.context.store.read(self._next_due) or target
            step = min(due, target, self.clock.now() + ROUND) - self.clock.now()
            await self.clock.advance(seconds=max(1.0, step.total_seconds()))

    async def delete_expired(self) -> None:
        """What the hourly retention does."""
        for part in self.parts.retention:
            while await self.context.store.write(lambda unit, part=part: part(unit, MOST)):  # type: ignore[misc]
                pass

    def _next_due(self, conn: Connection) -> datetime | None:
        """The next timer, the hourly round apart: that one is fired a few times a day only, or months would last."""
        timer = self.context.store.writes.tables.timer
        found: datetime | None = conn.execute(select(func.min(timer.c.due_at)).where(timer.c.name != "hourly")).scalar()
        return found

    async def start(self) -> None:
        """What the service does at its start."""
        import asyncio

        for task in self.parts.tasks:
            await task(asyncio.Event())
        await self.forward(seconds=0)

    async def as_coordinator(self, action: Callable[..., Case], case_ref: str) -> Case:
        case = await self.context.store.write(lambda unit: action(unit, self.site, case_ref))
        await self._listen()
        return case

    # --- what is to be seen ---

    async def reload(self) -> None:
        """Everything published so far, whichever replica it was."""
        self.sent, self.cancelled, self.published, self._seen = [], [], [], 0
        await self._listen()

    async def _listen(self) -> None:
        table = self.context.store.writes.tables.outbox
        query = select(table.c.seq, table.c.type, table.c.body).where(table.c.seq > self._seen).order_by(table.c.seq)
        for seq, kind, body in await self.context.store.read(lambda conn: conn.execute(query).all()):
            self._seen = seq
            data = decode(kind, body)
            if isinstance(data, MessageRequested):
                self.sent.append(data)
            elif isinstance(data, MessageCancelled):
                self.cancelled.append(data.request_ref)
            else:
                self.published.append((kind.split(".")[-2], data.key))

    def name(self, person_ref: str | None) -> str:
        """Of somebody on the roster, empty for nobody."""
        return next((member.display_name for member in self.members if member.person_ref == person_ref), "")

    def to(self, name: str) -> list[MessageRequested]:
        """The messages asked for to somebody."""
        return [message for message in self.sent if message.recipient_ref == ref(f"recipient {name}")]

    def last(self, name: str) -> MessageRequested:
        assert self.to(name), f"nothing was sent to {name}"
        return self.to(name)[-1]

    def requests(self) -> list[str]:
        """Names of the supporters asked so far, in order."""
        return [self.names[m.recipient_ref] for m in self.sent if m.template == "supporter_request"]

    def asking(self) -> MessageRequested:
        """The newest request to a supporter."""
        return [m for m in self.sent if m.template == "supporter_request"][-1]

    async def cases(self) -> list[Case]:
        found = await self.context.store.read(repository.read_cases)
        return sorted(found, key=lambda case: case.opened_at)

    async def case(self) -> Case:
        """The only case."""
        [found] = await self.cases()
        return found

    async def case_of(self, name: str) -> Case:
        """The only case of that person: two cases of one moment have no order."""
        [found] = [case for case in await self.cases() if case.person_ref == ref(f"person {name}")]
        return found

    async def state(self) -> tuple[str, list[str]]:
        """State and reasons of the only case, as the coordinator sees them."""
        shown = routes.case_json(await self.case())
        return shown["state"], shown["reasons"]

    async def rows_of(self, name: str) -> list[Any]:
        query = select(METADATA.tables[name])
        return list(await self.context.store.read(lambda conn: conn.execute(query).all()))

    async def loads(self) -> dict[str, tuple[int, int]]:
        """Cases and minutes by supporter's name."""
        names = {m.person_ref: m.display_name for m in self.members}
        return {names[row.supporter_ref]: (row.active, row.minutes) for row in await self.rows_of("load")}

    async def mentions(self, text: str) -> list[str]:
        """Tables other than the roster in which a reference is still to be found."""
        roster_tables = {"person", "line_manager", "refusal", "load", "outbox", "shift"}
        return [
            name
            for name in METADATA.tables
            if name not in roster_tables and any(text in map(str, row) for row in await self.rows_of(name))
        ]

    # --- longer stories ---

    async def offered(self, name: str) -> MessageRequested:
        """Somebody was around an outcome and has been sent an offer."""
        await self.incident(name)
        await self.outcome(self.last(name))
        return self.last(name)

    async def accepted(self, name: str, when: str = "hours") -> MessageRequested:
        offer = await self.offered(name)
        await self.answer(offer, "accept", when=when)
        return offer

    async def supported(self, name: str) -> MessageRequested:
        offer = await self.accepted(name)
        await self.answer(self.asking(), "confirm")
        return offer


Open = Callable[..., Hospital]
FORM = {"channel": "phone", "duration": "15_45", "contacts": "2", "referral": "none", "strain": "2"}


def with_policy(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """The settings with some values of some sections changed."""
    changes = {name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    return settings.model_copy(update=changes)


def at(hour: int, minute: int = 0, day: int = 21) -> datetime:
    """A time in November 2026."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)

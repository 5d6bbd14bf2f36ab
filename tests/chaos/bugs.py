"""Bugs that the checker must catch, planted around the product from outside. Each breaks one rule of DESIGN §8."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from leeward.settings import SERVICES, Settings
from services.incident.intake.intake import Accepted
from services.matching.lifecycle.case import ReleaseSupporter, SetTimer, Transition
from tests.chaos import hospital
from tests.chaos.points import wrap

_CONSUMER: Final = "leeward.bus.consumer:Consumer"
LATE: Final = 0.05
SELDOM: Final = 5.0
HELD: Final = timedelta(minutes=14)
_later: set["asyncio.Task[Any]"] = set()


def acknowledge_before_commit() -> None:
    """A message is acknowledged at once and stored a moment later."""

    def around(call: Any) -> Any:
        async def store(self: Any, item: Any) -> None:
            await asyncio.sleep(LATE)
            await call(self, item)

        async def accept(self: Any, item: Any) -> Accepted:
            task = asyncio.create_task(store(self, item))
            _later.add(task)
            task.add_done_callback(_later.discard)
            return Accepted(datetime.now(UTC))

        return accept

    wrap("services.incident.intake.intake:Intake.__call__", around)


def offsets_before_commit() -> None:
    """The position moves in a transaction of its own, before that of the effects."""

    def around(take: Any) -> Any:
        async def move_first(self: Any, batch: Any) -> None:
            await self._store.write(lambda unit: self._subscription.settle(unit, batch, batch))
            await self._subscription.settled(batch)
            await take(self, batch)

        return move_first

    wrap(f"{_CONSUMER}.take", around)


def no_inbox() -> None:
    """What came before is applied again; the position is written down every five seconds, as logs do by habit."""
    wrap(f"{_CONSUMER}._admit", _admit_all)
    wrap("leeward.bus.sqlite:OutboxSubscription.settle", _seldom_settled)
    wrap("aiokafka:AIOKafkaConsumer.commit", _seldom_committed)


def _admit_all(admit: Any) -> Any:
    def take(self: Any, unit: Any, batch: Any) -> Any:
        admit(self, unit, batch)
        return [raw for raw in batch if self._ours(raw)]

    return take


def _seldom_settled(settle: Any) -> Any:
    written: dict[int, float] = {}

    def move(self: Any, unit: Any, batch: Any, fresh: Any) -> None:
        if time.monotonic() - written.get(id(self), 0.0) < SELDOM:
            unit.after_commit(lambda: self._moved(self._after(batch[-1])))
            return
        written[id(self)] = time.monotonic()
        settle(self, unit, batch, fresh)

    return move


def _seldom_committed(commit: Any) -> Any:
    written: dict[int, float] = {}

    async def write(self: Any, offsets: Any) -> None:
        if time.monotonic() - written.get(id(self), 0.0) >= SELDOM:
            written[id(self)] = time.monotonic()
            await commit(self, offsets)

    return write


def reused_ids() -> None:
    """The outbox without AUTOINCREMENT: once it is emptied, its numbers begin anew, behind the consumers' positions."""

    def around(migrated: Any) -> Any:
        def migrate(settings: Settings, services: Any) -> Any:
            changed = migrated(settings, services)
            for service in SERVICES:
                _forget_numbers(settings.database_file(service))
            return changed

        return migrate

    wrap("services.commands.operate.running:migrated", around)
    # a log shows by the event at a place that it is still the one that was read
    wrap("leeward.bus.outbox_log:Log._difference", lambda _difference: lambda _self, _place: "")


def _forget_numbers(path: Path) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        (made,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'outbox'").fetchone()
        if "AUTOINCREMENT" in made:
            database.execute("ALTER TABLE outbox RENAME TO outbox_before")
            database.execute(made.replace(" AUTOINCREMENT", ""))
            database.execute("INSERT INTO outbox SELECT * FROM outbox_before")
            database.execute("DROP TABLE outbox_before")


def calls_go_on() -> None:
    """Who acknowledges a page is paged again all the same."""
    wrap("services.notify.questions.answers:acknowledge", lambda _acknowledge: lambda _unit, _call_ref: None)


def late_messages() -> None:
    """Every message is held for a while that nobody asked for."""

    def around(enqueue: Any) -> Any:
        def later(self: Any, unit: Any, deliveries: Any) -> Any:
            for delivery in deliveries:
                delivery.not_before = max(delivery.not_before or unit.now, unit.now) + HELD
            return enqueue(self, unit, deliveries)

        return later

    wrap("services.notify.delivery.deliveries:Outgoing.enqueue", around)


def _with_effects(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same transitions, each effect changed; None leaves it out."""

    def around(function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Transition:
            made: Transition = function(*given, **named)
            changed = [change(effect) for effect in made.effects]
            return Transition(made.case, tuple(effect for effect in changed if effect is not None))

        return call

    return around


def early_reminders() -> None:
    """The reminder does not wait for its time."""

    def change(effect: Any) -> Any:
        soon = isinstance(effect, SetTimer) and effect.name == "reminder"
        return replace(effect, due_at=effect.due_at - hospital.REMINDER) if soon else effect

    wrap("services.matching.lifecycle.transitions:handed_off", _with_effects(change))


def reviewers_are_involved() -> None:
    """Whoever looks into an event counts as somebody who was around it."""

    def around(involve: Any) -> Any:
        def all_alike(self: Any, involved: Any) -> None:
            involve(self, [one.model_copy(update={"reviewer": False}) for one in involved])

        return all_alike

    wrap("services.matching.inputs.incidents:Incident.involve", around)


def nobody_asks_how_it_goes() -> None:
    """A supporter who has confirmed is never asked whether it is over."""

    def change(effect: Any) -> Any:
        return None if isinstance(effect, SetTimer) and effect.name == "not_closed" else effect

    wrap("services.matching.lifecycle.transitions:confirm", _with_effects(change))


def places_are_not_given_back() -> None:
    """Who is let go counts as busy for ever."""
    wrap(
        "services.matching.lifecycle.transitions:let_go",
        _with_effects(lambda effect: None if isinstance(effect, ReleaseSupporter) else effect),
    )


BUGS: Final[Mapping[str, Callable[[], None]]] = {
    "acknowledge_before_commit": acknowledge_before_commit,
    "offsets_before_commit": offsets_before_commit,
    "no_inbox": no_inbox,
    "reused_ids": reused_ids,
    "calls_go_on": calls_go_on,
    "late_messages": late_messages,
    "early_reminders": early_reminders,
    "reviewers_are_involved": reviewers_are_involved,
    "nobody_asks_how_it_goes": nobody_asks_how_it_goes,
    "places_are_not_given_back": places_are_not_given_back,
}
# which promise the checker must see broken
BREAKS: Final[Mapping[str, str]] = {
    "acknowledge_before_commit": "lost",
    "offsets_before_commit": "half-applied",
    "no_inbox": "twice",
    "reused_ids": "lost",
    "calls_go_on": "after an answer",
    "late_messages": "late",
    "early_reminders": "early",
    "reviewers_are_involved": "twice",
    "nobody_asks_how_it_goes": "lost",
    "places_are_not_given_back": "half-applied",
}
# Kafka numbers its events itself, and what may be late there is late for longer
EMBEDDED_ONLY: Final = frozenset({"reused_ids", "late_messages"})

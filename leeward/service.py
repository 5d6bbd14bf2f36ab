"""A service is data: a descriptor that the runtime starts, one or five at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import APIRouter
from sqlalchemy import Connection, MetaData

from leeward.clock import Clock
from leeward.contracts import Event, EventData
from leeward.people import Member
from leeward.settings import ServiceName, Settings
from leeward.settings.keys import Keyring
from leeward.store import Store, Timer, Unit
from leeward.store.retention import RetentionPart
from leeward.timekeeping.moments import Moments

Handler = Callable[[Unit, Sequence[Event]], None]
TimerHandler = Callable[[Unit, Sequence[Timer]], None]
Task = Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True)
class Context:
    """What the runtime hands to a service."""

    name: ServiceName
    settings: Settings
    clock: Clock
    store: Store
    keys: Keyring
    http: httpx.AsyncClient

    def call_headers(self) -> dict[str, str]:
        """Headers by which another service of ours knows this one."""
        return {"Authorization": f"Bearer {self.keys.services_secret}"}


@dataclass(frozen=True)
class Wiring:
    """What a service gives to the runtime.

    handlers: by event model; each gets a run of events of that type, in their order, inside one transaction.
    timers: by timer name. tasks: run until the event given to them is set, then finish what they hold and return.
    retention: each deletes of what has served so much at most, and says whether there may be more.
    unready: each gives the code of why this service cannot do its work now, empty while it can.
    """

    router: APIRouter
    handlers: Mapping[type[EventData], Handler] = field(default_factory=dict)
    timers: Mapping[str, TimerHandler] = field(default_factory=dict)
    tasks: Sequence[Task] = ()
    retention: Sequence[RetentionPart] = ()
    unready: Sequence[Callable[[], str]] = ()


@dataclass(frozen=True)
class Restored:
    """What a service is told of the copy that its database was put back from; matching hears of it first.

    erased: the list of erasures. cases, persons, recipients: what matching found on it, for the others.
    """

    settings: Settings
    keys: Keyring
    erased: frozenset[str] = field(repr=False)
    cases: list[str] = field(default_factory=list, repr=False)
    persons: list[str] = field(default_factory=list, repr=False)
    recipients: list[str] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Service:
    """One of the five.

    status: figures for `leeward status`: counts and codes, never a name.
    import_roster: takes over what this service may know of a whole roster; None where that is nothing.
    reads: topics whose events its handlers take; a log is kept until every service that reads it has.
    moments: the columns that hold times reckoned from now, so that they can be put right with the clock.
    check: raises SettingsError for settings that this service cannot start with; asked before anything is touched.
    left_out: the tables whose rows no backup holds.
    restored: brings a database that was put back from a copy to the present, before anything in it is due.
    """

    name: ServiceName
    metadata: MetaData
    build: Callable[[Context], Wiring]
    status: Callable[[Connection, Settings], dict[str, Any]]
    import_roster: Callable[[Unit, Sequence[Member], Settings], None] | None = None
    check: Callable[[Settings], object] | None = None
    left_out: Callable[[Connection], Collection[str]] | None = None
    restored: Callable[[Unit, Restored], None] | None = None
    reads: tuple[str, ...] = ()
    moments: Callable[[Settings], Sequence[Moments]] = lambda _settings: ()

    @property
    def package(self) -> str:
        """Where its code and its migrations are, such as `services.incident`."""
        return self.build.__module__

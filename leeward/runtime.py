"""The runtime: starts services, one or five in a process, and stops them without dropping what was taken."""

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal

import httpx
import uvicorn
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from httpx_aiohttp import AiohttpTransport
from sqlalchemy import Connection, inspect

from leeward import telemetry
from leeward.adapters import bus_of, store_of
from leeward.bus import Bus, Relay
from leeward.bus.consumer import Consumer
from leeward.bus.parking import Parking
from leeward.clock import Clock, first_of
from leeward.contracts.envelope import topic_of
from leeward.listening import allow_files, listening
from leeward.service import Context, Service, Task, Wiring
from leeward.settings import ServiceName, Settings, SettingsError
from leeward.settings.key_checks import hold_key
from leeward.settings.keys import keyring
from leeward.store import Store, StoreUnavailable
from leeward.store.copies import RESTORE_UNFINISHED
from leeward.store.copies.sqlite import is_unfinished
from leeward.store.health import AILMENTS, first_reason
from leeward.store.health.files import damage
from leeward.store.migrate import up_to_date
from leeward.store.periodic import back_off
from leeward.store.retention import Retention, at_once
from leeward.store.timing import TimerLoop
from leeward.timekeeping.guard import GuardedClock
from leeward.timekeeping.keeper import Kept, Timekeeper
from leeward.web.app import create_app
from leeward.web.look.catalogues import check_catalogues

# a batch makes thousands of objects and lets go of them all: looking for cycles each 700 cost an eighth of the time
GC_THRESHOLD: Final = (20_000, 20, 100)
RESTART_SECONDS: Final = 1.0
GRACE_SECONDS: Final = 20.0
OPENING_SECONDS: Final = 30.0
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
WAITS: Final = {"restored": ("waiting_for_restore", "restore"), "migrated": ("waiting_for_migration", "migrate")}


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the runtime has one for all services."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Running:
    """One started service: its ground, its parts and what runs on their behalf."""

    service: Service
    context: Context
    wiring: Wiring
    parking: Parking
    consumers: list[Consumer] = field(default_factory=list)
    relay: Relay | None = None
    server: Server | None = None
    waits_for: str = "starting"

    def unready(self) -> str:
        """The code of why it cannot do its work now, empty while it can: database, start, consumers, relay, its own."""
        return first_reason(
            lambda: self.context.store.health.reason,
            lambda: self.waits_for,
            lambda: "consumer_stuck" if any(consumer.stuck for consumer in self.consumers) else "",
            lambda: "relay_stuck" if self.relay is not None and self.relay.stuck else "",
            *self.wiring.unready,
        )

    def notes(self) -> list[str]:
        """What somebody should know although it does its work: topics that it has begun again, with the code of why."""
        found = ((consumer.topic, consumer.noted()) for consumer in self.consumers)
        return [f"{topic}: {why}" for topic, why in found if why]


@cache
def _authorities() -> ssl.SSLContext:
    """Whom TLS trusts, read once a process: it takes longer than all else a client is made of."""
    return ssl.create_default_context()


@contextlib.asynccontextmanager
async def http_client() -> AsyncIterator[httpx.AsyncClient]:
    """The one pooled client of a process: httpx's interface over aiohttp's transport (encode/httpx#3215)."""
    connector = TCPConnector(limit=256, limit_per_host=128, keepalive_timeout=30, ssl=_authorities())
    session = ClientSession(
        connector=connector, cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=None), auto_decompress=False
    )
    transport = AiohttpTransport(client=session, verify=_authorities())
    async with httpx.AsyncClient(transport=transport, timeout=10.0, follow_redirects=False) as client:
        # neutral: a gateway's log must not name what calls it (DESIGN §6)
        client.headers["User-Agent"] = "http"
        yield client


class Runtime:
    """Starts services on one event loop and stops them in order.

    Stopping: listeners take nothing new; consumers, timers and tasks finish what they hold; stores close last.
    """

    def __init__(
        self,
        settings: Settings,
        services: Sequence[Service],
        clock: Clock,
        everybody: Sequence[Service] = (),
    ) -> None:
        """`everybody`: all services of the installation, in whichever process they run; these where none are given."""
        self.settings = settings
        self._everybody = everybody or services
        self.clock = GuardedClock(clock)
        self.running: dict[str, Running] = {}
        self._services = services
        self._stop = asyncio.Event()
        self._timekeeper = Timekeeper(self.clock)
        self._stores: dict[str, Store] = {}
        self._sockets: dict[str, socket.socket] = {}
        self._bus: Bus | None = None
        self._refused: SettingsError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._web: list[asyncio.Task[None]] = []

    def stop(self) -> None:
        """Ask everything to finish."""
        self._stop.set()

    async def run(self) -> None:
        """Start, serve until `stop`, and finish.

        Raises:
            SettingsError: when a port is taken, or a database was made with another key.
        """
        async with http_client() as client:
            try:
                await self.start(client)
                await self._stop.wait()
            finally:
                await self.finish()
        if self._refused:
            raise self._refused

    async def start(self, client: httpx.AsyncClient) -> None:
        """Open listeners, then begin as soon as databases can be used; returns when all has begun, or a stop came."""
        for service in self._services:
            self._stores[service.name] = store_of(self.settings, service.name, service.metadata, self.clock)
        for service in self._services:
            variable, port = f"{service.name.upper()}_PORT", self.settings.ports[service.name]
            self._sockets[service.name] = listening(self.settings.host, port, variable)
        bus = self._bus = bus_of(self.settings, self._stores, readers_of(self._everybody))
        for service in self._services:
            self._build(service, self._stores[service.name], client, bus)
        if self.settings.embedded:
            # all of them are at hand: where one has a key of another installation, none is to take or send anything
            for running in self.running.values():
                with contextlib.suppress(StoreUnavailable):
                    await self._awaited(running)
        for running in self.running.values():
            await self._serve(running, self._sockets[running.service.name])
        gc.enable()
        self._spawn("timekeeping", self._timekeeper.run)
        beginning = asyncio.gather(*(self._begin(running, bus) for running in self.running.values()))
        await first_of(self._stop.wait(), beginning)
        [fault] = await asyncio.gather(beginning, return_exceptions=True)
        if isinstance(fault, BaseException) and not self._stop.is_set():
            # what is no matter of waiting must not leave a process that is up and does nothing
            raise fault
        # what is loaded by now stays; collecting it again and again costs tail latency
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)

    def _build(self, service: Service, store: Store, client: httpx.AsyncClient, bus: Bus) -> None:
        keys = keyring(self.settings, service.name)
        context = Context(service.name, self.settings, self.clock, store, keys, client)
        wiring = service.build(context)
        handlers = {model.type: handler for model, handler in wiring.handlers.items()}
        parking = Parking(service.name, store, handlers)
        # before any service begins: what somebody here has still to read, nobody forgets
        topics = sorted({topic_of(event_type) for event_type in handlers})
        consumers = [Consumer(topic, bus.subscribe(service.name, topic), store, parking) for topic in topics]
        self.running[service.name] = running = Running(service, context, wiring, parking, consumers)
        # asked at each scrape: nobody else need ask
        telemetry.READY.labels(service.name).set_function(lambda: not running.unready())

    async def _begin(self, running: Running, bus: Bus) -> None:
        name, store, parking, wiring = running.service.name, running.context.store, running.parking, running.wiring
        self._spawn(name, store.watch)
        await self._usable(running)
        running.relay = bus.relay(name)
        carrying = [running.relay.run] if running.relay else []
        keeping = [
            parking.run,
            TimerLoop(name, store, wiring.timers).run,
            self._after_opening(
                Retention(store, partial(bus.forget, name), at_once(parking.forget), *wiring.retention)
            ),
        ]
        for task in (*(consumer.run for consumer in running.consumers), *carrying, *keeping, *wiring.tasks):
            self._spawn(name, task)
        running.waits_for = ""

    def _after_opening(self, retention: Retention) -> Task:
        """Retention begins when all consumers of this process know where they are, or soon where one cannot."""

        async def run(stop: asyncio.Event) -> None:
            opened = (consumer.opened.wait() for one in self.running.values() for consumer in one.consumers)
            await first_of(stop.wait(), asyncio.gather(*opened), asyncio.sleep(OPENING_SECONDS))
            await retention.run(stop)

        return run

    async def _usable(self, running: Running) -> None:
        """Wait for a database that answers and has been migrated; its `watch` says where one that is away should be."""
        told, tries = False, 0
        while True:
            with contextlib.suppress(StoreUnavailable):
                waits = await self._awaited(running)
                if waits is None:
                    return
                running.waits_for = f"not_{waits}"
                if not told:
                    event, command = WAITS[waits]
                    telemetry.log(event, service=running.service.name, reason=f"run leeward {command}")
                    told = True
            tries += 1
            await asyncio.sleep(back_off(tries, FIRST_PAUSE, LONGEST_PAUSE, factor=1.5))

    async def _awaited(self, running: Running) -> Literal["restored", "migrated"] | None:
        """What a database still has to be; None where it can be used: it then keeps the check value of its key.

        Raises:
            SettingsError: when it was made with another key.
            StoreUnavailable: when it cannot be reached.
        """
        name, context = running.service.name, running.context
        if waits := await context.store.read(partial(awaited, package=running.service.package)):
            return waits
        await self._timekeeper.take_up(name, Kept(context.store, running.service.moments(self.settings)))
        await context.store.write(lambda unit: hold_key(unit, self.settings, name, context.keys.service))
        return None

    def _spawn(self, service: str, task: Task) -> None:
        running = asyncio.create_task(supervised(service, task, self._stop))
        running.add_done_callback(self._refuse)
        self._tasks.append(running)

    def _refuse(self, task: "asyncio.Task[None]") -> None:
        """A task that finds a setting unusable (its port is taken) stops the start."""
        fault = None if task.cancelled() else task.exception()
        if isinstance(fault, SettingsError):
            self._refused = fault
            self._stop.set()

    async def _serve(self, running: Running, bound: socket.socket) -> None:
        app = create_app(
            running.context,
            running.wiring.router,
            unready=running.unready,
            notes=running.notes,
            begun=lambda: not running.waits_for,
        )
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=10,
            ws="none",
        )
        running.server = server = Server(config)
        self._web.append(serving := asyncio.create_task(server.serve([bound])))
        while not server.started:
            # uvicorn gives no event for it, and where it fails it just ends
            if serving.done():
                raise RuntimeError(f"{running.service.name} does not listen")
            await asyncio.sleep(0.001)

    async def finish(self) -> None:
        """Stop in order; what takes longer than the grace time is left to the restart, which repeats it safely."""
        self._stop.set()
        for running in self.running.values():
            if running.server:
                running.server.should_exit = True
        tasks = [*self._web, *self._tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._bus:
            await self._bus.close()
        for store in self._stores.values():
            await store.close()
        for bound in self._sockets.values():
            bound.close()


def awaited(conn: Connection, package: str) -> Literal["restored", "migrated"] | None:
    """What a database still has to be before its service may begin, None where it is ready."""
    if inspect(conn).has_table(RESTORE_UNFINISHED):
        return "restored"
    return None if up_to_date(conn, package) else "migrated"


async def supervised(service: str, task: Task, stop: asyncio.Event) -> None:
    """Run a task until it ends by itself; start it again after a fault."""
    while not stop.is_set():
        try:
            await task(stop)
        except SettingsError:
            raise
        except asyncio.CancelledError as fault:
            # a library's own cancellation that got out of it would end the task in silence
            current = asyncio.current_task()
            if stop.is_set() or (current is not None and current.cancelling() > 0):
                raise
            await _restarted(service, fault, stop)
        except Exception as fault:
            await _restarted(service, fault, stop)
        else:
            return


async def _restarted(service: str, fault: BaseException, stop: asyncio.Event) -> None:
    telemetry.TASKS_RESTARTED.labels(service).inc()
    telemetry.log("task_restarted", service=service, fault=type(fault).__name__, place=telemetry.place(fault))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RESTART_SECONDS):
            await stop.wait()


def readers_of(services: Sequence[Service]) -> dict[str, list[ServiceName]]:
    """The services that read each topic."""
    topics = sorted({topic for service in services for topic in service.reads})
    return {topic: [service.name for service in services if topic in service.reads] for topic in topics}


def check_start(settings: Settings, services: Sequence[Service]) -> None:
    """See that these services can start with these settings, before anything is touched.

    Raises:
        SettingsError: where an enabled language lacks a text, what a service needs is missing, or a file is damaged.
    """
    if settings.embedded and is_unfinished(settings.data):
        raise SettingsError("LEEWARD_DATA: a restore of it was cut short; run `leeward restore` again")
    check_catalogues(settings.locales, services)
    for service in services:
        if service.check:
            service.check(settings)
        if not settings.database_url(service.name):
            refuse_damaged(settings.database_file(service.name))


def refuse_damaged(file: Path) -> None:
    """Stop a start on a database that is damaged: what it took in would be lost with it.

    Raises:
        SettingsError: naming the file, what is wrong and what to do.
    """
    if fault := damage(file):
        raise SettingsError(f"{file}: is damaged ({fault}); {AILMENTS['damaged'].do}")


def run(settings: Settings, services: Sequence[Service], everybody: Sequence[Service] = ()) -> None:
    """Run services in the foreground until SIGTERM or SIGINT; `everybody`: see `Runtime`.

    Raises:
        SettingsError: see `check_start` and `Runtime.run`.
    """
    import uvloop

    check_start(settings, services)

    async def run_until_signalled() -> None:
        runtime = Runtime(settings, services, settings.clock(), everybody)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runtime.stop)
        telemetry.log("starting", mode=settings.outreach.mode, count=len(services))
        await runtime.run()
        telemetry.log("stopped")

    telemetry.configure_logs()
    allow_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_until_signalled())

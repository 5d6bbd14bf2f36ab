"""Small services on real ports: started together, stopped without dropping what they took, restarted after a fault."""

import asyncio
import base64
import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, func, insert, select

from leeward import runtime
from leeward.contracts import CaseClosed, Event
from leeward.listening import listening
from leeward.runtime import Running, Runtime, supervised
from leeward.service import Context, Service, Wiring
from leeward.settings import Settings, SettingsError, load_settings
from leeward.store import Timer, Unit, ground_tables
from leeward.store.retention import at_once
from leeward.store.sqlite import sqlite_connection, sqlite_engine
from leeward.telemetry import REGISTRY
from leeward.testing import ManualClock, eventually
from leeward.web.access import PUBLIC

CASE = "7f2b1c4e-0000-4000-8000-000000000001"
Build = Callable[[Context], Wiring]


def notes() -> tuple[MetaData, Table]:
    metadata = MetaData()
    ground_tables(metadata)
    return metadata, Table("note", metadata, Column("n", Integer, primary_key=True), Column("what", String(40)))


NOTES, NOTE = notes()


def note(unit: Unit, what: str) -> None:
    unit.conn.execute(insert(NOTE).values(what=what))


def producer(context: Context) -> Wiring:
    """`matching`: closes a case when asked over HTTP; counts a timer that fires."""
    router = APIRouter()

    @router.post("/close", dependencies=[PUBLIC])
    async def close() -> dict[str, str]:
        await context.store.write(lambda unit: unit.emit(CaseClosed(case_ref=CASE)))
        return {"case_ref": CASE}

    @router.post("/slow", dependencies=[PUBLIC])
    async def slow() -> dict[str, str]:
        await asyncio.sleep(0.3)
        await context.store.write(lambda unit: note(unit, "slow"))
        return {}

    @router.post("/later", dependencies=[PUBLIC])
    async def later() -> None:
        await context.store.write(lambda unit: unit.set_timer("later", CASE, unit.now))

    def fired(unit: Unit, timers: Sequence[Timer]) -> None:
        for timer in timers:
            note(unit, f"{timer.name} {timer.key[:4]}")

    return Wiring(router, timers={"later": fired})


def consumer(context: Context) -> Wiring:
    """`issuer`: writes down the cases that closed."""

    def closed(unit: Unit, events: Sequence[Event]) -> None:
        for event in events:
            note(unit, event.key)

    return Wiring(APIRouter(), handlers={CaseClosed: closed})


def count(conn: Connection, _settings: Settings) -> dict[str, Any]:
    return {"notes": conn.execute(select(func.count()).select_from(NOTE)).scalar_one()}


MATCHING = Service("matching", NOTES, producer, count)
ISSUER = Service("issuer", NOTES, consumer, count)


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, held together so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    matching, issuer = free_ports(2)
    ports = {"LEEWARD_MATCHING_PORT": str(matching), "LEEWARD_ISSUER_PORT": str(issuer)}
    found = load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data"), **ports})
    found.data.mkdir()
    for name in ("matching", "issuer"):
        engine = sqlite_engine(found.data / f"{name}.db")
        NOTES.create_all(engine)
        engine.dispose()
    return found


@asynccontextmanager
async def started(settings: Settings, clock: ManualClock, *services: Service) -> AsyncIterator[Runtime]:
    running = Runtime(settings, services, clock)
    task = asyncio.create_task(running.run())
    try:
        await eventually(lambda: all_ready(settings, services, task))
        yield running
    finally:
        running.stop()
        async with asyncio.timeout(15):
            await task


async def all_ready(settings: Settings, services: Sequence[Service], task: "asyncio.Task[None]") -> bool:
    if task.done():
        task.result()
    async with httpx.AsyncClient() as client:
        try:
            answers = [await client.get(f"{settings.url(service.name)}/readyz") for service in services]
        except httpx.TransportError:
            return False
    return all(answer.status_code == 200 for answer in answers)


def written(settings: Settings, name: str) -> list[str]:
    engine = sqlite_engine(settings.data / f"{name}.db", read_only=True)
    with engine.connect() as conn:
        found = list(conn.execute(select(NOTE.c.what).order_by(NOTE.c.n)).scalars())
    engine.dispose()
    return [str(what) for what in found]


async def test_services_start_together_and_hear_one_another(settings: Settings, clock: ManualClock) -> None:
    async def heard() -> bool:
        return written(settings, "issuer") == [CASE]

    async with started(settings, clock, MATCHING, ISSUER), httpx.AsyncClient() as client:
        assert (await client.post(f"{settings.url('matching')}/close")).status_code == 200
        await eventually(heard)


@pytest.mark.parametrize("name", ["matching", "issuer"])
async def test_each_has_health_metrics_and_a_description(settings: Settings, clock: ManualClock, name: Any) -> None:
    async with started(settings, clock, MATCHING, ISSUER), httpx.AsyncClient(base_url=settings.url(name)) as client:
        for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
            answer = await client.get(path)
            assert answer.status_code == 200, path
            assert "server" not in answer.headers
        assert f'leeward_ready{{service="{name}"}} 1.0' in (await client.get("/metrics")).text


async def test_whether_a_service_is_ready_is_measured_though_nobody_asks(
    settings: Settings, clock: ManualClock
) -> None:
    def measured() -> float | None:
        return REGISTRY.get_sample_value("leeward_ready", {"service": "issuer"})

    async with started(settings, clock, MATCHING, ISSUER) as running:
        assert measured() == 1
        running.running["issuer"].consumers[0].stuck = True
        assert measured() == 0


async def test_what_alerts_ask_for_is_there_before_it_happens(settings: Settings, clock: ManualClock) -> None:
    async with started(settings, clock, MATCHING, ISSUER):
        for service in ("matching", "issuer"):
            for name in ("leeward_events_parked_total", "leeward_events_dead_total"):
                assert REGISTRY.get_sample_value(name, {"service": service}) is not None
        labels = {"service": "matching", "timer": "later"}
        assert REGISTRY.get_sample_value("leeward_timers_failed_total", labels) is not None


async def test_a_timer_fires_in_a_running_service(settings: Settings, clock: ManualClock) -> None:
    async def fired() -> bool:
        return written(settings, "matching") == ["later 7f2b"]

    async with started(settings, clock, MATCHING), httpx.AsyncClient() as client:
        await client.post(f"{settings.url('matching')}/later")
        await eventually(fired)


async def test_a_stop_lets_requests_finish(settings: Settings, clock: ManualClock) -> None:
    async with httpx.AsyncClient() as client:
        async with started(settings, clock, MATCHING) as running:
            asked = asyncio.create_task(client.post(f"{settings.url('matching')}/slow"))
            await asyncio.sleep(0.1)
            running.stop()
        assert (await asked).status_code == 200
    assert written(settings, "matching") == ["slow"]


async def test_what_was_published_before_a_stop_is_heard_after_the_next_start(
    settings: Settings, clock: ManualClock
) -> None:
    async with started(settings, clock, MATCHING), httpx.AsyncClient() as client:
        await client.post(f"{settings.url('matching')}/close")
    async with started(settings, clock, MATCHING, ISSUER):
        await eventually(lambda: heard_once(settings))
    async with started(settings, clock, ISSUER):
        pass
    assert written(settings, "issuer") == [CASE]


async def heard_once(settings: Settings) -> bool:
    return written(settings, "issuer") == [CASE]


async def test_a_taken_port_stops_the_start_with_one_line_and_leaves_nothing_open(
    settings: Settings, clock: ManualClock
) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.ports["issuer"])),
        pytest.raises(SettingsError, match=r"LEEWARD_ISSUER_PORT: .* cannot be used"),
    ):
        await Runtime(settings, [MATCHING, ISSUER], clock).run()
    async with started(settings, clock, MATCHING, ISSUER):
        pass


async def test_a_task_that_finds_a_setting_unusable_stops_the_start(settings: Settings, clock: ManualClock) -> None:
    async def refuse(_stop: asyncio.Event) -> None:
        raise SettingsError("LEEWARD_MLLP_PORT: 2575 cannot be used")

    def build(_ground: Context) -> Wiring:
        return Wiring(APIRouter(), tasks=(refuse,))

    refusing = Service("issuer", ISSUER.metadata, build, ISSUER.status)
    with pytest.raises(SettingsError, match="LEEWARD_MLLP_PORT"):
        await Runtime(settings, [refusing], clock).run()


@pytest.mark.parametrize("gone", [False, True], ids=["of another installation", "missing"])
async def test_a_key_that_a_database_was_not_made_with_stops_the_start_before_anything_is_taken(
    settings: Settings, clock: ManualClock, gone: bool
) -> None:
    async with started(settings, clock, MATCHING, ISSUER), httpx.AsyncClient() as client:
        await client.post(f"{settings.url('matching')}/later")
    key = settings.data / "keys" / "issuer.key"
    kept = key.read_text()
    key.unlink()
    if not gone:
        key.write_text(base64.b64encode(bytes(32)).decode())
    running = Runtime(settings, [MATCHING, ISSUER], clock)
    with pytest.raises(SettingsError, match=r"issuer\.key: is .* the database of issuer was made with"):
        async with asyncio.timeout(10):
            await running.run()
    assert all(one.waits_for == "starting" and one.server is None for one in running.running.values())
    assert key.exists() is not gone
    key.write_text(kept)
    async with started(settings, clock, MATCHING, ISSUER):
        pass


async def test_a_database_of_the_release_before_keeps_the_key_of_the_first_start(
    settings: Settings, clock: ManualClock
) -> None:
    async with started(settings, clock, MATCHING):
        pass
    with closing(sqlite_connection(settings.data / "matching.db")) as conn:
        conn.execute("DELETE FROM key_check")
        conn.execute("INSERT INTO note (what) VALUES ('from before')")
    async with started(settings, clock, MATCHING):
        pass
    (settings.data / "keys" / "matching.key").write_text(base64.b64encode(bytes(32)).decode())
    with pytest.raises(SettingsError, match=r"matching\.key: is another key"):
        async with asyncio.timeout(10):
            await Runtime(settings, [MATCHING], clock).run()


async def test_before_a_service_has_begun_it_takes_nothing(settings: Settings, clock: ManualClock) -> None:
    """Its database can be reached, and yet nobody has seen whether the key is the right one."""
    waiting = asyncio.Event()

    class Waiting(Runtime):
        async def _usable(self, running: Running) -> None:
            await waiting.wait()
            await super()._usable(running)

    runtime = Waiting(settings, [MATCHING], clock)
    task = asyncio.create_task(runtime.run())
    async with httpx.AsyncClient(base_url=settings.url("matching")) as client:
        await eventually(lambda: answers(client, "/livez", 200))
        assert (await client.get("/openapi.json")).status_code == 200, "what it has to say may be read"
        refused = await client.post("/close")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert refused.json()["type"] == "/problems#try-again"
        assert await answers(client, "/readyz", 503)
        waiting.set()
        await eventually(lambda: answers(client, "/readyz", 200))
        assert (await client.post("/close")).status_code == 200
    runtime.stop()
    await task


async def answers(client: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx.TransportError:
        return False


def test_a_port_is_ours_from_the_moment_it_is_taken(settings: Settings) -> None:
    with (
        closing(listening(settings.host, settings.ports["matching"], "MATCHING_PORT")),
        pytest.raises(SettingsError, match="LEEWARD_MATCHING_PORT"),
        closing(listening(settings.host, settings.ports["matching"], "MATCHING_PORT")),
    ):
        pass


def test_a_host_that_is_no_address_is_the_hosts_fault(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="LEEWARD_HOST"):
        listening("no such host", 0, "MATCHING_PORT")


async def test_a_service_that_cannot_be_built_closes_what_was_opened(settings: Settings, clock: ManualClock) -> None:
    def broken(_ground: Context) -> Wiring:
        raise LookupError

    with pytest.raises(LookupError):
        await Runtime(settings, [MATCHING, Service("issuer", NOTES, broken, count)], clock).run()
    async with started(settings, clock, MATCHING, ISSUER):
        pass


async def test_a_service_without_a_database_says_so_once_and_stops_when_told(
    settings: Settings, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    (settings.data / "matching.db").unlink()
    running = Runtime(settings, [MATCHING], clock)
    task = asyncio.create_task(running.run())
    await asyncio.sleep(0.5)
    assert REGISTRY.get_sample_value("leeward_ready", {"service": "matching"}) == 0
    running.stop()
    async with asyncio.timeout(10):
        await task
    gc.collect()
    told = [record.message for record in caplog.records if record.name in ("leeward", "asyncio")]
    assert told == ["waiting_for_migration"]


async def test_retention_begins_when_the_consumers_know_where_they_are(settings: Settings, clock: ManualClock) -> None:
    log, ran = settings.data / "matching.db", list[Unit]()

    def build(context: Context) -> Wiring:
        return Wiring(APIRouter(), consumer(context).handlers, retention=[at_once(ran.append)])

    hidden = log.rename(settings.data / "hidden.db")
    running = Runtime(settings, [Service("issuer", NOTES, build, count)], clock)
    task = asyncio.create_task(running.run())
    await eventually(lambda: running.running and running.running["issuer"].unready() == "consumer_stuck")
    await asyncio.sleep(0.2)
    assert ran == []
    hidden.rename(log)
    await eventually(lambda: ran)
    running.stop()
    await task


async def test_a_service_that_cannot_begin_ends_the_process(
    settings: Settings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_conn: Connection, _package: str) -> bool:
        raise LookupError

    monkeypatch.setattr(runtime, "up_to_date", refused)
    async with asyncio.timeout(10):
        with pytest.raises(LookupError):
            await Runtime(settings, [MATCHING, ISSUER], clock).run()


async def test_a_task_that_raises_is_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RESTART_SECONDS", 0.001)
    stop, runs = asyncio.Event(), 0

    async def fragile(_stop: asyncio.Event) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise LookupError
        stop.set()

    await supervised("matching", fragile, stop)
    assert runs == 3


async def test_a_cancellation_that_got_out_of_a_library_does_not_end_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RESTART_SECONDS", 0.01)
    runs: list[int] = []

    async def leaking(_stop: asyncio.Event) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise asyncio.CancelledError

    await supervised("matching", leaking, asyncio.Event())
    assert len(runs) == 3


async def test_a_task_that_failed_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RESTART_SECONDS", 3600)
    stop = asyncio.Event()

    async def failing(_stop: asyncio.Event) -> None:
        raise LookupError

    task = asyncio.create_task(supervised("matching", failing, stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(5):
        await task


async def test_a_tasks_last_words_are_waited_for(settings: Settings, clock: ManualClock) -> None:
    def build(context: Context) -> Wiring:
        async def work(stop: asyncio.Event) -> None:
            await stop.wait()
            await context.store.write(lambda unit: note(unit, "finished"))

        return Wiring(APIRouter(), tasks=[work])

    async with started(settings, clock, Service("matching", NOTES, build, count)):
        pass
    assert written(settings, "matching") == ["finished"]


PROGRAM = """
import sys
from leeward.settings import load_settings
from leeward.runtime import run
from tests.leeward.test_runtime import MATCHING, ISSUER
run(load_settings(), [MATCHING, ISSUER])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_after_its_work(settings: Settings, number: signal.Signals) -> None:
    ports = {f"LEEWARD_{name.upper()}_PORT": str(settings.ports[name]) for name in ("matching", "issuer")}
    environ = {**os.environ, **ports, "LEEWARD_ENV": "test", "LEEWARD_DATA": str(settings.data)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environ, stderr=subprocess.PIPE, text=True)
    try:
        idle = asyncio.create_task(asyncio.sleep(3600))
        await eventually(lambda: all_ready(settings, [MATCHING, ISSUER], idle), within=30)
        idle.cancel()
        async with httpx.AsyncClient() as client:
            asked = asyncio.create_task(client.post(f"{settings.url('matching')}/slow"))
            await asyncio.sleep(0.1)
            process.send_signal(number)
            assert (await asked).status_code == 200
        _, log = await asyncio.to_thread(process.communicate, timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert written(settings, "matching") == ["slow"]
    assert '"event": "starting"' in log
    assert '"event": "stopped"' in log

"""Whoever is on call sees what was given up, and has it tried again or dropped; no word of a sender is shown."""

import asyncio
import json
import os
import pty
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text

from leeward.bus.parking import RETRY_EVERY
from leeward.contracts import EVENTS, Event, IncidentRecorded, IncidentRetracted
from leeward.service import Context
from leeward.store import Unit
from leeward.testing import ManualClock, listening
from services.commands.operate.dlq import FREE_TEXT
from services.demo.servers.server import Port
from services.matching.models import METADATA
from tests import nursery
from tests.conftest import MakeContext
from tests.contract.world import recorded, ref
from tests.letters import Consuming, fails
from tests.services.commands.conftest import Leeward, newest

pytestmark = pytest.mark.database("sqlite", "postgresql")
UNKNOWN = "leeward.incident.forgotten.v1"
NAME = "Anna Weber"


class Call:
    """Somebody on call beside matching, whose handlers fail until they are mended."""

    def __init__(self, context: Context, clock: ManualClock, leeward: Leeward, environment: dict[str, str]) -> None:
        self.clock = clock
        self.environment = environment
        self._leeward = leeward
        self.taken: list[str] = []
        handlers = {kind.type: fails for kind in (IncidentRecorded, IncidentRetracted)}
        self.consuming = Consuming("matching", "leeward.incident", context.store, clock, handlers)

    def mended(self) -> None:
        def take(unit: Unit, events: Sequence[Event]) -> None:
            unit.after_commit(lambda: self.taken.extend(getattr(event.data, "unit", "retracted") for event in events))

        self.consuming.parking.handlers = {kind.type: take for kind in (IncidentRecorded, IncidentRetracted)}

    async def retried(self) -> None:
        """What the service does when it looks next."""
        await self.clock.advance(seconds=RETRY_EVERY)
        await self.consuming.parking.retry()

    async def run(self, *words: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """`leeward dlq …` at the time of the story."""
        now = f"{self.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        return await asyncio.to_thread(self._leeward, "dlq", *words, LEEWARD_CLOCK=now, **options)

    async def said(self, *words: str) -> list[str]:
        done = await self.run(*words)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    async def json(self, *words: str) -> Any:
        return json.loads("\n".join(await self.said(*words, "--json")))

    async def idents(self) -> list[str]:
        return [one["id"] for one in await self.json("list")]


@pytest_asyncio.fixture
async def call(
    make_context: MakeContext,
    clock: ManualClock,
    leeward: Leeward,
    environment: dict[str, str],
    database: str,
    request: pytest.FixtureRequest,
) -> Call:
    context = make_context("matching", METADATA)
    if database == "postgresql":
        url = request.getfixturevalue("postgresql_databases").url("matching", clock)
        environment |= {
            "LEEWARD_MATCHING_DATABASE_URL": url,
            "LEEWARD_BUS_URL": f"kafka://127.0.0.1:{Port().number}",
        }
    else:
        await context.store.write(newest)
    return Call(context, clock, leeward, environment)


async def test_where_nothing_has_failed_that_is_said(call: Call) -> None:
    assert await call.said("list") == ["there are no dead letters, and nothing waits to be tried again"]
    assert await call.json("list") == []
    assert await call.said("replay", "--service", "matching") == ["there are no dead letters of which anything is kept"]


async def test_a_line_says_which_event_failed_where_how_often_and_what_comes_next(call: Call) -> None:
    await call.consuming.take(recorded(1, NAME))
    await call.consuming.give_up()
    await call.consuming.take(recorded(2, "second"), recorded(2, "third"))
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    lines = [line.split("  ") for line in await call.said("list", "--service", "matching")]
    shown = [[cell.strip() for cell in line if cell] for line in lines]
    ids = await call.idents()
    place = (await call.json("list"))[0]["place"]
    assert place.startswith("letters.py:")
    fault, topic, day = f"LookupError: {place}", "leeward.incident", f"{call.clock.now():%Y-%m-%d}"
    soon = call.clock.now().replace(second=30).strftime("%Y-%m-%dT%H:%MZ")
    assert shown == [
        [ids[0], topic, IncidentRecorded.type, fault, "8 attempts", "2026-11-21", "dead"],
        [ids[1], topic, IncidentRecorded.type, fault, "0 attempts", day, f"waits until {soon}"],
        [
            ids[2],
            topic,
            IncidentRecorded.type,
            "follows a parked event",
            "0 attempts",
            day,
            "waits for the one before it",
        ],
        [ids[3], topic, UNKNOWN, "Undecodable: unknown-type", "0 attempts", day, "dead"],
    ]


async def test_no_word_of_a_sender_is_shown(call: Call) -> None:
    await call.consuming.take_raw(
        (NAME, NAME, f'{{"name": "{NAME}"}}'),
        (f"leeward.incident.{NAME}.v1", NAME, "{}"),
        (f"{UNKNOWN}\n", NAME, "{}"),
        (IncidentRecorded.type, NAME, f'{{"incident_ref": "{NAME}"}}'),
    )
    await call.consuming.take(recorded(1, NAME))
    told = (await call.run("list")).stdout + (await call.run("list", "--json")).stdout
    ids = await call.idents()
    assert len(ids) == 5
    for ident in ids:
        told += (await call.run("show", ident)).stdout + (await call.run("show", ident, "--json")).stdout
    assert "Anna" not in told
    assert [one["type"] for one in await call.json("list")] == [*["unknown"] * 3, *[IncidentRecorded.type] * 2]
    unfit = await call.json("show", ids[3])
    assert (unfit["key"], unfit["body"], unfit["bytes"]) == ("unknown", None, 30)


async def test_an_event_of_the_contract_is_shown_but_for_its_free_text(call: Call) -> None:
    await call.clock.advance(minutes=14)
    await call.consuming.take(recorded(1, "a ward"))
    [ident] = await call.idents()
    shown = await call.json("show", ident)
    assert (shown["id"], shown["key"], shown["accepted_at"]) == (ident, ref(1), "2026-11-21T09:00Z")
    assert shown["body"] == {
        "incident_ref": ref(1),
        "category": "other",
        "severity": {"scheme": "leeward", "code": "death", "level": "death"},
        "unit": "(not shown)",
        "occurred_at": "2026-11-21T08:45:00Z",
        "urgency": "routine",
        "involved": [],
    }
    lines = await call.said("show", ident)
    assert f"id          {ident}" in lines
    assert f"  incident_ref: {ref(1)}" in lines


def free_texts(schema: Any, name: str = "") -> Iterator[str]:
    """The places of a schema in which a text may be anything."""
    if isinstance(schema, list):
        for one in schema:
            yield from free_texts(one, name)
    elif isinstance(schema, dict):
        if schema.get("type") == "string" and not schema.keys() & {"pattern", "enum", "const", "format"}:
            yield name
        for key, inner in schema.items():
            yield from free_texts(inner, name if key in ("anyOf", "items") else key)


def test_nothing_else_in_an_event_is_free_text() -> None:
    assert {name for model in EVENTS.values() for name in free_texts(model.model_json_schema())} == FREE_TEXT


async def test_after_the_mend_a_replay_has_them_tried_in_their_order(call: Call) -> None:
    await call.consuming.take(recorded(1, "first"), recorded(1, "second"), recorded(2, "other"))
    await call.consuming.give_up()
    ids = await call.idents()
    call.mended()
    when = "as soon as it runs: it does not answer now"
    assert await call.said("replay", ids[2]) == [f"1 event of matching will be tried {when}"]
    assert [one["state"] for one in await call.json("list")] == ["dead", "dead", "waiting"]
    await call.retried()
    assert call.taken == ["other"]
    assert await call.said("replay", "--service", "matching") == [f"2 events of matching will be tried {when}"]
    [first, second] = await call.json("list")
    assert (first["attempts"], first["next_try"]) == (0, f"{call.clock.now():%Y-%m-%dT%H:%MZ}")
    assert (second["attempts"], second["next_try"]) == (0, None)
    await call.retried()
    assert call.taken == ["other", "first", "second"]
    assert await call.idents() == []


async def test_a_service_that_runs_is_said_to_try_them_soon(call: Call) -> None:
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    await call.consuming.take(recorded(4, "waits"))

    async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        """It listens; that is all the command wants to know."""

    async with listening(hang_up) as port:
        call.environment["LEEWARD_MATCHING_PORT"] = str(port)
        said = await call.said("replay", "--service", "matching")
    assert said == ["1 event of matching will be tried within 15 seconds"], "what waits already is tried by itself"


async def test_a_replay_takes_either_ids_or_a_service(call: Call) -> None:
    assert (await call.run("replay")).returncode == 2
    assert (await call.run("replay", "matching-1", "--service", "matching")).returncode == 2


@pytest.mark.parametrize("words", [("show",), ("replay",), ("drop", "--yes")], ids=["show", "replay", "drop"])
@pytest.mark.parametrize("ident", ["matching-999", "box-1", "anna weber", "nobody-1", "matching-" + "9" * 30])
async def test_an_unknown_id_is_not_repeated(call: Call, words: tuple[str, ...], ident: str) -> None:
    done = await call.run(*words, ident)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "dlq: there is no event of that id, or of one of them; `leeward dlq list` shows those there are\n"
    )


async def test_of_several_ids_one_that_is_unknown_leaves_everything_as_it_is(call: Call) -> None:
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    [ident] = await call.idents()
    for words in (("replay",), ("drop", "--yes")):
        assert (await call.run(*words, ident, "matching-999")).returncode == 1
    assert [one["state"] for one in await call.json("list")] == ["dead"]


async def test_a_drop_needs_a_word(call: Call) -> None:
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"), (UNKNOWN, ref(4), "{}"))
    ids = await call.idents()
    refused = await call.run("drop", *ids)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "dlq drop: nothing was dropped; what is dropped never has an effect, so say --yes\n"
    assert await call.idents() == ids
    assert await call.said("drop", "--yes", ids[0], ids[0]) == ["1 event of matching dropped"]
    assert await call.idents() == [ids[1]]


async def test_what_was_given_up_a_week_ago_stands_and_can_only_be_dropped(call: Call) -> None:
    await call.consuming.take(recorded(1, NAME))
    await call.consuming.give_up()
    await call.clock.advance(days=8)
    await call.consuming.store.write(call.consuming.parking.forget)
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    first, second = await call.idents()
    assert [one["state"] for one in await call.json("list")] == ["emptied", "dead"]
    assert (await call.said("list"))[0].endswith("dead, and nothing of what was in it is kept")
    shown = await call.json("show", first)
    assert (shown["key"], shown["body"], shown["bytes"], shown["day"]) == ("unknown", None, 0, "2026-11-21")
    assert "body        not shown: nothing of it is kept" in await call.said("show", first)

    refused = await call.run("replay", first, second)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"dlq replay: nothing of {first} is kept; see whom it may concern, then drop it\n"
    assert (await call.said("replay", "--service", "matching"))[0].startswith("1 event of matching will be tried")
    assert [one["state"] for one in await call.json("list")] == ["emptied", "waiting"]
    assert await call.said("drop", "--yes", first) == ["1 event of matching dropped"]
    assert await call.idents() == [second]


@pytest.mark.database("sqlite")
async def test_doctor_and_status_count_what_was_given_up(call: Call, leeward: Leeward) -> None:
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    now = {"LEEWARD_CLOCK": f"{call.clock.now():%Y-%m-%dT%H:%M:%SZ}"}

    async def seen() -> tuple[int, bool, bool]:
        status = json.loads((await asyncio.to_thread(leeward, "status", "--json", **now)).stdout)
        doctor = (await asyncio.to_thread(leeward, "doctor", **now)).stdout
        told = "error: matching has given up 1 events; look today: `leeward dlq list`" in doctor
        return status["services"]["matching"]["dead_letters"], "dead_letters" in status["gaps"], told

    assert await seen() == (1, True, True)
    await call.said("drop", "--yes", *await call.idents())
    assert await seen() == (0, False, False)


async def test_what_waits_cannot_be_dropped(call: Call) -> None:
    await call.consuming.take(recorded(1, "first"))
    [ident] = await call.idents()
    done = await call.run("drop", "--yes", ident)
    assert done.returncode == 1
    assert done.stderr == f"dlq drop: {ident} waits to be tried again; only what is dead can be dropped\n"
    assert await call.idents() == [ident]


@pytest.fixture
def terminal(call: Call) -> Callable[[str, str], int]:
    """`terminal("drop ID", "y")`: at a real terminal, with that typed."""

    def run(ident: str, typed: str) -> int:
        ours, theirs = pty.openpty()
        os.write(ours, f"{typed}\n".encode())
        done = nursery.run(["dlq", "drop", ident], call.environment, stdin=theirs)
        os.close(ours)
        os.close(theirs)
        return done.returncode

    return run


async def test_on_a_terminal_it_is_asked(call: Call, terminal: Callable[[str, str], int]) -> None:
    await call.consuming.take_raw((UNKNOWN, ref(3), "{}"))
    [ident] = await call.idents()
    assert await asyncio.to_thread(terminal, ident, "n") == 2
    assert await call.idents() == [ident]
    assert await asyncio.to_thread(terminal, ident, "y") == 0
    assert await call.idents() == []


@pytest.mark.database("sqlite")
async def test_a_database_that_was_not_migrated_is_named(call: Call) -> None:
    await call.consuming.store.write(lambda unit: unit.conn.execute(text("UPDATE alembic_version SET version_num='0'")))
    done = await call.run("list")
    assert done.returncode == 1
    assert done.stderr == "matching: the database is not at the newest revision; run `leeward migrate`\n"

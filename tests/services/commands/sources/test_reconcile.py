"""The hospital's own list beside incidents and offers: an outcome without an offer is named by its line, with why."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import select

from leeward.bus.consumer import apply_events
from leeward.contracts import Event
from leeward.contracts.envelope import decode
from leeward.service import Context
from leeward.settings import ServiceName, Settings, load_settings
from leeward.telemetry import RECONCILIATION_MISSING, RECONCILIATION_OUTCOMES, RECONCILIATION_TIME
from leeward.testing import ManualClock, eventually, member
from services.commands.console import Failed
from services.commands.sources import reconcile
from services.incident import reconciliation
from services.incident.hashing import hash_signal
from services.incident.intake.intake import Item
from services.incident.models import METADATA
from services.incident.review import queries
from services.incident.sources.native.submission import parse_report
from services.matching import build
from services.matching.models import METADATA as MATCHING
from services.matching.site import site_of
from tests.conftest import MakeContext
from tests.services.commands.conftest import Leeward, newest
from tests.services.incident.conftest import ANNA, BEN, STAFF, Desk, death, hl7
from tests.services.incident.sources.test_api import REPORT
from tests.services.matching.hospital import LIVE, Hospital, supporter
from tests.services.matching.hospital import with_policy as with_sections

HEADER = "occurred_at,unit,patient,source,source_ref"
NOW = "2026-11-21T08:50:00Z"


class World:
    """incident and matching with a bus between that carries when it is told to."""

    def __init__(self, desk: Desk, hospital: Hospital, settings: Settings) -> None:
        self.desk, self.hospital, self.settings = desk, hospital, settings
        self._carried = 0

    async def dies(
        self, patient: str, doctor: str = "A1", *, unit: str = "ICU", carry: bool = True, **more: str
    ) -> None:
        fields = {"PID_3": f"{patient}^^^HOSP", "PV1_3": unit, "PV1_7": doctor, **more}
        await self.desk.send(death(ident=f"death of {patient}", **fields))
        if carry:
            await self.carry()

    async def carry(self) -> None:
        """Let matching have what incident has published."""
        store, handlers = self.desk.context.store, self.hospital.parts.handlers
        table = store.writes.tables.outbox
        query = select(table).where(table.c.seq > self._carried).order_by(table.c.seq)
        rows = await store.read(lambda conn: conn.execute(query).all())
        events = [Event(row.id, row.key, decode(row.type, row.body), row.accepted_at) for row in rows]
        by_type = {model.type: handler for model, handler in handlers.items()}
        await self.hospital.context.store.write(lambda unit: apply_events(unit, events, by_type))
        self._carried = max([self._carried, *(row.seq for row in rows)])
        await self.hospital._listen()

    async def reconcile(self, *rows: str, header: str = HEADER) -> list[str]:
        """The reason for each line, "" where there is an offer."""
        content = "\n".join([header, *rows]).encode()
        now = self.desk.context.clock.now()
        found = await asyncio.to_thread(reconcile.compared, self.settings, content, "list.csv", now)
        assert [one.line for one in found] == list(range(2, len(rows) + 2))
        return [one.reason for one in found]

    async def reason(self, patient: str, at: str = NOW, unit: str = "ICU") -> str:
        [found] = await self.reconcile(f"{at},{unit},HOSP={patient},,")
        return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data")})


@pytest_asyncio.fixture
async def world(
    make_context: MakeContext, clock: ManualClock, settings: Settings, database: str, request: pytest.FixtureRequest
) -> World:
    desk = Desk(make_context("incident", METADATA))
    policy: dict[str, Any] = {"outreach": {**LIVE, "cover_every": None}, "incident": {"expected_units": ("HOSPICE",)}}
    settings = with_sections(settings, **policy)
    plain = make_context("matching", MATCHING)
    context = Context("matching", settings, clock, plain.store, plain.keys, plain.http)
    hospital = Hospital(context, clock, site_of(context.settings, context.keys), build(context))
    await desk.import_roster(STAFF)
    anna, ben = member("anna", person_ref=ANNA), member("ben", person_ref=BEN)
    await hospital.staff(anna, ben, supporter("sue"), supporter("tim"))
    await hospital.start()
    if database == "postgresql":
        databases = request.getfixturevalue("postgresql_databases")
        names: tuple[ServiceName, ...] = ("incident", "matching")
        keys = {f"{name.upper()}_DATABASE_URL": databases.url(name, clock) for name in names}
        settings = settings.model_copy(update={"variables": {**settings.variables, **keys}})
    else:
        for one in (desk.context, context):
            await one.store.write(newest)
    return World(desk, hospital, settings)


@pytest.mark.database("sqlite", "postgresql")
async def test_whoever_was_written_to_is_not_missing_and_remains_so(world: World, clock: ManualClock) -> None:
    await world.dies("1")
    assert await world.reason("1") == ""
    await world.hospital.outcome(world.hospital.last("anna"))
    assert await world.reason("1") == ""
    # nothing ties Anna to it any more, and yet it was not missed
    await world.hospital.forward(days=20)
    assert ANNA not in str(await world.hospital.rows_of("support_case"))
    assert await world.reason("1") == ""


@pytest.mark.database("sqlite", "postgresql")
async def test_what_no_source_has_told_of(world: World) -> None:
    await world.desk.send(hl7("A01", PID_3="1^^^HOSP"))
    assert await world.reason("1") == "no_incident"
    assert await world.reason("unheard of") == "no_incident"


async def test_a_patient_under_another_identifier(world: World) -> None:
    await world.dies("1")
    assert await world.reason("2", "2026-11-21T08:10:00Z") == "unlinked"
    assert await world.reason("2", "2026-11-21") == "unlinked"
    assert await world.reason("2", "2026-11-21T07:20:00Z") == "no_incident"
    assert await world.reason("2", unit="ER") == "no_incident"
    rows = (f"{NOW},ICU,HOSP={patient},," for patient in ("2", "1"))
    assert await world.reconcile(*rows) == ["no_incident", ""], "it is the other row's"


async def test_the_same_patient_at_another_time(world: World) -> None:
    await world.dies("1")
    assert await world.reason("1", "2026-11-18T09:00:00Z") == ""
    assert await world.reason("1", "2026-11-18T08:00:00+01:00") == "other_time"


async def test_what_waits_for_a_word_was_dismissed_or_taken_back(world: World) -> None:
    await world.desk.send(hl7("A08", PID_3="1^^^HOSP", PID_30="Y", PV1_7="A1"))
    assert await world.reason("1") == "in_review"
    [row] = await world.desk.rows("incident")
    await world.desk.context.store.write(lambda unit: queries.dismiss_incident(unit, row.incident_ref))
    assert await world.reason("1") == "dismissed"
    await world.dies("2", PV1_19="V2")
    await world.desk.send(hl7("A13", ident="3", PID_3="2^^^HOSP", PV1_19="V2"))
    assert await world.reason("2") == "retracted"


async def test_nobody_around(world: World) -> None:
    await world.dies("1", "")
    assert await world.reason("1") == "nobody_listed"
    await world.dies("2", "UNHEARD^OF")
    assert await world.reason("2") == "only_unmatched"
    await world.hospital.duty("ER", "sue", datetime.fromisoformat("2026-11-21T06:00:00Z"), 8)
    await world.dies("3", "UNHEARD^OF", unit="ER")
    assert await world.reason("3", unit="ER") == "", "Sue was on shift"


async def test_whoever_was_around_it_has_left_since(world: World) -> None:
    await world.hospital.staff(member("anna", person_ref=ANNA, status="left"), supporter("sue"))
    await world.dies("1")
    assert await world.reason("1") == "nobody_listed"


async def test_what_matching_has_not_had_yet(world: World) -> None:
    await world.dies("1", carry=False)
    assert await world.reason("1") == "no_offer"
    await world.carry()
    assert await world.reason("1") == ""


@pytest.mark.parametrize("state", ["failed", "expired", "held_too_long"])
async def test_an_offer_that_did_not_arrive(world: World, state: str) -> None:
    await world.dies("1")
    await world.hospital.outcome(world.hospital.last("anna"), state)
    assert await world.reason("1") == "offer_failed"


async def test_one_of_two_was_reached(world: World) -> None:
    await world.dies("1", "A1~B2")
    await world.hospital.outcome(world.hospital.last("anna"), "failed")
    await world.hospital.outcome(world.hospital.last("ben"))
    assert await world.reason("1") == ""


async def test_somebody_whom_no_channel_reaches(world: World) -> None:
    await world.hospital.reachable("anna", yes=False)
    await world.dies("1")
    assert await world.reason("1") == "needs_attention"


async def test_whoever_was_written_to_lately_is_not_written_to_again(world: World) -> None:
    await world.dies("1")
    await world.dies("2")
    assert await world.reason("2") == "quiet_time"
    await world.hospital.outcome(world.hospital.last("anna"), "failed")
    assert await world.reason("2") == "offer_failed", "they have had none"


async def test_where_death_is_expected(world: World) -> None:
    await world.dies("1", unit="HOSPICE")
    assert await world.reason("1", unit="HOSPICE") == "expected_unit"


async def test_in_rehearsal(world: World) -> None:
    rehearsing = with_sections(world.settings, outreach={"mode": "rehearsal", "cover_every": None})
    context = Context("matching", rehearsing, *_rest(world.hospital.context))
    world.hospital.parts = build(context)
    await world.dies("1")
    assert await world.reason("1") == "rehearsal"


def _rest(context: Context) -> tuple[Any, ...]:
    return context.clock, context.store, context.keys, context.http


async def test_so_long_ago_that_nothing_may_be_known(world: World, clock: ManualClock) -> None:
    await world.dies("1", "")
    await clock.advance(days=16)
    assert await world.reason("1") == "nobody_listed", "the coordinator's list still says so"
    await world.hospital.context.store.write(lambda unit: unit.conn.execute(MATCHING.tables["entry"].delete()))
    assert await world.reason("1") == "forgotten"


@pytest.mark.database("sqlite", "postgresql")
async def test_a_report_is_known_by_its_source_and_reference(world: World) -> None:
    report = parse_report(json.dumps(REPORT).encode()).report("safety")
    await world.desk.intake(Item("safety", b"{}", "mark", (hash_signal(report, world.desk.hasher),), "body"))
    await world.carry()
    rows = [
        f"2026-11-01,ICU,,safety,{REPORT['source_ref']}",
        f"{NOW},ICU,,safety,other",
        f"{NOW},ICU,,ehr,DX-2026-0117",
    ]
    assert await world.reconcile(*rows) == ["", "no_incident", "no_incident"]


async def test_so_is_one_that_a_feed_told_of_first(world: World) -> None:
    await world.dies("1")
    death = {**REPORT, "severity": {"scheme": "lfpse", "code": "fatal"}, "patient": {"system": "HOSP", "value": "1"}}
    report = parse_report(json.dumps(death).encode()).report("safety")
    await world.desk.intake(Item("safety", b"{}", "mark", (hash_signal(report, world.desk.hasher),), "body"))
    await world.carry()
    assert await world.reconcile(f"{NOW},ICU,,safety,{REPORT['source_ref']}") == [""]


@pytest.mark.database("sqlite", "postgresql")
async def test_the_figures_are_kept_and_shown(world: World, clock: ManualClock) -> None:
    await world.dies("1")
    await world.dies("2")
    store = world.desk.context.store
    rows = [f"{NOW},ICU,HOSP={patient},," for patient in ("1", "2", "3", "4")]
    assert await world.reconcile(*rows) == ["", "quiet_time", "no_incident", "no_incident"]
    await store.read(reconciliation.show_figures)
    assert RECONCILIATION_OUTCOMES._value.get() == 4
    assert RECONCILIATION_TIME._value.get() == clock.now().timestamp()
    assert reasons() == {"no_incident": 2}
    await clock.advance(hours=1)
    assert await world.reconcile(rows[0]) == [""]
    task: asyncio.Future[None] = asyncio.ensure_future(reconciliation.watch_figures(store)(asyncio.Event()))
    # the gauges are set one after the other, in a thread
    await eventually(lambda: not reasons() and RECONCILIATION_TIME._value.get() == clock.now().timestamp())
    task.cancel()
    assert RECONCILIATION_TIME._value.get() == clock.now().timestamp()
    assert await store.read(reconciliation.summarize) == {"day": "2026-11-21", "outcomes": 1, "missing": 0}


def reasons() -> dict[str, float]:
    [family] = RECONCILIATION_MISSING.collect()
    return {sample.labels["reason"]: sample.value for sample in family.samples}


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        (["secret,ICU,HOSP=1,,"], ["line 2, occurred_at"]),
        (["2026-11-21T08:00:00,ICU,HOSP=1,,"], ["line 2, occurred_at"]),
        (
            ["9999-12-31T00:00:00Z,ICU,HOSP=1,,", "0001-01-02,ICU,HOSP=1,,"],
            ["line 2, occurred_at", "line 3, occurred_at"],
        ),
        ([f"{NOW},ICU,HOSP=1,,", f"{NOW},,secret,,"], ["line 3, unit", "line 3, patient"]),
        ([f"{NOW},ICU,,,"], ["line 2, patient"]),
        ([f"{NOW},ICU,,secret,"], ["line 2, source_ref"]),
        ([f"{NOW},ICU"], ["line 2, row"]),
        (['"secret'], ["line 2, file"]),
    ],
)
async def test_a_list_is_read_whole_or_not_at_all(world: World, rows: list[str], faults: list[str]) -> None:
    with pytest.raises(Failed) as refused:
        await world.reconcile(*rows)
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()[:-1]] == faults
    assert "secret" not in str(refused.value)
    assert await world.desk.rows("reconciliation") == []


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("occurred_at,patient", "line 1, unit: is missing from the header"),
        ("occurred_at,unit,source", "line 1, patient: is missing from the header; or name source and source_ref"),
        ("occurred_at,unit,patient,secret", "line 1, column 4: is not a known column"),
        ("occurred_at,unit,patient,unit", "line 1, header: names a column twice"),
        ("", "line 1, occurred_at: is missing from the header"),
    ],
)
async def test_its_header_must_be_right(world: World, header: str, fault: str) -> None:
    with pytest.raises(Failed) as refused:
        await world.reconcile(header=header)
    assert str(refused.value).splitlines()[0] == fault


def test_the_command(leeward: Leeward, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"{HEADER}\n{NOW},ICU,HOSP=4711,,\n")
    done = leeward("reconcile", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == (
        "line 2: no_incident (no source has told of it)\n"
        "1 outcomes: 0 with an offer, 0 without one by design, 1 missing\n"
    )
    assert "4711" not in done.stdout
    shown = json.loads(leeward("reconcile", file, "--json").stdout)
    assert shown == {
        "outcomes": 1,
        "offered": 0,
        "missing": {"no_incident": 1},
        "by_design": {},
        "lines": [{"line": 2, "reason": "no_incident", "missing": True}],
    }

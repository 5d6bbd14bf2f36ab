"""Stored messages decided anew after a rule was mended: the missed death is found, and nobody gets anything twice."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from leeward.service import Context
from leeward.settings.policy import Rule
from leeward.store import Timer
from leeward.testing import ManualClock
from leeward.web.app import create_app
from services.incident import SERVICE
from services.incident.models import METADATA
from services.incident.replay.replay import Replay, Replayed
from services.incident.retention import delete_expired, destroy_keys
from services.incident.review import queries
from tests.replicas import behind
from tests.services.incident.conftest import (
    ANNA,
    BEN,
    NATIVE_SECRET,
    Desk,
    death,
    hl7,
    with_policy,
    with_second_source,
    with_source,
)
from tests.services.incident.sources.fhir.resources import (
    backport,
    coded,
    encounter,
    patient,
    post,
    practitioner,
    with_fhir,
)
from tests.services.incident.sources.test_api import report

PATIENT = "4711^^^HOSP^MR"
HOSPICE = {"PV1_36": "51", "PV1_7": "A1^Anna"}


def missed(ident: str = "1", event: str = "A03", **fields: str) -> bytes:
    """A death under a disposition that nobody has listed yet."""
    return hl7(event, ident=ident, **{**HOSPICE, **fields})


def mended(desk: Desk, **source: Any) -> Desk:
    """The same service after its rule was mended."""
    return with_source(desk, **{"death_dispositions": ("20", "51"), **source})


async def replay(
    desk: Desk, *, source: str = "ehr", hours: float = 24, until: datetime | None = None, dry_run: bool = False
) -> Replayed:
    context, now = desk.context, desk.context.clock.now()
    one = Replay(context.store, context.settings, context.keys, source)
    return await one.run(now - timedelta(hours=hours), until or now + timedelta(seconds=1), dry_run=dry_run)


def told(found: Replayed) -> list[tuple[str, str]]:
    return [(one.action, " ".join(one.reasons)) for one in found.decided]


@pytest.mark.database("sqlite", "postgresql")
class TestMended:
    async def test_a_missed_death_is_found_and_only_once(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(hl7("A01", ident="0"))
        await desk.send(missed())
        await clock.advance(hours=5)
        assert await desk.kinds() == []
        found = await replay(mended(desk))
        assert (found.messages, told(found)) == (2, [("recorded", "discharged_dead")])
        [(kind, body)] = await desk.events()
        assert (kind, [one["person_ref"] for one in body["involved"]]) == ("recorded", [ANNA])
        assert body["occurred_at"] == "2026-11-21T08:45:00Z"
        for _ in range(2):
            assert told(await replay(mended(desk))) == []
        assert await desk.kinds() == ["recorded"]
        assert await desk.states() == ["recorded"]

    async def test_a_dry_run_says_the_same_and_leaves_nothing(self, desk: Desk) -> None:
        await desk.send(missed())
        [raw] = await desk.rows("raw_message")
        before = [await desk.rows(name) for name in METADATA.tables]
        found = await replay(mended(desk), dry_run=True)
        assert told(found) == [("recorded", "discharged_dead")]
        assert (found.decided[0].raw_ref, found.decided[0].came.isoformat()) == (
            raw.raw_ref,
            "2026-11-21T09:00:00+00:00",
        )
        assert [await desk.rows(name) for name in METADATA.tables] == before
        assert told(await replay(mended(desk))) == told(found)

    async def test_under_the_same_rules_nothing_changes(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(hl7("A01", ident="1"))
        await desk.send(death(ident="2"))
        await desk.send(hl7("A13", ident="3"))
        await clock.advance(minutes=40)
        await desk.send(death(ident="4", PV1_7="B2^Ben"))
        await desk.send(hl7("A08", ident="5", PID_3="2^^^HOSP", PID_30="Y"))
        await desk.send(hl7("A01", ident="6", PID_3="3^^^HOSP", PID_30="N"))
        await desk.send(hl7("A08", ident="7", PID_3="3^^^HOSP", PID_30="Y"))
        await desk.send(death(ident="8", PID_3="OLD^^^HOSP"))
        await desk.send(hl7("A40", ident="9", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP"))
        events, states = await desk.events(), await desk.states()
        assert states == ["recorded", "recorded", "recorded", "retracted", "review"]
        await clock.advance(minutes=40)
        assert told(await replay(desk)) == []
        assert (await desk.events(), await desk.states()) == (events, states)

    async def test_what_was_cancelled_meanwhile_stays_so(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(missed("1"))
        await desk.send(hl7("A13", ident="2"))
        assert told(await replay(mended(desk))) == []
        await clock.advance(minutes=20)
        await desk.send(missed("3"))
        assert told(await replay(mended(desk))) == [("recorded", "discharged_dead")]
        assert await desk.kinds() == ["recorded"]

    async def test_so_does_what_another_feed_has_cancelled_after_the_window(
        self, desk: Desk, clock: ManualClock
    ) -> None:
        both = with_second_source(desk)
        await both.send(missed("1"))
        until = clock.now() + timedelta(minutes=1)
        await clock.advance(minutes=30)
        await both.send(hl7("A13", ident="2").replace(b"|EHR|", b"|LAB|"))
        assert told(await replay(mended(both), until=until)) == []
        assert await desk.kinds() == []

    async def test_so_does_what_is_cancelled_at_the_last_moment(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await desk.send(missed("1"))
        decide = Replay._decide

        async def late(*given: Any, **named: Any) -> Any:
            await desk.send(hl7("A13", ident="2"))
            return await decide(*given, **named)

        monkeypatch.setattr(Replay, "_decide", late)
        assert told(await replay(mended(desk))) == []
        assert await desk.kinds() == []

    async def test_what_was_taken_back_and_stands_by_the_new_rule_is_for_a_person(self, desk: Desk) -> None:
        """Discharged dead, then under a code that the site had not listed: to the old rules that took it back."""
        await desk.send(death(ident="1"))
        await desk.send(missed("2", "A08"))
        assert await desk.kinds() == ["recorded", "retracted"]
        assert told(await replay(mended(desk))) == [("reviewed", "discharged_dead retracted_before")]
        assert told(await replay(mended(desk))) == []
        assert await desk.states() == ["retracted", "review"]
        assert await desk.kinds() == ["recorded", "retracted"]

    async def test_a_cancellation_that_came_before_the_death_does_not_take_it_back(
        self, desk: Desk, clock: ManualClock
    ) -> None:
        await desk.send(hl7("A01", ident="1", PID_30="N"))
        await clock.advance(hours=2)
        await desk.send(hl7("A13", ident="2"))
        await desk.send(hl7("A08", ident="3", PID_30="Y"))
        assert await desk.kinds() == ["recorded"]
        assert told(await replay(mended(desk), hours=1)) == []
        assert await desk.kinds() == ["recorded"]

    async def test_a_rule_of_the_sites_own_that_was_forgotten(self, desk: Desk) -> None:
        await desk.send(hl7("R01", kind="ORU^", PV1_7="A1", OBX_3="DEATH", OBX_5="Y", OBX_11="F"))
        rule = Rule(name="ward_book", segment="OBX", when={"3": ("DEATH",), "5": ("Y",)})
        assert told(await replay(with_source(desk, rules=(rule,)))) == [("recorded", "site_rule")]
        assert await desk.kinds() == ["recorded"]

    async def test_an_identifier_that_a_rule_now_knows_serves_the_incident_there_is(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PV1_7="A1^Anna~B2^Ben^^^^^^^WARD"))
        assert [one["person_ref"] for one in (await desk.events())[0][1]["involved"]] == [ANNA]
        found = await replay(with_source(desk, identifier_systems={"WARD": "ehr"}))
        assert [action for action, _ in told(found)] == ["changed"]
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [BEN]

    async def test_a_patient_by_another_name_is_no_second_death(self, desk: Desk) -> None:
        await desk.send(death(ident="1"))
        found = await replay(with_source(desk, identifier_systems={"HOSP": "mrn"}))
        assert told(found) == []
        assert await desk.kinds() == ["recorded"]
        # and its next message is about the same incident
        await with_source(desk, identifier_systems={"HOSP": "mrn"}).send(hl7("A13", ident="2"))
        assert await desk.kinds() == ["recorded", "retracted"]

    async def test_a_doubt_that_is_none_any_more(self, desk: Desk) -> None:
        await desk.send(missed("1", PID_30="Y"))
        assert await desk.states() == ["review"]
        assert told(await replay(mended(desk))) == [("recorded", "discharged_dead")]
        assert await desk.states() == ["dismissed", "recorded"]

    async def test_what_only_the_indicator_says_is_not_decided_twice(self, desk: Desk) -> None:
        await desk.send(hl7("A08", ident="1", PID_30="Y"))
        await desk.send(hl7("A31", ident="2", PID_30="N"))
        [row] = await desk.rows("incident")
        await desk.context.store.write(lambda unit: queries.dismiss_incident(unit, row.incident_ref))
        assert told(await replay(mended(desk))) == []
        assert await desk.kinds() == []

    async def test_order_holds_within_a_batch(self, desk: Desk) -> None:
        """All at once and at one time of the clock: admitted alive, dead, taken back, dead again."""
        patients = [f"{n}^^^HOSP" for n in range(30)]
        messages = [
            [missed(f"{p}1", PID_3=p), hl7("A13", ident=f"{p}2", PID_3=p), missed(f"{p}3", PID_3=p, PV1_7="B2^Ben")]
            for p in patients
        ]
        messages += [[hl7("A13", ident=f"{p}4", PID_3=p)] for p in patients[20:]]
        await asyncio.gather(*(desk.send(one) for group in messages for one in group))
        found = await replay(mended(desk))
        assert told(found) == [("recorded", "discharged_dead")] * 20
        assert {one["person_ref"] for _, body in await desk.events() for one in body["involved"]} == {BEN}

    async def test_more_than_one_batch(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.incident.replay.replay.AT_ONCE", 7)
        for n in range(20):
            await desk.send(missed(f"{n}a", PID_3=f"{n}^^^HOSP", PV1_19=f"V{n}"))
            await desk.send(missed(f"{n}b", PID_3=f"{n}^^^HOSP", PV1_19=f"V{n}", PV1_7="B2^Ben"))
        dry = await replay(mended(desk), dry_run=True)
        found = await replay(mended(desk))
        assert [one for one in told(found) if one[0] == "recorded"] == [("recorded", "discharged_dead")] * 20
        assert [one for one in told(dry) if one[0] == "recorded"] == [("recorded", "discharged_dead")] * 20
        assert sorted(await desk.kinds()) == ["amended"] * 20 + ["recorded"] * 20


class TestWindow:
    async def test_only_what_came_in_it_and_from_there(self, desk: Desk, clock: ManualClock) -> None:
        both = with_second_source(desk)
        for n in range(3):
            await both.send(missed(str(n), PID_3=f"{n}^^^HOSP", PV1_19=f"V{n}"))
            await clock.advance(hours=2)
        await both.send(missed("4", PID_3="4^^^HOSP").replace(b"|EHR|", b"|LAB|"))
        now = clock.now()
        found = await replay(mended(both), hours=5, until=now - timedelta(hours=3))
        assert (found.messages, len(found.decided)) == (1, 1)
        assert len(await desk.rows("incident")) == 1

    async def test_what_is_recent_goes_by_when_it_came(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(missed("1", PV1_45="20261107100000"))
        await clock.advance(hours=40)
        assert told(await replay(mended(desk), hours=48)) == [("recorded", "discharged_dead")]
        await desk.send(missed("2", PID_3="2^^^HOSP", PV1_19="V2", PV1_45="20261107100000"))
        assert told(await replay(mended(desk), hours=48)) == [("reviewed", "discharged_dead older")]

    async def test_after_72_hours_nothing_can_be_replayed(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(missed())
        await clock.advance(hours=71)
        assert len((await replay(mended(desk), hours=80, dry_run=True)).decided) == 1
        await clock.advance(hours=1)
        [timer] = await desk.rows("timer")
        await desk.context.store.write(lambda unit: destroy_keys(unit, [Timer(timer.name, timer.key, timer.due_at)]))
        await desk.context.store.write(delete_expired)
        found = await replay(mended(desk), hours=80)
        assert (found.messages, found.decided, found.oldest_key) == (0, [], None)

    async def test_messages_without_their_key_are_counted(self, desk: Desk, clock: ManualClock) -> None:
        await desk.send(missed("1"))
        await clock.advance(days=1)
        await desk.send(missed("2", PID_3="2^^^HOSP", PV1_19="V2"))
        keys = METADATA.tables["day_key"]
        first = min(await desk.rows("day_key"), key=lambda row: row.made_at)
        # as after a restore from a backup without keys
        await desk.context.store.write(
            lambda unit: unit.conn.execute(keys.delete().where(keys.c.key_ref == first.key_ref))
        )
        found = await replay(mended(desk), hours=48)
        assert (found.messages, found.refused, len(found.decided)) == (2, {"key_destroyed": 1}, 1)
        assert found.oldest_key == clock.now()

    async def test_what_the_rules_refuse_now_is_counted(self, desk: Desk) -> None:
        await desk.send(missed())
        found = await replay(mended(desk, processing_ids=("T",)))
        assert (found.refused, found.decided) == ({"processing_id": 1}, [])


class TestReports:
    @pytest.mark.database("sqlite", "postgresql")
    async def test_a_report_under_a_level_that_is_taken_up_now(self, desk: Desk, web: httpx.AsyncClient) -> None:
        moderate = {"scheme": "lfpse", "code": "moderate"}
        await report(web, severity=moderate)
        await report(web, source_ref="two")
        rows = "source_ref,occurred_at,category,severity_scheme,severity_code,unit,involved\n" + "\n".join(
            f"T{n},2026-11-21T08:40:00Z,fall,lfpse,{code},ICU,ehr=B2" for n, code in enumerate(("moderate", "low"))
        )
        headers = {**dict(web.headers), "Authorization": f"Bearer {NATIVE_SECRET}", "Content-Type": "text/csv"}
        assert (await web.post("/v1/incidents", headers=headers, content=rows)).status_code == 202
        assert await desk.kinds() == ["recorded"]
        lower = with_policy(desk, trigger_levels=("death", "severe", "moderate"))
        found = await replay(lower, source="safety")
        assert (found.messages, told(found)) == (3, [("recorded", "trigger_level")] * 2)
        assert told(await replay(lower, source="safety")) == []
        assert await desk.kinds() == ["recorded"] * 3

    async def test_a_death_that_a_feed_has_recorded_is_one(self, desk: Desk, web: httpx.AsyncClient) -> None:
        await report(web, severity={"scheme": "lfpse", "code": "fatal"}, patient={"system": "hosp", "value": "4711"})
        await desk.send(missed())
        found = await replay(mended(desk))
        assert await desk.kinds() == ["recorded"]
        assert told(found) == []


@pytest.mark.database("sqlite", "postgresql")
async def test_what_a_fhir_server_has_sent_is_decided_anew_as_well(desk: Desk) -> None:
    chart = with_fhir(desk)
    app = create_app(chart.context, SERVICE.build(chart.context).router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://incident") as door:
        told_of = encounter(disposition=coded("oth"))
        assert (await post(door, backport(told_of, patient(), practitioner(), focus="Encounter/e1"))).status_code == 204
    assert await chart.kinds() == []
    lists_it = with_fhir(desk, death_dispositions=("oth",))
    assert told(await replay(lists_it, source="chart")) == [("recorded", "discharged_dead")]
    assert told(await replay(lists_it, source="chart")) == []
    [(_, body)] = await chart.events()
    assert [one["person_ref"] for one in body["involved"]] == [ANNA]


@pytest.mark.database("postgresql")
async def test_a_death_that_the_service_records_at_that_moment_is_one(
    desk: Desk, make_context: Callable[..., Context]
) -> None:
    other = Desk(make_context("incident", METADATA))
    await desk.send(missed("1"))
    await behind(
        other.context.store, lambda: replay(mended(other)), lambda: desk.send(death(ident="2", PV1_7="B2^Ben"))
    )
    assert sorted(await desk.kinds()) == ["amended", "recorded"]


async def test_beside_a_running_service(desk: Desk) -> None:
    for n in range(60):
        await desk.send(missed(f"{n}", PID_3=f"{n}^^^HOSP", PV1_19=f"V{n}"))
    live = [mended(desk).send(missed(f"{n}b", PID_3=f"{n}^^^HOSP", PV1_19=f"V{n}")) for n in range(60)]
    await asyncio.gather(replay(mended(desk)), *live)
    assert await desk.states() == ["recorded"] * 60
    assert await desk.kinds() == ["recorded"] * 60

"""FHIR at the door: what is decided of each resource, and how what does not fit is refused."""

import asyncio
import json
import logging
from typing import Any

import pytest

from leeward.telemetry import REGISTRY
from tests.services.incident.conftest import ANNA, BEN, Desk, death, full, hl7
from tests.services.incident.sources.fhir.resources import (
    BASE,
    HEADERS,
    HOME,
    Resource,
    adverse_event,
    backport,
    client,
    coded,
    encounter,
    patient,
    post,
    practitioner,
    put,
    r5,
    with_fhir,
)


async def sole(desk: Desk) -> tuple[str, dict[str, Any]]:
    [event] = await desk.events()
    return event


class TestDeaths:
    @pytest.mark.database("sqlite", "postgresql")
    @pytest.mark.parametrize("release", [backport, r5])
    async def test_an_expired_discharge_with_who_was_there(self, chart: Desk, door: Any, release: Any) -> None:
        answer = await post(door, release(encounter(), patient(), practitioner(), focus="Encounter/e1"))
        assert (answer.status_code, answer.content) == (204, b"")
        kind, body = await sole(chart)
        assert (kind, body["category"], body["unit"], body["occurred_at"]) == (
            "recorded",
            "death",
            "ICU",
            "2026-11-21T08:30:00Z",
        )
        assert body["severity"] == {"scheme": "fhir-discharge-disposition", "code": "exp", "level": "death"}
        assert [one["person_ref"] for one in body["involved"]] == [ANNA]

    async def test_an_encounter_of_r5_by_a_classic_hook(self, chart: Desk, door: Any) -> None:
        resource = encounter(disposition=None, admission={"dischargeDisposition": coded("exp")})
        resource["participant"] = [{"actor": {"identifier": {"system": "urn:oid:1.2.3", "value": "B2"}}}]
        resource["actualPeriod"] = resource.pop("period")
        assert (await put(door, resource)).status_code == 204
        _, body = await sole(chart)
        assert ([one["person_ref"] for one in body["involved"]], body["occurred_at"]) == ([BEN], "2026-11-21T08:30:00Z")

    @pytest.mark.parametrize(
        ("fields", "reasons"),
        [
            ({"deceasedBoolean": False}, "disposition_denied"),
            ({"deceasedDateTime": "2026-11-21T08:20:00Z"}, "discharged_dead"),
            ({}, "discharged_dead"),
        ],
    )
    async def test_with_its_patient(self, chart: Desk, door: Any, fields: Resource, reasons: str) -> None:
        await post(door, backport(encounter(), patient(**fields)))
        [row] = await chart.rows("incident")
        assert (row.reasons, row.state) == (reasons, "review" if "denied" in reasons else "recorded")

    async def test_a_patient_dies_on_the_transition_alone(self, chart: Desk, door: Any) -> None:
        await put(door, patient())
        assert await chart.states() == []
        await put(door, patient(deceasedBoolean=True))
        await put(door, patient(deceasedBoolean=True, active=False))
        assert await chart.kinds() == ["recorded"]
        await put(door, patient(deceasedBoolean=False))
        assert await chart.kinds() == ["recorded", "retracted"]

    @pytest.mark.parametrize(
        ("died", "state"),
        [
            ("2026-11-20T03:00:00+01:00", "recorded"),
            ("2026-11-20", "recorded"),
            ("2015-02-14T13:42:00+10:00", "review"),
        ],
    )
    async def test_a_patient_first_seen_dead(self, chart: Desk, door: Any, died: str, state: str) -> None:
        await put(door, patient(deceasedDateTime=died))
        assert await chart.states() == [state]

    async def test_an_encounter_that_never_was_takes_it_back(self, chart: Desk, door: Any) -> None:
        await put(door, encounter())
        await put(door, encounter(status="entered-in-error"))
        await put(door, encounter(meta={"versionId": "3"}))
        assert await chart.kinds() == ["recorded", "retracted", "recorded"]

    async def test_home_after_all(self, chart: Desk, door: Any) -> None:
        await put(door, encounter())
        await put(door, encounter(disposition=HOME))
        assert await chart.kinds() == ["recorded", "retracted"]

    @pytest.mark.parametrize("disposition", [HOME, None, {"text": "expired"}])
    async def test_the_living(self, chart: Desk, door: Any, disposition: Resource | None) -> None:
        assert (await put(door, encounter(disposition=disposition))).status_code == 204
        assert await chart.states() == []

    async def test_the_same_death_from_three_feeds_is_one(self, chart: Desk, door: Any) -> None:
        await chart.send(death(PID_3="MRN-p1^^^HOSP&1.9&ISO"))
        await post(door, backport(encounter(), patient(deceasedBoolean=True)))
        report = {
            "source_ref": "D1",
            "occurred_at": "2026-11-21T08:30:00Z",
            "category": "death",
            "severity": {"scheme": "leeward", "code": "death"},
            "unit": "ICU",
            "patient": {"system": "1.9", "value": "MRN-p1"},
            "involved": [{"system": "npi", "value": "111"}],
        }
        secret = chart.context.settings.source_secrets("safety")[0]
        answer = await door.post("/v1/incidents", headers={"Authorization": f"Bearer {secret}"}, json=report)
        assert answer.status_code == 202
        assert [kind for kind in await chart.kinds() if kind == "recorded"] == ["recorded"]

    async def test_two_deaths_in_one_unit_within_a_minute_are_two(self, chart: Desk, door: Any) -> None:
        await asyncio.gather(put(door, encounter()), put(door, encounter("e2", who="p2")))
        assert await chart.kinds() == ["recorded", "recorded"]


class TestPeople:
    async def test_a_referrer_and_a_relative_are_not_of_us(self, chart: Desk, door: Any) -> None:
        listed = [
            {"type": [coded("REF")], "individual": {"reference": "Practitioner/d1"}},
            {"type": [{"text": "Family physician"}], "individual": {"reference": "Practitioner/d1"}},
            {"individual": {"reference": "RelatedPerson/r1"}},
            {"type": [coded("ATND")], "individual": {"reference": "Practitioner/d2"}},
        ]
        people = [practitioner(), practitioner("d2", "urn:oid:1.2.3", "B2")]
        await post(door, backport(encounter(participant=listed), *people))
        _, body = await sole(chart)
        assert [one["person_ref"] for one in body["involved"]] == [BEN]
        assert await chart.rows("unmatched") == []

    async def test_a_care_team_counts_and_one_of_an_other_encounter_does_not(self, chart: Desk, door: Any) -> None:
        def team(about: str, member: str, status: str = "active") -> Resource:
            listed = [{"member": {"reference": member}}]
            about_it = {"reference": f"Encounter/{about}"}
            return {
                "resourceType": "CareTeam",
                "id": member[-2:],
                "status": status,
                "encounter": about_it,
                "participant": listed,
            }

        people = [practitioner("d2", "urn:oid:1.2.3", "B2"), practitioner("d3", "urn:oid:1.2.3", "C3")]
        teams = [
            team("e1", "Practitioner/d2"),
            team("e9", "Practitioner/d3"),
            team("e1", "Practitioner/d3", "inactive"),
        ]
        await post(door, backport(encounter(participant=[]), *teams, *people))
        _, body = await sole(chart)
        assert [one["person_ref"] for one in body["involved"]] == [BEN]

    async def test_a_role_leads_to_its_practitioner_and_contained_ones_are_found(self, chart: Desk, door: Any) -> None:
        role = {"resourceType": "PractitionerRole", "id": "r1", "practitioner": {"reference": "Practitioner/d1"}}
        inside = practitioner("c1", "urn:oid:1.2.3", "B2")
        listed = [{"individual": {"reference": one}} for one in ("PractitionerRole/r1", "#c1")]
        await post(door, backport(encounter(participant=listed, contained=[inside]), role, practitioner()))
        _, body = await sole(chart)
        assert [one["person_ref"] for one in body["involved"]] == [ANNA, BEN]

    async def test_a_contained_role_leads_to_whom_is_contained_beside_it(self, chart: Desk, door: Any) -> None:
        role = {"resourceType": "PractitionerRole", "id": "r1", "practitioner": {"reference": "#c1"}}
        contained = [role, practitioner("c1", "urn:oid:1.2.3", "B2")]
        await put(door, encounter(participant=[{"individual": {"reference": "#r1"}}], contained=contained))
        _, body = await sole(chart)
        assert [one["person_ref"] for one in body["involved"]] == [BEN]

    async def test_addresses_of_a_bundle_lead_to_what_they_are_of(self, chart: Desk, door: Any) -> None:
        ours = encounter(subject={"reference": "urn:uuid:1"}, participant=[{"individual": {"reference": "urn:uuid:2"}}])
        bundle = backport(ours, patient(deceasedDateTime="2026-11-21"), practitioner())
        for number, entry in enumerate(bundle["entry"][2:], 1):
            entry["fullUrl"] = f"urn:uuid:{number}"
            del entry["resource"]["id"]
        assert (await post(door, bundle)).status_code == 204
        _, body = await sole(chart)
        assert [one["person_ref"] for one in body["involved"]] == [ANNA]

    async def test_whom_nobody_knows_waits_and_is_served_later(self, chart: Desk, door: Any) -> None:
        await put(door, encounter())
        [row] = await chart.rows("unmatched")
        assert row.state == "open"
        assert (await chart.events())[0][1]["involved"] == []


class TestAdverseEvents:
    @pytest.mark.parametrize(
        ("fields", "level", "code"),
        [
            ({"severity": coded("severe")}, "severe", "severe"),
            ({"outcome": coded("fatal")}, "death", "fatal"),
            ({"outcome": [coded("resolved"), coded("fatal")], "severity": coded("mild")}, "death", "fatal"),
            ({"seriousness": coded("Serious")}, "severe", "Serious"),
            ({"seriousness": coded("SeriousResultsInDeath")}, "death", "SeriousResultsInDeath"),
        ],
    )
    async def test_harm(self, chart: Desk, door: Any, fields: Resource, level: str, code: str) -> None:
        await post(door, backport(adverse_event(**fields), practitioner()))
        kind, body = await sole(chart)
        assert (kind, body["category"], body["unit"]) == ("recorded", "adverse_event", "ICU")
        assert body["severity"] == {"scheme": "fhir-adverse-event", "code": code, "level": level}
        assert [one["person_ref"] for one in body["involved"]] == [ANNA]

    @pytest.mark.parametrize(
        "fields",
        [
            {"severity": coded("severe"), "actuality": "Potential"},
            {"severity": coded("moderate")},
            {"seriousness": coded("Non-serious")},
            {"outcome": coded("fatal"), "status": "entered-in-error"},
            {},
        ],
    )
    async def test_what_did_no_severe_harm_or_none_at_all(self, chart: Desk, door: Any, fields: Resource) -> None:
        assert (await put(door, adverse_event(**fields))).status_code == 204
        assert await chart.states() == []

    async def test_once_and_taken_back(self, chart: Desk, door: Any) -> None:
        severe: Resource = {"severity": coded("severe")}
        await put(door, adverse_event(**severe))
        await put(door, adverse_event(**severe, recordedDate="2026-11-21"))
        assert await chart.kinds() == ["recorded"]
        await put(door, adverse_event(**severe, actuality="potential"))
        assert await chart.kinds() == ["recorded", "retracted"]

    async def test_two_without_an_id_are_two(self, chart: Desk, door: Any) -> None:
        for who in ("p1", "p2", "p1"):
            event = adverse_event(severity=coded("severe"), subject={"reference": f"Patient/{who}"})
            del event["id"]
            assert (await post(door, event)).status_code == 204
        assert await chart.kinds() == ["recorded", "recorded"]

    async def test_a_fatal_one_meets_the_discharge(self, chart: Desk, door: Any) -> None:
        await post(door, backport(encounter(), patient()))
        await put(door, adverse_event(outcome=coded("fatal")))
        assert [kind for kind in await chart.kinds() if kind == "recorded"] == ["recorded"]

    async def test_a_sites_own_category_and_extensions(self, desk: Desk) -> None:
        chart = with_fhir(desk, categories={"E7": "failed_resuscitation"}, harm={"PhysicalHarm": {"5": "fatal"}})
        inner = {"url": "https://lfpse.example/taxonomy/PhysicalHarm", "valueCode": "5"}
        contained = {"resourceType": "Patient", "id": "x", "extension": [{"url": "o", "extension": [inner]}]}
        async with await client(chart) as door:
            event = adverse_event(event=coded("E7"), contained=[contained], subject={"reference": "#x"})
            assert (await put(door, event)).status_code == 204
        _, body = await sole(chart)
        assert (body["category"], body["severity"]["code"]) == ("failed_resuscitation", "fatal")


class TestNotifications:
    @pytest.mark.database("sqlite", "postgresql")
    async def test_what_comes_again_and_out_of_turn_counts_once(self, chart: Desk, door: Any) -> None:
        first, second = (backport(encounter(f"e{n}", who=f"p{n}"), number=n) for n in (1, 2))
        for one in (second, first, second, first, first):
            assert (await post(door, one)).status_code == 204
        assert await chart.kinds() == ["recorded", "recorded"]

    async def test_numbers_that_do_not_come_are_missed_until_they_do(self, chart: Desk, door: Any) -> None:
        def missed() -> float:
            return REGISTRY.get_sample_value("leeward_fhir_events_missed_total", {"source": "chart"}) or 0.0

        before = missed()
        await post(door, backport(kind="handshake", number=None, counted=0))
        await post(door, backport(encounter(disposition=None), number=1))
        await post(door, backport(encounter("e4", disposition=None), number=4))
        [row] = await chart.rows("subscription")
        assert (row.last_event, row.missing, missed() - before) == (4, "2 3", 2)
        await post(door, backport(encounter("e2", disposition=None), number=2, counted=9))
        await post(door, backport(kind="heartbeat", number=None, counted=5))
        [row] = await chart.rows("subscription")
        assert (row.last_event, row.missing, missed() - before) == (5, "3 5", 3)

    @pytest.mark.parametrize("kind", ["handshake", "heartbeat"])
    async def test_nothing_has_happened(self, chart: Desk, door: Any, kind: str) -> None:
        assert (await post(door, backport(kind=kind, number=None, counted=0))).status_code == 204
        assert (await chart.states(), await chart.rows("raw_message")) == ([], [])

    @pytest.mark.parametrize(
        ("body", "status", "code", "place"),
        [
            (b"{", 400, "structure", "body"),
            (b"[]", 400, "structure", "body"),
            (b"[" * 100_000, 400, "structure", "body"),
            (b'{"a":' * 200 + b"1" + b"}" * 200, 400, "structure", "body"),
            (b'{"resourceType": "Bundle", "type": "history", "x": NaN}', 400, "structure", "body"),
            ({"resourceType": "Bundle", "type": "transaction"}, 422, "not-supported", "Bundle.type"),
            ({"resourceType": "Bundle", "type": "history", "entry": []}, 400, "structure", "Bundle.entry"),
            ({"resourceType": "Bundle", "type": 7}, 400, "structure", "Bundle.type"),
            ({"type": "history"}, 400, "structure", "resourceType"),
            (encounter(status=["finished"]), 400, "structure", "Encounter.status"),
            (encounter(participant="SECRET"), 400, "structure", "Encounter.participant"),
            ({"resourceType": "SECRET", "id": ["SECRET"]}, 422, "not-supported", "resourceType"),
            (encounter(location=[{"location": {"display": "\ud800"}}]), 400, "structure", "location.display"),
            (encounter(participant=[{"individual": {"identifier": {"value": "\udfff"}}}]), 400, "structure", "value"),
            (patient("\ud800"), 400, "structure", "Patient.id"),
            (backport(kind="SECRET"), 422, "value", "Bundle.entry[0].resource.type"),
            (backport(focus="SECRET"), 422, "value", "valueReference.reference"),
        ],
    )
    async def test_what_does_not_fit(
        self, chart: Desk, door: Any, body: Any, status: int, code: str, place: str
    ) -> None:
        answer = await post(door, body)
        issue = answer.json()["issue"][0]
        assert (answer.status_code, answer.json()["resourceType"], issue["code"]) == (status, "OperationOutcome", code)
        assert place in issue["expression"][0]
        assert "SECRET" not in answer.text
        assert await chart.rows("raw_message") == []

    async def test_an_address_that_names_another_resource(self, door: Any) -> None:
        answer = await door.put("/v1/fhir/chart/Encounter/e2", headers=HEADERS, content=json.dumps(encounter()))
        assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (422, ["Encounter.id"])
        other = json.dumps({"resourceType": "SECRET of Doe", "id": "e2"})
        answer = await door.put("/v1/fhir/chart/Encounter/e2", headers=HEADERS, content=other)
        assert (answer.status_code, "SECRET" in answer.text) == (422, False)

    async def test_without_a_base_nothing_can_be_read_later(self, chart: Desk, door: Any) -> None:
        for body in (backport(focus="Encounter/e1"), backport(), b""):
            answer = await post(door, body)
            assert (answer.status_code, answer.json()["issue"][0]["code"]) == (422, "not-supported")
        assert await chart.rows("raw_message") == []

    async def test_a_focus_elsewhere_is_refused(self, desk: Desk) -> None:
        chart = with_fhir(desk, base_url=BASE)
        async with await client(chart) as door:
            for focus in (
                "https://evil.example/fhir/Encounter/1",
                f"{BASE}.evil.example/Encounter/1",
                "https://fhirserver.org@evil.example/fhir/Encounter/1",
                "https://fhirserver.org:8443/fhir/Encounter/1",
                f"{BASE}/../admin/Encounter/1",
                f"{BASE}/%2e%2e/Encounter/1",
                "//evil.example/fhir/Encounter/1",
                "http:evil.example/Encounter/1",
            ):
                answer = await post(door, backport(focus=focus))
                assert (answer.status_code, answer.json()["issue"][0]["code"]) == (422, "security")
            for focus in ("../Encounter/1", "Encounter/..", "evil.example/Encounter/1"):
                assert (await post(door, backport(focus=focus))).json()["issue"][0]["code"] == "value"
            assert await chart.rows("fetch") == []
            for focus in (f"{BASE}/Encounter/1", "Encounter/1/_history/2"):
                assert (await post(door, backport(focus=focus))).status_code == 204
        assert len(await chart.rows("fetch")) == 2

    @pytest.mark.parametrize(
        ("headers", "status"),
        [({"Authorization": ""}, 401), ({"Authorization": "Bearer x"}, 401), ({"Content-Type": "text/html"}, 415)],
    )
    async def test_strangers(self, door: Any, headers: dict[str, str], status: int) -> None:
        answer = await post(door, encounter(), **headers)
        assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome")

    async def test_another_sources_name_or_secret_opens_nothing(self, chart: Desk, door: Any) -> None:
        for path in ("ehr", "nobody"):
            assert (await door.post(f"/v1/fhir/{path}", headers=HEADERS, content=b"{}")).status_code == 401

    @pytest.mark.database("sqlite")
    async def test_a_full_disk(self, chart: Desk, door: Any) -> None:
        big = encounter(text={"div": "x" * 200_000})
        with full(chart):
            answer = await put(door, big)
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["issue"][0]["code"]) == (
            503,
            "5",
            "transient",
        )
        assert (await put(door, big)).status_code == 204
        assert await chart.kinds() == ["recorded"]

    async def test_unknown_resources_are_taken_and_mean_nothing(self, chart: Desk, door: Any) -> None:
        assert (await put(door, {"resourceType": "Basic", "id": "b1"})).status_code == 204
        assert await chart.states() == []


async def test_no_text_of_a_message_is_in_the_log(chart: Desk, door: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await post(door, backport(encounter(text={"div": "SECRET"}), patient(name=[{"family": "SECRET"}])))
    await post(door, b'{"resourceType": "SECRET", "id": ["SECRET"]}')
    assert "SECRET" not in caplog.text


async def test_an_hl7_cancellation_of_the_same_visit_takes_a_fhir_death_back(chart: Desk, door: Any) -> None:
    shared: Resource = {"identifier": [{"value": "V1"}]}
    await post(door, backport(encounter(**shared), patient()))
    await chart.send(hl7("A13", PID_3="MRN-p1^^^HOSP&1.9&ISO"))
    assert await chart.kinds() == ["recorded", "retracted"]

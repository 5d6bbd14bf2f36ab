"""The routes, through the real app: sources with a token or a signature, and the coordinator."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from tests.services.incident.conftest import (
    ANNA,
    BEN,
    CARO,
    HL7_SECRET,
    NATIVE_SECRET,
    STAFF,
    Desk,
    codes,
    death,
    full,
    hl7,
    refused,
)

REPORT: dict[str, Any] = {
    "source_ref": "DX-2026-0117",
    "occurred_at": "2026-11-21T08:40:00Z",
    "category": "medication_error",
    "severity": {"scheme": "ahrq-harm", "code": "severe-harm"},
    "unit": "ICU",
    "involved": [{"system": "npi", "value": "111"}],
}
EHR = {"Authorization": f"Bearer {HL7_SECRET}", "Content-Type": "application/hl7-v2"}
SAFETY = {"Authorization": f"Bearer {NATIVE_SECRET}", "Content-Type": "application/json"}


async def report(web: httpx.AsyncClient, key: str | None = None, **changes: Any) -> httpx.Response:
    headers = {**SAFETY, **({"Idempotency-Key": key} if key else {})}
    return await web.post("/v1/incidents", headers=headers, content=json.dumps({**REPORT, **changes}))


class TestHl7OverHttp:
    @pytest.mark.database("sqlite", "postgresql")
    async def test_the_answer_is_the_acknowledgement(self, desk: Desk, web: httpx.AsyncClient) -> None:
        answer = await web.post("/v1/hl7v2", headers=EHR, content=death())
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/hl7-v2")
        assert codes([answer.content]) == ["AA"]
        assert await desk.kinds() == ["recorded"]

    async def test_a_refusal_comes_with_200_as_well(self, web: httpx.AsyncClient) -> None:
        answer = await web.post("/v1/hl7v2", headers=EHR, content=b"rubbish")
        assert (answer.status_code, codes([answer.content])) == (200, ["AR"])

    async def test_who_wants_no_acknowledgement_gets_none(self, web: httpx.AsyncClient) -> None:
        answer = await web.post("/v1/hl7v2", headers=EHR, content=hl7(msh="|||NE|NE"))
        assert (answer.status_code, answer.content) == (200, b"")

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Content-Type": "application/hl7-v2"}, 401),
            ({**EHR, "Authorization": "Bearer wrong"}, 401),
            ({**EHR, "Authorization": f"Bearer {NATIVE_SECRET}"}, 401),
            ({**EHR, "Content-Type": "text/plain"}, 415),
        ],
    )
    async def test_strangers(self, web: httpx.AsyncClient, headers: dict[str, str], status: int) -> None:
        reason = "media_type" if status == 415 else "unknown_sender"
        before = refused(reason)
        answer = await web.post("/v1/hl7v2", headers=headers, content=death())
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert refused(reason) == before + 1

    async def test_more_than_a_mebibyte(self, web: httpx.AsyncClient) -> None:
        async def parts() -> AsyncIterator[bytes]:
            yield hl7(OBX_5="x" * 1_100_000)

        before = refused("too_large")
        for content in (hl7(OBX_5="x" * 1_100_000), parts()):
            answer = await web.post("/v1/hl7v2", headers=EHR, content=content)
            assert answer.status_code == 413
        assert refused("too_large") == before + 2

    @pytest.mark.database("sqlite")
    async def test_a_full_disk(self, desk: Desk, web: httpx.AsyncClient) -> None:
        with full(desk):
            answer = await web.post("/v1/hl7v2", headers=EHR, content=death(NTE_3="x" * 200_000))
        assert answer.status_code == 503
        assert b"MSA" not in answer.content
        assert (await web.post("/v1/hl7v2", headers=EHR, content=death(NTE_3="x" * 200_000))).status_code == 200
        assert await desk.kinds() == ["recorded"]


class TestNative:
    @pytest.mark.database("sqlite", "postgresql")
    async def test_a_report_gets_a_receipt_and_is_recorded(self, desk: Desk, web: httpx.AsyncClient) -> None:
        answer = await report(web, urgency="urgent", reviewers=[{"system": "ehr", "value": "B2"}])
        assert (answer.status_code, list(answer.json())) == (202, ["receipt"])
        [(kind, body)] = await desk.events()
        assert kind == "recorded"
        assert body["incident_ref"] != answer.json()["receipt"]
        assert body["involved"] == [
            {"person_ref": ANNA, "role": "involved", "reviewer": False},
            {"person_ref": BEN, "role": "involved", "reviewer": True},
        ]
        assert body["severity"] == {"scheme": "ahrq-harm", "code": "severe-harm", "level": "severe"}
        assert (body["urgency"], body["occurred_at"]) == ("urgent", "2026-11-21T08:30:00Z")

    async def test_a_signature_will_do(self, desk: Desk, web: httpx.AsyncClient) -> None:
        body = json.dumps(REPORT)
        headers = signed(body)
        first = await web.post("/v1/incidents", headers=headers, content=body)
        again = await web.post("/v1/incidents", headers=headers, content=body)
        assert first.status_code == 202
        assert first.json() == again.json()
        forged = await web.post("/v1/incidents", headers=headers, content=body.replace("ICU", "ER"))
        assert forged.status_code == 401
        assert await desk.kinds() == ["recorded"]

    @pytest.mark.parametrize("signature", ["", "v1", "v1,", "v1,!!", "v2,abc", "v1,AAAA"])
    async def test_no_signature_breaks_it(self, web: httpx.AsyncClient, signature: str) -> None:
        headers = {**signed("{}"), "webhook-signature": signature}
        assert (await web.post("/v1/incidents", headers=headers, content="{}")).status_code == 401

    async def test_an_old_signature_is_none(self, web: httpx.AsyncClient) -> None:
        headers = signed("{}", datetime(2026, 1, 1, tzinfo=UTC))
        assert (await web.post("/v1/incidents", headers=headers, content="{}")).status_code == 401

    @pytest.mark.database("sqlite", "postgresql")
    async def test_the_same_key_and_body_has_the_same_receipt(self, desk: Desk, web: httpx.AsyncClient) -> None:
        first, again = await report(web, "k1"), await report(web, "k1")
        assert (first.json(), again.status_code) == (again.json(), 202)
        other = await report(web, "k1", unit="ER")
        assert (other.status_code, other.json()["title"]) == (422, "key reused")
        assert await desk.kinds() == ["recorded"]

    @pytest.mark.database("sqlite", "postgresql")
    async def test_the_same_source_ref_is_the_same_incident(self, desk: Desk, web: httpx.AsyncClient) -> None:
        await report(web, "k1")
        await report(web, "k2", involved=[{"system": "ehr", "value": "B2"}, {"system": "ehr", "value": "A1"}])
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [BEN]

    @pytest.mark.parametrize(
        ("changes", "state"),
        [
            ({"severity": {"scheme": "ncc-merp", "code": "I"}}, "recorded"),
            ({"severity": {"scheme": "ncc-merp", "code": "F"}}, None),
            ({"severity": {"scheme": "va-sac", "code": "3"}}, "recorded"),
            ({"severity": {"scheme": "wa-sac", "code": "3"}}, None),
            ({"severity": {"scheme": "wa-sac", "code": "1"}}, "recorded"),
            ({"severity": {"scheme": "lfpse", "code": "fatal"}}, "recorded"),
            ({"severity": {"scheme": "leeward", "code": "unknown"}}, None),
            ({"severity": {"scheme": "leeward", "code": "none"}, "category": "assault"}, "recorded"),
            ({"severity": {"scheme": "leeward", "code": "death"}, "category": "colleague_as_patient"}, "review"),
            ({"occurred_at": "2026-11-01T08:00:00+01:00"}, "review"),
        ],
    )
    async def test_what_is_severe(
        self, desk: Desk, web: httpx.AsyncClient, changes: dict[str, Any], state: str | None
    ) -> None:
        assert (await report(web, **changes)).status_code == 202
        assert await desk.states() == ([state] if state else [])
        assert await desk.kinds() == (["recorded"] if state == "recorded" else [])

    @pytest.mark.database("sqlite", "postgresql")
    async def test_a_death_that_a_feed_knows_is_one(self, desk: Desk, web: httpx.AsyncClient) -> None:
        await desk.send(death(PID_3="4711^^^MRN^MR"))
        fatal = {"scheme": "lfpse", "code": "fatal"}
        await report(
            web, severity=fatal, patient={"system": "mrn", "value": "4711"}, involved=[{"system": "ehr", "value": "C3"}]
        )
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [CARO]

    async def test_a_report_for_review_does_not_hide_a_recorded_death(self, desk: Desk, web: httpx.AsyncClient) -> None:
        await desk.send(death(PID_3="4711^^^MRN^MR"))
        fatal, patient = {"scheme": "lfpse", "code": "fatal"}, {"system": "mrn", "value": "4711"}
        await report(web, severity=fatal, patient=patient, category="colleague_as_patient")
        assert await desk.states() == ["recorded", "review"]
        await desk.send(hl7("A13", ident="2", PID_3="4711^^^MRN^MR"))
        assert await desk.kinds() == ["recorded", "retracted"]

    @pytest.mark.parametrize(
        ("changes", "place"),
        [
            ({"severity": {"scheme": "secret", "code": "1"}}, "severity"),
            ({"severity": {"scheme": "va-sac", "code": "secret"}}, "severity"),
            ({"occurred_at": "secret"}, "occurred_at"),
            ({"occurred_at": "2026-11-21T08:40:00"}, "occurred_at"),
            ({"secret": 1}, "body"),
            ({"patient": {"system": "mrn", "value": "1", "secret": "x"}}, "patient"),
            ({"urgency": "secret"}, "urgency"),
            ({"involved": "secret"}, "involved"),
            ({"category": "Secret!"}, "category"),
            ({"unit": "\u0001secret"}, "unit"),
        ],
    )
    async def test_a_fault_is_named_by_place_and_rule_alone(
        self, web: httpx.AsyncClient, changes: dict[str, Any], place: str
    ) -> None:
        answer = await report(web, **changes)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert [error["place"] for error in answer.json()["errors"]] == [place]
        assert "secret" not in answer.text.lower()

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"' + b"x" * 100])
    async def test_what_is_no_report(self, web: httpx.AsyncClient, body: bytes) -> None:
        assert (await web.post("/v1/incidents", headers=SAFETY, content=body)).status_code == 422

    @pytest.mark.database("sqlite")
    async def test_a_full_disk(self, desk: Desk, web: httpx.AsyncClient) -> None:
        involved = [{"system": "ehr", "value": "x" * 190 + str(n)} for n in range(200)]
        with full(desk):
            assert (await report(web, involved=involved)).status_code == 503
        assert await desk.states() == []


def signed(body: str, at: datetime | None = None) -> dict[str, str]:
    moment = at or datetime.now(UTC)
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(int(moment.timestamp()))}
    signature = Webhook(NATIVE_SECRET).sign("msg_1", moment, body)
    return {**headers, "webhook-signature": signature, "content-type": "application/json"}


@pytest.mark.database("sqlite", "postgresql")
class TestReview:
    @pytest_asyncio.fixture
    async def ref(self, desk: Desk) -> str:
        await desk.send(hl7("A08", PID_30="Y", PV1_7="A1~ZZ"))
        ref: str = (await desk.rows("incident"))[0].incident_ref
        return ref

    async def test_what_the_coordinator_sees(self, coordinator: httpx.AsyncClient, ref: str) -> None:
        answer = await coordinator.get("/v1/incidents", params={"state": "review"})
        assert answer.json() == {
            "items": [
                {
                    "incident_ref": ref,
                    "state": "review",
                    "category": "death",
                    "level": "death",
                    "reasons": ["indicator_first_seen"],
                    "day": "2026-11-21",
                }
            ],
            "next": None,
        }
        assert (await coordinator.get(f"/v1/incidents/{ref}")).json() == answer.json()["items"][0]
        assert (await coordinator.get("/v1/incidents", params={"state": "recorded"})).json()["items"] == []

    async def test_a_confirmed_one_is_published_once(
        self, desk: Desk, coordinator: httpx.AsyncClient, ref: str
    ) -> None:
        for _ in range(2):
            answer = await coordinator.post(f"/v1/incidents/{ref}/confirm")
            assert (answer.status_code, answer.json()["state"]) == (200, "recorded")
        [(kind, body)] = await desk.events()
        assert (kind, body["incident_ref"]) == ("recorded", ref)
        assert [one["person_ref"] for one in body["involved"]] == [ANNA]
        assert (await coordinator.post(f"/v1/incidents/{ref}/dismiss")).status_code == 409

    async def test_after_that_the_patients_death_is_known(
        self, desk: Desk, coordinator: httpx.AsyncClient, ref: str
    ) -> None:
        await coordinator.post(f"/v1/incidents/{ref}/confirm")
        await desk.send(death(ident="2"))
        assert await desk.kinds() == ["recorded"]
        await desk.send(hl7("A13", ident="3"))
        assert await desk.kinds() == ["recorded", "retracted"]

    async def test_a_dismissed_one_is_over_and_its_people_forgotten(
        self, desk: Desk, coordinator: httpx.AsyncClient, ref: str
    ) -> None:
        for _ in range(2):
            assert (await coordinator.post(f"/v1/incidents/{ref}/dismiss")).json()["state"] == "dismissed"
        assert (await coordinator.post(f"/v1/incidents/{ref}/confirm")).status_code == 409
        assert await desk.rows("involved") == []
        assert await desk.rows("unmatched_link") == []
        await desk.send(hl7("A08", ident="2", PID_30="Y", PV1_36="01"))
        assert await desk.states() == ["dismissed"]
        await desk.send(death(ident="3"))
        assert await desk.kinds() == ["recorded"]

    async def test_the_list_comes_in_pages_the_newest_first(self, desk: Desk, coordinator: httpx.AsyncClient) -> None:
        for n in range(5):
            await desk.send(hl7("A08", ident=str(n), PID_3=f"{n}^^^H", PID_30="Y"))
            await desk.context.clock.advance(hours=1)  # type: ignore[attr-defined]
        seen: list[str] = []
        cursor: str | None = None
        while len(seen) < 5:
            params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
            page = (await coordinator.get("/v1/incidents", params=params)).json()
            seen += [item["incident_ref"] for item in page["items"]]
            cursor = page["next"]
        rows = sorted(await desk.rows("incident"), key=lambda row: row.accepted_at, reverse=True)
        assert seen == [row.incident_ref for row in rows]
        assert cursor is None

    @pytest.mark.parametrize("cursor", ["!!!", base64.urlsafe_b64encode(b"no such").decode()])
    async def test_a_cursor_that_is_none(self, coordinator: httpx.AsyncClient, cursor: str) -> None:
        assert (await coordinator.get("/v1/incidents", params={"cursor": cursor})).status_code == 422

    async def test_what_is_not_there(self, coordinator: httpx.AsyncClient) -> None:
        for path in ("", "/confirm", "/dismiss"):
            send = coordinator.post if path else coordinator.get
            assert (await send(f"/v1/incidents/none{path}")).status_code == 404

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/v1/incidents"),
            ("GET", "/v1/incidents/x"),
            ("POST", "/v1/incidents/x/confirm"),
            ("POST", "/v1/incidents/x/dismiss"),
            ("GET", "/v1/unmatched"),
            ("POST", "/v1/unmatched/x/resolve"),
        ],
    )
    async def test_without_a_token_there_is_nothing(self, web: httpx.AsyncClient, method: str, path: str) -> None:
        assert (await web.request(method, path)).status_code == 401


@pytest.mark.database("sqlite", "postgresql")
class TestWorkQueue:
    @pytest_asyncio.fixture
    async def item(self, desk: Desk, coordinator: httpx.AsyncClient) -> AsyncIterator[dict[str, Any]]:
        await desk.send(death(PV1_7="ZZ9~A1"))
        [found] = (await coordinator.get("/v1/unmatched")).json()["items"]
        yield found

    async def test_it_shows_the_identifier_alone(self, item: dict[str, Any]) -> None:
        assert {key: value for key, value in item.items() if key != "id"} == {
            "system": "ehr",
            "value": "ZZ9",
            "authority": "",
        }

    async def test_a_resolved_one_is_served(
        self, desk: Desk, coordinator: httpx.AsyncClient, item: dict[str, Any]
    ) -> None:
        body = {"same_as": {"system": "ehr", "value": "B2"}}
        answer = await coordinator.post(f"/v1/unmatched/{item['id']}/resolve", json=body)
        assert (answer.status_code, answer.json()["state"]) == (200, "resolved")
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [BEN]
        assert (await coordinator.get("/v1/unmatched")).json()["items"] == []
        await desk.send(death(ident="2", PID_3="2^^^H", PV1_7="ZZ9"))
        assert [one["person_ref"] for one in (await desk.events())[2][1]["involved"]] == [BEN]

    async def test_what_was_resolved_outlives_imports_as_long_as_the_person_stays(
        self, desk: Desk, coordinator: httpx.AsyncClient, item: dict[str, Any]
    ) -> None:
        body = {"same_as": {"system": "ehr", "value": "B2"}}
        await coordinator.post(f"/v1/unmatched/{item['id']}/resolve", json=body)
        listed = []
        for n, members in enumerate((STAFF, [STAFF[0], STAFF[2]], STAFF)):
            await desk.import_roster(members)
            await desk.send(death(ident=f"again {n}", PID_3=f"{n}^^^AGAIN", PV1_7="ZZ9"))
            listed.append([one["person_ref"] for one in (await desk.events())[-1][1]["involved"]])
        assert listed == [[BEN], [], [BEN]]

    async def test_an_ignored_one_does_not_come_back(
        self, desk: Desk, coordinator: httpx.AsyncClient, item: dict[str, Any]
    ) -> None:
        answer = await coordinator.post(f"/v1/unmatched/{item['id']}/resolve", json={"ignore": True})
        assert answer.json()["state"] == "ignored"
        await desk.send(death(ident="2", PID_3="2^^^H", PV1_7="ZZ9"))
        assert (await coordinator.get("/v1/unmatched")).json()["items"] == []
        assert await desk.rows("unmatched_link") == []
        assert (await coordinator.post(f"/v1/unmatched/{item['id']}/resolve", json={"ignore": True})).status_code == 404

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"ignore": False},
            {"ignore": True, "same_as": {"system": "ehr", "value": "B2"}},
            {"same_as": {"system": "ehr", "value": "SECRET"}},
            {"same_as": {"system": "ehr"}},
        ],
    )
    async def test_what_resolves_nothing(
        self, desk: Desk, coordinator: httpx.AsyncClient, item: dict[str, Any], body: dict[str, Any]
    ) -> None:
        answer = await coordinator.post(f"/v1/unmatched/{item['id']}/resolve", json=body)
        assert answer.status_code == 422
        assert "SECRET" not in answer.text
        assert await desk.kinds() == ["recorded"]

    async def test_nothing_in_the_queue_tells_of_an_incident(self, desk: Desk, item: dict[str, Any]) -> None:
        [incident] = await desk.rows("incident")
        assert incident.incident_ref not in json.dumps(item)

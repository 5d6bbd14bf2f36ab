"""Native reports: signatures that rotate and age, keys for repeating, and an incident system's export as a table."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from starlette.requests import Request

from leeward.settings import Settings, load_settings
from leeward.testing import ManualClock
from services.incident.retention import delete_expired
from services.incident.sources.access import signed_at
from tests.services.incident.conftest import ANNA, BEN, NATIVE_SECRET, Desk, death, full, hl7, refused
from tests.services.incident.sources.test_api import REPORT, SAFETY, report

NEW_SECRET = "whsec_" + "bmV3LXNlY3JldC1vZi10aGlydHktdHdvLWJ5dGVzLSE="
TOKEN = "a-bearer-token-that-is-on-its-way-out"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """In the middle of a rotation: the newest secret first."""
    variables = {f"LEEWARD_{name}": value for name, value in settings.variables.items()}
    return load_settings({**variables, "LEEWARD_SOURCE_SAFETY_SECRET": f"{NEW_SECRET} {NATIVE_SECRET}\n{TOKEN}"})


def signed(body: str, secret: str = NEW_SECRET, *, ago: timedelta = timedelta(0)) -> dict[str, str]:
    at = datetime.now(UTC) - ago
    signature = Webhook(secret).sign("msg_1", at, body)
    stamps = {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    return {**stamps, "content-type": "application/json"}


async def post(web: httpx.AsyncClient, headers: dict[str, str], **changes: Any) -> httpx.Response:
    return await web.post("/v1/incidents", headers=headers, content=json.dumps({**REPORT, **changes}))


class TestSignatures:
    @pytest.mark.parametrize("secret", [NEW_SECRET, NATIVE_SECRET])
    async def test_any_secret_of_a_rotation_will_do(self, web: httpx.AsyncClient, secret: str) -> None:
        assert (await post(web, signed(json.dumps(REPORT), secret))).status_code == 202
        bearer = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        assert (await post(web, bearer)).status_code == 202

    async def test_a_sender_may_sign_with_both(self, web: httpx.AsyncClient) -> None:
        headers, other = signed(json.dumps(REPORT)), signed(json.dumps(REPORT), "whsec_" + "b3RoZXI=")
        both = f"v1a,abc {other['webhook-signature']} {headers['webhook-signature']}"
        assert (await post(web, {**headers, "webhook-signature": both})).status_code == 202

    @pytest.mark.parametrize("minutes", [4.9, -4.9])
    async def test_five_minutes_either_way_are_fine(self, web: httpx.AsyncClient, minutes: float) -> None:
        assert (await post(web, signed(json.dumps(REPORT), ago=timedelta(minutes=minutes)))).status_code == 202

    @pytest.mark.parametrize("minutes", [5.1, -5.1, 300 * 1440])
    async def test_a_stale_one_is_told_so(self, desk: Desk, web: httpx.AsyncClient, minutes: float) -> None:
        before = refused("stale_signature"), refused("unknown_sender")
        headers = signed(json.dumps(REPORT), ago=timedelta(minutes=minutes))
        answer = await post(web, headers)
        assert (answer.status_code, answer.json()["title"]) == (401, "stale signature")
        assert "the message is old, or a clock is wrong" in answer.json()["detail"]
        assert headers["webhook-timestamp"] not in answer.text
        assert (refused("stale_signature"), refused("unknown_sender")) == (before[0] + 1, before[1])
        assert await desk.rows("raw_message") == []

    @pytest.mark.parametrize("stamp", ["0", "9" * 40, "-1", "1e9", "now", "١"])
    async def test_a_strangers_old_one_is_a_strangers(self, web: httpx.AsyncClient, stamp: str) -> None:
        before = refused("unknown_sender")
        headers: Any = {**signed(json.dumps(REPORT)), "webhook-timestamp": stamp.encode()}
        answer = await post(web, headers)
        assert (answer.status_code, answer.json()["title"]) == (401, "unknown source")
        assert refused("unknown_sender") == before + 1

    @pytest.mark.database("sqlite", "postgresql")
    async def test_an_id_is_known_for_a_week(self, desk: Desk, web: httpx.AsyncClient, clock: ManualClock) -> None:
        first = await post(web, signed(json.dumps(REPORT)))
        # the contract asks for four days
        for _ in range(6):
            await clock.advance(days=1)
            await desk.context.store.write(delete_expired)
            assert (await post(web, signed(json.dumps(REPORT)))).json() == first.json()
        other = await post(web, signed(json.dumps({**REPORT, "unit": "ER"})), unit="ER")
        assert (other.status_code, other.json()["title"]) == (422, "key reused")
        await clock.advance(days=2)
        await desk.context.store.write(delete_expired)
        assert (await post(web, signed(json.dumps(REPORT)))).json() != first.json()
        assert await desk.kinds() == ["recorded"]


class TestKeys:
    @pytest.mark.parametrize("given", ["k1", '"k1"', ' "k1" ', '"k1";v=1'])
    async def test_a_key_is_a_string_or_the_bare_word(self, desk: Desk, web: httpx.AsyncClient, given: str) -> None:
        first, again = await report(web, "k1"), await report(web, given)
        assert (again.status_code, again.json()) == (202, first.json())
        other = await report(web, given, unit="ER")
        assert (other.status_code, other.json()["title"]) == (422, "key reused")

    @pytest.mark.parametrize("given", ["", '""', '"secret', 'sec"ret', "secret key", '"sec\\ret"', "s" * 256, "ü"])
    async def test_a_malformed_one_is_a_bad_request(self, desk: Desk, web: httpx.AsyncClient, given: str) -> None:
        before = refused("malformed_key")
        headers: Any = {**SAFETY, "Idempotency-Key": given.encode()}
        answer = await web.post("/v1/incidents", headers=headers, content=json.dumps(REPORT))
        assert (answer.status_code, answer.json()["title"]) == (400, "malformed key")
        assert "secret" not in answer.text
        assert refused("malformed_key") == before + 1
        assert await desk.rows("raw_message") == []

    async def test_one_request_has_one_key(self, web: httpx.AsyncClient) -> None:
        headers = [*SAFETY.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
        assert (await web.post("/v1/incidents", headers=headers, content=json.dumps(REPORT))).status_code == 400

    @pytest.mark.database("sqlite", "postgresql")
    async def test_of_two_bodies_at_once_the_one_with_the_receipt_is_stored(
        self, desk: Desk, web: httpx.AsyncClient
    ) -> None:
        for n in range(8):
            pair = await asyncio.gather(*(report(web, f"k{n}", source_ref=f"{n}{name}") for name in "ab"))
            assert sorted(answer.status_code for answer in pair) == [202, 422]
            taken = "ab"[[answer.status_code for answer in pair].index(202)]
            await report(web, source_ref=f"{n}{taken}", involved=[{"system": "ehr", "value": "B2"}])
        assert await desk.kinds() == ["recorded", "amended"] * 8

    async def test_without_a_key_the_same_body_is_the_same_request(self, desk: Desk, web: httpx.AsyncClient) -> None:
        first, again = await report(web), await report(web)
        assert first.json() == again.json()
        more = await report(web, involved=[*REPORT["involved"], {"system": "ehr", "value": "B2"}])
        assert (more.status_code, more.json() != first.json()) == (202, True)
        assert await desk.kinds() == ["recorded", "amended"]


class TestTimes:
    @pytest.mark.parametrize("when", ["2026-11-21T11:00:00Z", "2062-11-21T08:40:00Z", "9999-12-31T23:59:59-12:00"])
    async def test_nothing_occurred_later_than_now(self, desk: Desk, web: httpx.AsyncClient, when: str) -> None:
        assert (await report(web, occurred_at=when)).status_code == 202
        [(_, body)] = await desk.events()
        assert body["occurred_at"] == "2026-11-21T09:00:00Z"
        assert [row.occurred_at for row in await desk.rows("incident")] == [desk.context.clock.now()]

    @pytest.mark.parametrize("when", ["0001-01-01T00:00:00+14:00", "0026-11-21T08:40:00Z", "1899-12-31T23:59:59Z"])
    async def test_nor_before_anybody_was_born(self, desk: Desk, web: httpx.AsyncClient, when: str) -> None:
        answer = await report(web, occurred_at=when)
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert (error["place"], error["rule"][:38]) == ("occurred_at", "Input should be greater than or equal ")
        assert await desk.rows("raw_message") == []


class TestADeathThatAFeedToldOfFirst:
    """The report's own reference stands for it from then on."""

    DEATH: Mapping[str, Any] = {
        "severity": {"scheme": "lfpse", "code": "fatal"},
        "patient": {"system": "HOSP", "value": "4711"},
    }

    @pytest.mark.database("sqlite", "postgresql")
    async def test_it_adds_people_however_late(self, desk: Desk, web: httpx.AsyncClient, clock: ManualClock) -> None:
        await desk.send(death())
        await report(web, **self.DEATH)
        await clock.advance(days=5)
        await report(web, **self.DEATH, involved=[{"system": "ehr", "value": "B2"}])
        assert await desk.kinds() == ["recorded", "amended"]

    @pytest.mark.database("sqlite", "postgresql")
    async def test_what_was_taken_back_stays_so_when_an_export_overlaps(
        self, desk: Desk, web: httpx.AsyncClient
    ) -> None:
        await desk.send(death(ident="1"))
        await report(web, "k1", **self.DEATH)
        await desk.send(hl7("A13", ident="2"))
        await report(web, "k2", **self.DEATH)
        assert await desk.kinds() == ["recorded", "retracted"]
        await desk.send(death(ident="3"))
        assert await desk.kinds() == ["recorded", "retracted", "recorded"]
        await report(web, "k3", **self.DEATH, involved=[{"system": "ehr", "value": "C3"}])
        *_, (_, made), (kind, added) = await desk.events()
        assert (kind, added["incident_ref"]) == ("amended", made["incident_ref"])

    async def test_it_is_forgotten_with_it(self, desk: Desk, web: httpx.AsyncClient, clock: ManualClock) -> None:
        await desk.send(death())
        await report(web, **self.DEATH)
        for days, left in ((399, 1), (2, 0)):
            await clock.advance(days=days)
            await desk.context.store.write(delete_expired)
            assert len(await desk.rows("told")) == left


HEADER = "source_ref,occurred_at,category,severity_scheme,severity_code,unit,urgency,patient,involved,reviewers"
ROWS = [
    "DX-1,2026-11-21T08:40:00Z,medication_error,ahrq-harm,severe-harm,ICU,urgent,,npi=111;ehr=B2,ehr=C3",
    'DX-2,2026-11-21T07:10:00+01:00,fall,lfpse,fatal,"Ward 4, west",,mrn=4711,ehr=B2,',
    "DX-3,2026-11-21T06:00:00Z,fall,lfpse,low,Ward 4,routine,,,",
]
CSV = {**SAFETY, "Content-Type": "text/csv; charset=utf-8"}


async def send(web: httpx.AsyncClient, *rows: str, header: str = HEADER, key: str | None = None) -> httpx.Response:
    headers = {**CSV, **({"Idempotency-Key": key} if key else {})}
    return await web.post("/v1/incidents", headers=headers, content="\r\n".join([header, *rows]).encode())


async def faults(web: httpx.AsyncClient, *rows: str, header: str = HEADER) -> list[str]:
    answer = await send(web, *rows, header=header)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert "secret" not in answer.text.lower()
    return [f"{error['place']}: {error['rule']}" for error in answer.json()["errors"]]


class TestTables:
    @pytest.mark.database("sqlite", "postgresql")
    async def test_every_row_is_a_report(self, desk: Desk, web: httpx.AsyncClient) -> None:
        answer = await send(web, *ROWS)
        assert (answer.status_code, answer.json()["count"]) == (202, 3)
        one, two = (body for _, body in await desk.events())
        assert (one["urgency"], one["unit"], one["severity"]["level"]) == ("urgent", "ICU", "severe")
        assert [(who["person_ref"], who["reviewer"]) for who in one["involved"]][:2] == [(ANNA, False), (BEN, False)]
        assert [who["reviewer"] for who in one["involved"]] == [False, False, True]
        assert (two["unit"], two["occurred_at"], two["severity"]["level"]) == (
            "Ward 4, west",
            "2026-11-21T06:00:00Z",
            "death",
        )
        assert len(await desk.rows("raw_message")) == len(await desk.rows("receipt")) == 1

    @pytest.mark.database("sqlite", "postgresql")
    async def test_the_same_rows_again_change_nothing(self, desk: Desk, web: httpx.AsyncClient) -> None:
        first = await send(web, *ROWS)
        assert (await send(web, *ROWS)).json() == first.json()
        assert (await send(web, *ROWS, key="another")).status_code == 202
        assert await desk.kinds() == ["recorded", "recorded"]
        more = ROWS[0].replace("DX-1", "DX-4")
        assert (await send(web, *reversed(ROWS), more)).json()["count"] == 4
        assert await desk.kinds() == ["recorded"] * 3
        await report(web, source_ref="DX-2", involved=[{"system": "ehr", "value": "A1"}])
        assert (await desk.kinds())[3:] == ["amended"]

    @pytest.mark.database("sqlite", "postgresql")
    async def test_a_death_that_a_feed_knows_is_one(self, desk: Desk, web: httpx.AsyncClient) -> None:
        twice = ROWS[1].replace("DX-2", "DX-9").replace("ehr=B2", "ehr=A1")
        await send(web, ROWS[1], twice)
        assert await desk.kinds() == ["recorded", "amended"]

    async def test_a_signature_and_a_key_hold_for_it_too(self, desk: Desk, web: httpx.AsyncClient) -> None:
        body = "\n".join([HEADER, *ROWS])
        headers = {**signed(body), "content-type": "text/csv"}
        assert (await web.post("/v1/incidents", headers=headers, content=body)).status_code == 202
        assert (await web.post("/v1/incidents", headers=headers, content=body + "\n")).status_code == 401
        assert (await send(web, ROWS[0], key="k")).status_code == 202
        assert (await send(web, ROWS[1], key="k")).json()["title"] == "key reused"

    async def test_columns_that_may_be_empty_may_be_missing(self, desk: Desk, web: httpx.AsyncClient) -> None:
        header = "\ufeffinvolved,source_ref,occurred_at,category,severity_code,severity_scheme,unit"
        answer = await send(web, "", "npi=111,DX,2026-11-21T08:40:00Z,fall,severe,leeward,ICU", ",,,,,,", header=header)
        assert answer.json()["count"] == 1
        assert await desk.kinds() == ["recorded"]

    @pytest.mark.parametrize(
        ("column", "cell", "rule"),
        [
            ("source_ref", "", "line 3, source_ref: String should have at least 1 character"),
            ("occurred_at", "secret", "line 3, occurred_at: "),
            ("occurred_at", "2026-11-21T08:40:00", "line 3, occurred_at: Input should have timezone info"),
            ("category", "Secret!", "line 3, category: String should match pattern"),
            ("severity_scheme", "secret", "line 3, severity_scheme: scheme must be one of ahrq-harm, "),
            ("severity_code", "secret", "line 3, severity_code: code must be one of fatal, "),
            ("severity_code", "", "line 3, severity_code: String should match pattern"),
            ("unit", "secret" * 40, "line 3, unit: String should have at most 200 characters"),
            ("urgency", "secret", "line 3, urgency: Input should be 'routine' or 'urgent'"),
            ("patient", "secret", "line 3, patient: must be one system=value"),
            ("patient", "mrn=1;mrn=secret", "line 3, patient: must be one system=value"),
            ("involved", "npi=1;secret", "line 3, involved: must be system=value, joined by ;"),
            ("reviewers", "=secret", "line 3, reviewers: must be system=value, joined by ;"),
            ("source_ref", "DX-1", "line 3, source_ref: is the same as in line 2"),
        ],
    )
    async def test_a_fault_is_named_by_line_and_column_and_nothing_is_stored(
        self, desk: Desk, web: httpx.AsyncClient, column: str, cell: str, rule: str
    ) -> None:
        cells = ROWS[1].replace('"Ward 4, west"', "ER").split(",")
        cells[HEADER.split(",").index(column)] = cell
        [found] = await faults(web, ROWS[0], ",".join(cells), ROWS[2])
        assert found.startswith(rule)
        assert await desk.rows("raw_message") == await desk.rows("incident") == []

    async def test_all_faults_are_named_at_once(self, web: httpx.AsyncClient) -> None:
        bad = "DX-4,secret,fall,lfpse,secret,ICU,,secret,,secret"
        assert [one.partition(": ")[0] for one in await faults(web, bad, ROWS[0], "one,two")] == ["line 4, row"]
        places = ["occurred_at", "patient", "reviewers", "severity_code"]
        assert [one.partition(": ")[0] for one in await faults(web, bad, ROWS[0])] == [f"line 2, {p}" for p in places]

    @pytest.mark.parametrize(
        ("header", "expected"),
        [
            (HEADER.replace(",unit", ""), ["line 1, unit: is missing from the header", "line 2, row: has 10 cells"]),
            (f"{HEADER},secret", ["line 1, column 11: is not a known column", "line 2, row: has 10 cells"]),
            (f"{HEADER},unit", ["line 1, header: names a column twice", "line 2, row: has 10 cells"]),
        ],
    )
    async def test_the_header_must_be_right(self, web: httpx.AsyncClient, header: str, expected: list[str]) -> None:
        found = await faults(web, ROWS[0], header=header)
        assert [one[: len(part)] for one, part in zip(found, expected, strict=True)] == expected

    async def test_a_table_has_an_end(self, desk: Desk, web: httpx.AsyncClient) -> None:
        rows = [ROWS[0].replace("DX-1", f"DX-{n}").replace("npi=111;", "") for n in range(1001)]
        assert (await send(web, *rows[:1000])).json()["count"] == 1000
        assert len(await desk.rows("incident")) == 1000
        assert await faults(web, *rows) == ["line 1002, file: has more than 1000 rows; send it in several files"]
        bad = [row.replace("ICU", "") for row in rows[:500]]
        found = await faults(web, *bad)
        assert (len(found), found[-1]) == (201, "file: has 300 more faults")

    @pytest.mark.parametrize("body", [b"", b"\n\n", HEADER.encode(), b"\xff\xfe", b'"secret', b"\x00" * 9])
    async def test_what_is_no_table(self, desk: Desk, web: httpx.AsyncClient, body: bytes) -> None:
        answer = await web.post("/v1/incidents", headers=CSV, content=body)
        assert answer.status_code == 422
        assert "secret" not in answer.text
        assert await desk.rows("raw_message") == []

    @pytest.mark.database("sqlite")
    async def test_a_full_disk_takes_none_of_it(self, desk: Desk, web: httpx.AsyncClient) -> None:
        rows = [ROWS[0].replace("DX-1", f"DX-{n}") for n in range(900)]
        with full(desk):
            assert (await send(web, *rows)).status_code == 503
        assert await desk.rows("incident") == await desk.rows("receipt") == []


@pytest.mark.parametrize(
    ("given", "at"), [("1795251600", datetime(2026, 11, 21, 9, tzinfo=UTC)), ("-1", None), ("", None)]
)
def test_a_signature_says_when_it_was_made(given: str, at: datetime | None) -> None:
    headers = [(b"webhook-timestamp", given.encode())]
    assert signed_at(Request({"type": "http", "headers": headers})) == at

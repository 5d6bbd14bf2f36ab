"""FHIR by others: Inferno's and HL7's samples, and what HAPI FHIR's own subscription engine was seen to send."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.services.incident.conftest import Desk
from tests.services.incident.sources.fhir.resources import BASE, HEADERS, client, post, with_fhir

FIXTURES = Path(__file__).parents[6] / "shared/fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.exists(), reason="../shared/fixtures is not here")


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("empty_notification_bundle_example", 204),
        ("empty_notification_bundle_non_conformant_example", 422),
        ("full_resource_notification_bundle_example", 204),
        ("id_only_notification_bundle_example", 204),
        ("handshake_bundle_example", 204),
        ("heartbeat_bundle_example", 204),
        ("AdverseEvent-example", 204),
        ("CareTeam-example", 204),
        ("Encounter-f001", 204),
        ("Encounter-f002", 204),
    ],
)
async def test_of_others_that_are_no_death(desk: Desk, name: str, status: int) -> None:
    chart = with_fhir(desk, base_url=BASE)
    async with await client(chart) as door:
        answer = await post(door, (FIXTURES / f"fhir/{name}.json").read_bytes())
    assert answer.status_code == status
    if status != 204:
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert await chart.states() == []


async def test_a_patient_who_died_long_ago_waits_for_a_word(chart: Desk, door: Any) -> None:
    await post(door, (FIXTURES / "fhir/Patient-pat3.json").read_bytes())
    assert await chart.states() == ["review"]


@pytest.mark.parametrize(
    "flavour", ["r4-classic-json", "r4-topic-full-resource", "r4b-topic-full-resource", "r5-topic-full-resource"]
)
async def test_hapis_own_engine(chart: Desk, door: Any, flavour: str) -> None:
    """As recorded, in order, each as often as it was sent; R5 sends no Authorization, a proxy puts it there."""
    sent = json.loads((FIXTURES / f"hapi/{flavour}.json").read_text())
    died: set[str] = set()
    for one in sent:
        path = one["path"].replace(flavour, "v1/fhir/chart")
        headers = {**dict(one["headers"]), **HEADERS}
        headers = {key: value for key, value in headers.items() if key.lower() not in ("content-length", "host")}
        for _ in one["times_sent_at"]:
            content = json.dumps(one["body"])
            answer = await door.request(one["method"], path, headers=headers, content=content)
            assert (answer.status_code, answer.content) == (204, b"")
        died |= dead(one["body"])
    assert len([kind for kind in await chart.kinds() if kind == "recorded"]) == len(died)
    assert died


async def test_hapis_id_only_leaves_the_encounter_to_be_read(desk: Desk) -> None:
    chart = with_fhir(desk, base_url="http://127.0.0.1:18090/fhir")
    [sent] = json.loads((FIXTURES / "hapi/r4-topic-id-only.json").read_text())
    async with await client(chart) as door:
        for _ in sent["times_sent_at"]:
            assert (await post(door, sent["body"])).status_code == 204
    assert len(await chart.rows("fetch")) == 1


def dead(body: Mapping[str, Any]) -> set[str]:
    """The patients of the encounters in a recorded body that ended so."""
    found = [entry.get("resource", {}) for entry in body["entry"]] if body["resourceType"] == "Bundle" else [body]
    ended = [one for one in found if one["resourceType"] == "Encounter" and '"exp"' in json.dumps(one)]
    return {one["subject"]["reference"] for one in ended}

"""What a Patient says: when they died, and which of two records of theirs is given up (Patient.link, as A40 does)."""

import json
from typing import Any

import pytest

from tests.services.incident.conftest import Desk, death
from tests.services.incident.sources.fhir.resources import Resource, backport, encounter, patient, post, put
from tests.services.incident.sources.test_api import REPORT, SAFETY


def link(kind: str, other: Resource) -> list[Resource]:
    return [{"type": kind, "other": other}]


@pytest.mark.database("sqlite", "postgresql")
@pytest.mark.parametrize(
    "said",
    [
        patient("p1", link=link("replaced-by", {"reference": "Patient/p2"})),
        patient("p2", link=link("replaces", {"reference": "Patient/p1"})),
        patient("p2", link=link("replaces", {"identifier": {"system": "urn:oid:1.9", "value": "MRN-p1"}})),
    ],
    ids=["given up", "kept", "by identifier"],
)
async def test_a_death_under_one_record_is_that_of_the_other(chart: Desk, door: Any, said: Resource) -> None:
    await post(door, backport(encounter(), patient()))
    assert (await put(door, said)).status_code == 204
    assert (await put(door, said | {"active": False})).status_code == 204
    await put(door, encounter("e2", who="p2"))
    await chart.send(death(PID_3="MRN-p1^^^HOSP&1.9&ISO"))
    assert [kind for kind in await chart.kinds() if kind == "recorded"] == ["recorded"]


@pytest.mark.parametrize("kind", ["seealso", "refer"])
async def test_other_links_join_nobody(chart: Desk, door: Any, kind: str) -> None:
    await put(door, encounter())
    await put(door, patient(link=link(kind, {"reference": "Patient/p2"})))
    await put(door, encounter("e2", who="p2"))
    assert [kind for kind in await chart.kinds() if kind == "recorded"] == ["recorded", "recorded"]


@pytest.mark.parametrize(
    ("died", "ended", "occurred"),
    [
        ("2026-11-21", "2026-11-21T08:20:00Z", "2026-11-21T08:15:00Z"),
        ("2026-11-21T07:10:00Z", "2026-11-21T08:20:00Z", "2026-11-21T07:00:00Z"),
        ("2026-11-20", "2026-11-21T08:20:00Z", "2026-11-20T00:00:00Z"),
    ],
    ids=["a day, and its time", "a time", "another day"],
)
async def test_of_a_day_alone_the_stay_knows_the_time(
    chart: Desk, door: Any, died: str, ended: str, occurred: str
) -> None:
    await post(door, backport(encounter(period={"end": ended}), patient(deceasedDateTime=died)))
    [(_, body)] = await chart.events()
    assert body["occurred_at"] == occurred


@pytest.mark.parametrize("system", ["urn:oid:1.9", "URN:OID:1.9", "1.9"])
async def test_an_oid_is_the_same_whoever_writes_it(chart: Desk, door: Any, system: str) -> None:
    await post(door, backport(encounter(), patient()))
    about = {"system": system, "value": "MRN-p1"}
    body = {**REPORT, "severity": {"scheme": "leeward", "code": "death"}, "patient": about}
    assert (await door.post("/v1/incidents", headers=SAFETY, content=json.dumps(body))).status_code == 202
    assert [kind for kind in await chart.kinds() if kind == "recorded"] == ["recorded"]

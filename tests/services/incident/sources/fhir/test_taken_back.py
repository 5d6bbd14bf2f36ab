"""What takes a FHIR death back, and what only seems to."""

from typing import Any

import pytest

from tests.services.incident.conftest import Desk
from tests.services.incident.replay.test_replay import replay
from tests.services.incident.sources.fhir.resources import HOME, Resource, backport, encounter, patient, post, put


def opened(**fields: Any) -> Resource:
    """The same stay, going on."""
    return encounter(**{"status": "in-progress", "disposition": None, **fields})


async def test_a_stay_that_goes_on_after_all_and_ends_so_again_is_offered_once_more(chart: Desk, door: Any) -> None:
    for version, one in enumerate((opened(), encounter(), opened(), opened(), encounter(), encounter())):
        await put(door, {**one, "meta": {"versionId": str(version)}})
    assert await chart.kinds() == ["recorded", "retracted", "recorded"]


@pytest.mark.parametrize(
    "later",
    [
        opened(identifier=[{"value": "V2"}]),
        opened(status="planned"),
        encounter(disposition=None),
        encounter(status="in-progress", meta={"versionId": "2"}),
    ],
    ids=["another stay", "planned", "without a disposition", "dead though going on"],
)
async def test_what_takes_nothing_back(chart: Desk, door: Any, later: Resource) -> None:
    await put(door, encounter(identifier=[{"value": "V1"}]))
    await put(door, {"identifier": [{"value": "V1"}], **later})
    assert await chart.kinds() == ["recorded"]


@pytest.mark.database("sqlite", "postgresql")
@pytest.mark.parametrize(
    "before", [opened(), encounter(disposition=HOME), patient(deceasedBoolean=False)], ids=["going on", "home", "alive"]
)
async def test_what_comes_after_a_later_event_takes_nothing_back(chart: Desk, door: Any, before: Resource) -> None:
    await post(door, backport(encounter("e9", who="p9", disposition=None), number=1))
    await post(door, backport(encounter(), number=3))
    await post(door, backport(before, number=2))
    assert (await replay(chart, source="chart")).decided == []
    assert await chart.kinds() == ["recorded"]
    await post(door, backport(before, number=4))
    assert await chart.kinds() == ["recorded", "retracted"]


async def test_a_server_that_counts_anew_is_believed(chart: Desk, door: Any) -> None:
    await post(door, backport(encounter(), number=500))
    await post(door, backport(opened(), number=1))
    assert await chart.kinds() == ["recorded", "retracted"]

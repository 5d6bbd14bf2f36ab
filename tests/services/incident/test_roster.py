"""What an import of the roster changes here: who an identifier leads to, and what waited for it."""

from dataclasses import replace

import pytest

from tests.services.incident.conftest import ANNA, BEN, STAFF, Desk, death, hl7, member


async def involved(desk: Desk, **fields: str) -> list[str]:
    await desk.send(hl7(PV1_36="20", **fields))
    return [one["person_ref"] for one in (await desk.events())[-1][1]["involved"]]


async def test_an_import_that_brings_a_waiting_identifier_serves_it(desk: Desk) -> None:
    await desk.send(death(PV1_7="NEW"))
    await desk.import_roster([*STAFF, member("00000000-0000-4000-8000-000000000009", ("ehr", "NEW"))])
    assert await desk.kinds() == ["recorded", "amended"]
    assert await desk.rows("unmatched") == []
    await desk.import_roster([*STAFF, member("00000000-0000-4000-8000-000000000009", ("ehr", "NEW"))])
    assert await desk.kinds() == ["recorded", "amended"]


async def test_it_is_not_served_for_what_was_taken_back(desk: Desk) -> None:
    await desk.send(death(ident="1", PV1_7="NEW"))
    await desk.send(hl7("A13", ident="2"))
    await desk.import_roster([*STAFF, member("00000000-0000-4000-8000-000000000009", ("ehr", "NEW"))])
    assert await desk.kinds() == ["recorded", "retracted"]


async def test_for_what_waits_for_review_it_is_remembered(desk: Desk) -> None:
    await desk.send(hl7("A08", PID_30="Y", PV1_7="NEW"))
    await desk.import_roster([*STAFF, member("00000000-0000-4000-8000-000000000009", ("ehr", "NEW"))])
    assert await desk.kinds() == []
    assert len(await desk.rows("involved")) == 1


@pytest.mark.parametrize("status", ["left", "deceased"])
async def test_whoever_has_left_is_known_and_nobody_to_write_to(desk: Desk, status: str) -> None:
    await desk.import_roster([replace(STAFF[0], status=status), *STAFF[1:]])
    assert await involved(desk, PV1_7="A1~B2") == [BEN]
    assert await desk.rows("unmatched") == []


async def test_the_same_for_whoever_is_missing_from_the_file(desk: Desk) -> None:
    await desk.import_roster(STAFF[1:])
    assert await involved(desk, PV1_7="A1~B2") == [BEN]
    await desk.import_roster(STAFF)
    assert await involved(desk, PID_3="2^^^H", PV1_7="A1~B2") == [ANNA, BEN]


async def test_an_identifier_that_was_a_mistake_leads_nowhere(desk: Desk) -> None:
    await desk.import_roster([replace(STAFF[0], identifiers=(("ehr", "A9"),)), *STAFF[1:]])
    assert await involved(desk, PV1_7="A1~A9") == [ANNA]
    assert len(await desk.rows("unmatched")) == 1


async def test_twice_changes_nothing(desk: Desk) -> None:
    before = await desk.rows("staff_identifier")
    await desk.import_roster(STAFF)
    assert sorted(await desk.rows("staff_identifier")) == sorted(before)
    assert "A1" not in str(before)

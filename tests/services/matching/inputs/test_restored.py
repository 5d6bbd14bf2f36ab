"""After a restore: what was erased since the copy is erased again, and what has grown too old ends at once."""

from collections.abc import Collection
from pathlib import Path

import pytest

from leeward.service import Restored
from leeward.store.copies.erasures import ErasureList
from leeward.testing import member
from services.matching.inputs.restored import bring_to_present
from tests.services.matching.hospital import FORM, Hospital, Open, ref, supporter

pytestmark = pytest.mark.database("sqlite", "postgresql")


async def restored(hospital: Hospital, erased: Collection[str] = ()) -> Restored:
    """Bring the hospital's database, as if it were a copy that was put back, to the present."""
    context = hospital.context
    found = Restored(context.settings, context.keys, frozenset(erased))
    await context.store.write(lambda unit: bring_to_present(unit, found))
    await hospital.reload()
    return found


@pytest.fixture
def erasures(hospital: Hospital, tmp_path: Path) -> ErasureList:
    """The list that this hospital's service appends to."""
    found = hospital.context.store.erasures = ErasureList(tmp_path / "list" / "erasures")
    return found


async def test_whoever_closes_is_on_the_list_before_the_case_names_nobody(
    hospital: Hospital, erasures: ErasureList
) -> None:
    await hospital.supported("ann")
    case = await hospital.case()
    assert not erasures.path.exists()
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert erasures.read().hashes == {hospital.site.erasure_hash("case", case.case_ref)}


async def test_a_list_that_cannot_be_written_holds_the_erasure_up(hospital: Hospital, erasures: ErasureList) -> None:
    await hospital.supported("ann")
    erasures.path.parent.mkdir()
    erasures.path.mkdir()
    with pytest.raises(Exception, match="erasures"):
        await hospital.answer(hospital.asking(), "close", **FORM)
    assert (await hospital.case()).person_ref == ref("person ann")
    erasures.path.rmdir()
    await hospital.answer(hospital.asking(), "close", **FORM)
    assert (await hospital.case()).person_ref is None


async def test_a_case_on_the_list_names_nobody_any_more_and_notify_hears_of_it(hospital: Hospital) -> None:
    await hospital.supported("ann")
    await hospital.offered("bob")
    case = await hospital.case_of("ann")
    found = await restored(hospital, {hospital.site.erasure_hash("case", case.case_ref)})
    assert found.cases == [case.case_ref]
    assert ("case_erased", case.case_ref) in hospital.published
    assert await hospital.mentions(ref("person ann")) == []
    # whoever supported them has the place back, and the other case stands
    assert {name: active for name, (active, _) in (await hospital.loads()).items() if active} == {}
    assert (await hospital.case_of("bob")).stage == "offered"


async def test_whoever_has_left_has_left_and_whom_they_supported_is_given_somebody_else(hospital: Hospital) -> None:
    await hospital.accepted("ann")
    first = hospital.requests()[-1]
    found = await restored(hospital, {hospital.site.erasure_hash("person", ref(f"person {first}"))})
    assert (found.persons, found.recipients) == ([ref(f"person {first}")], [ref(f"recipient {first}")])
    rows = {row.person_ref: row.status for row in await hospital.rows_of("person")}
    assert rows[ref(f"person {first}")] == "left"
    assert len(hospital.requests()) == 2
    assert hospital.requests()[-1] != first


async def test_hashes_of_others_change_nothing(hospital: Hospital) -> None:
    await hospital.accepted("ann")
    before = await hospital.cases()
    found = await restored(hospital, {"0" * 64})
    assert (found.cases, found.persons, await hospital.cases()) == ([], [], before)


async def test_a_departure_is_on_the_list(open_hospital: Open, tmp_path: Path) -> None:
    hospital = open_hospital()
    await hospital.staff(member("ann"), supporter("sue"))
    await hospital.start()
    erasures = hospital.context.store.erasures = ErasureList(tmp_path / "erasures")
    await hospital.context.store.write(lambda unit: None)
    everybody = hospital.members
    await hospital.staff(supporter("sue"))
    hospital.members = everybody
    await hospital.forward(seconds=1)
    assert hospital.site.erasure_hash("person", ref("person ann")) in erasures.read().hashes


async def test_what_is_too_old_ends_before_any_of_its_timers_fires(hospital: Hospital) -> None:
    await hospital.offered("ann")
    asked = len(hospital.sent)
    await hospital.clock.advance(days=100)
    await restored(hospital)
    assert await hospital.mentions(ref("person ann")) == []
    await hospital.forward(seconds=1)
    assert len(hospital.sent) == asked

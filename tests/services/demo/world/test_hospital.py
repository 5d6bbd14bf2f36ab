"""The hospital of the demonstration is big enough, the same every time, and plausible to the system's own rules."""

from collections import Counter
from pathlib import Path

from leeward import people
from leeward.people import Member
from leeward.settings.policy import Policy
from leeward.testing import ManualClock
from services.demo.world import hospital
from services.incident.decisions.claims import PatientClaim
from services.incident.sources.hl7v2.receiver import read_hl7
from services.matching.roster.rota import import_ics

KEY = b"k" * 32


def members(folder: Path) -> list[Member]:
    path = folder / "roster.csv"
    path.write_text(hospital.roster())
    return people.members(people.read_roster(path), KEY)


def test_enough_people_and_supporters_in_enough_units(tmp_path: Path) -> None:
    found = members(tmp_path)
    day = hospital.START.date()
    fit = [one for one in found if one.supporter and one.training_expires and one.training_expires >= day]
    assert len(found) >= 40
    assert len(fit) >= 12
    assert len({one.unit for one in fit}) >= 5
    assert len([one for one in found if one.supporter]) > len(fit), "some training has expired"
    assert [one for one in found if not one.email], "some have no e-mail"
    assert all(one.line_managers for one in found if one.profession != "medical director")
    assert len({one.display_name for one in found}) == len(found)
    assert max(Counter(one.languages[-1] for one in found).values()) < len(found) / 3


def test_the_same_every_time() -> None:
    assert hospital.roster() == hospital.roster()
    assert hospital.rota() == hospital.rota()
    assert hospital.ICU_DEATH.message() == hospital.ICU_DEATH.message()


def test_the_early_shift_works_when_somebody_dies() -> None:
    shifts = import_ics(hospital.rota(), lambda staff_id: staff_id, lambda _mail: None, hospital.START)
    for death in (hospital.ICU_DEATH, hospital.EMERGENCY_DEATH):
        there = {one.person_ref for one in shifts if one.unit == death.unit and one.starts_at <= death.at < one.ends_at}
        assert there == {person.staff_id for person in hospital.on_early_shift(death.unit)}
        assert there


def test_the_message_names_whom_it_should(clock: ManualClock) -> None:
    reading = read_hl7(hospital.ICU_DEATH.message(), Policy().sources, clock)
    assert isinstance(reading.claim, PatientClaim)
    assert (reading.claim.kind, reading.claim.disposition, reading.claim.unit) == ("evidence", "dead", "ICU")
    by_number = {hospital.ehr_number(person): person.staff_id for person in hospital.people()}
    named = {by_number[mention.identifier.value] for mention in reading.claim.mentions}
    assert named == {"I01", "I02"}, "attending and consulting, never the referring doctor"

"""Stories of what a feed says and what becomes of it, through the real intake and its database."""

import asyncio

import pytest

from leeward.testing import ManualClock
from tests.services.incident.conftest import (
    ANNA,
    BEN,
    CARO,
    Desk,
    death,
    hl7,
    with_policy,
    with_second_source,
    with_source,
)


async def expect(desk: Desk, *kinds: str) -> None:
    assert await desk.kinds() == list(kinds)


async def test_a_death_discharge_is_recorded_with_everyone_listed_but_the_referring_doctor(desk: Desk) -> None:
    message = death(PV1_8="B2^Ben", PV1_17="C3^Caro~A1^Anna")
    assert await desk.send(message) == ["AA"]
    [(kind, body)] = await desk.events()
    assert kind == "recorded"
    assert [one["person_ref"] for one in body["involved"]] == [ANNA, CARO]
    assert body["severity"] == {"scheme": "hl7-0112", "code": "20", "level": "death"}
    assert (body["category"], body["unit"], body["occurred_at"]) == ("death", "ICU", "2026-11-21T08:45:00Z")


@pytest.mark.parametrize("event", ["A01", "A02", "A03", "A04", "A06", "A07", "A08", "A31"])
async def test_every_event_that_carries_evidence_counts(desk: Desk, event: str) -> None:
    await desk.send(death(event))
    await expect(desk, "recorded")


@pytest.mark.parametrize("event", ["A05", "A11", "A13", "A28", "A40", "A60"])
async def test_no_other_event_does(desk: Desk, event: str) -> None:
    assert await desk.send(death(event)) == ["AA"]
    await expect(desk)
    assert await desk.states() == []


@pytest.mark.parametrize(
    ("fields", "state", "reason"),
    [
        ({"PV1_36": "20", "PID_30": "Y"}, "recorded", "discharged_dead"),
        ({"PV1_36": "41^Expired", "PID_30": ""}, "recorded", "discharged_dead"),
        ({"PV1_36": "20", "PID_30": "N"}, "review", "disposition_denied"),
        ({"PID_30": "Y", "PID_29": "202611200300"}, "recorded", "indicator_recent"),
        ({"PID_30": "Y", "PID_29": "202611180900"}, "recorded", "indicator_recent"),
        ({"PID_30": "Y", "PID_29": "202611180858"}, "review", "indicator_first_seen"),
        ({"PID_30": "Y"}, "review", "indicator_first_seen"),
        ({"PID_30": "Y", "PID_29": "20261120", "PV1_36": "01"}, "review", "living_disposition"),
        ({"PID_30": "N", "PID_29": "20261120"}, "review", "death_time_denied"),
        ({"PID_30": "NO", "PID_29": "20261120"}, "review", "death_time_denied"),
    ],
)
async def test_what_a_first_message_says(desk: Desk, fields: dict[str, str], state: str, reason: str) -> None:
    await desk.send(hl7("A08", PV1_7="A1", **fields))
    [row] = await desk.rows("incident")
    assert (row.state, row.reasons.split()[0]) == (state, reason)
    assert await desk.kinds() == (["recorded"] if state == "recorded" else [])


@pytest.mark.parametrize(
    "fields",
    [{}, {"PID_30": "N"}, {"PV1_36": "01"}, {"PV1_36": "01", "PID_30": "N"}, {"PID_29": "20261120"}, {"PID_30": '""'}],
)
async def test_a_living_patient_is_no_incident(desk: Desk, fields: dict[str, str]) -> None:
    await desk.send(hl7("A08", **fields))
    assert await desk.states() == []


async def test_a_known_patient_whose_indicator_changes_has_died(desk: Desk) -> None:
    await desk.send(hl7("A01", ident="1"))
    await desk.send(hl7("A31", ident="2", PID_30="Y", PV1_7="A1"))
    await expect(desk, "recorded")


async def test_a_change_with_a_living_disposition_is_for_review(desk: Desk) -> None:
    await desk.send(hl7("A01", ident="1"))
    await desk.send(hl7("A08", ident="2", PID_30="Y", PV1_36="01"))
    assert await desk.states() == ["review"]


async def test_an_indicator_that_was_seen_before_is_no_change(desk: Desk) -> None:
    for n in range(3):
        await desk.send(hl7("A08", ident=str(n), PID_30="Y"))
    assert await desk.states() == ["review"]
    await expect(desk)


async def test_an_empty_indicator_leaves_what_was_said_and_a_deletion_does_not(desk: Desk) -> None:
    for n, indicator in enumerate(("Y", "", "Y")):
        await desk.send(hl7("A08", ident=str(n), PID_30=indicator))
    assert await desk.states() == ["review"]
    for n, indicator in enumerate(('""', "Y"), 3):
        await desk.send(hl7("A31", ident=str(n), PID_30=indicator))
    await expect(desk, "recorded")


async def test_a_recorded_death_never_triggers_again(desk: Desk, clock: ManualClock) -> None:
    await desk.send(death(ident="1"))
    for n in range(2, 6):
        await clock.advance(days=20)
        await desk.send(death("A08", ident=str(n), PID_30="Y", PV1_7="B2"))
    await expect(desk, "recorded")


async def test_there_is_one_item_for_review_a_patient(desk: Desk) -> None:
    for n in range(4):
        await desk.send(hl7("A08", ident=str(n), PID_30="N", PID_29="20261120"))
    assert await desk.states() == ["review"]


async def test_evidence_of_a_death_settles_an_open_doubt(desk: Desk) -> None:
    await desk.send(hl7("A08", ident="1", PID_30="Y"))
    await desk.send(death(ident="2"))
    assert await desk.states() == ["dismissed", "recorded"]
    await expect(desk, "recorded")


async def test_an_outcome_older_than_the_limit_waits_for_a_word(desk: Desk) -> None:
    await desk.send(death(PID_29="20261106"))
    [row] = await desk.rows("incident")
    assert (row.state, row.reasons) == ("review", "discharged_dead older")
    await desk.send(death(ident="2", PID_29="20261106"))
    assert await desk.states() == ["review"]


@pytest.mark.database("sqlite", "postgresql")
class TestRetraction:
    @pytest.mark.parametrize("event", ["A11", "A13"])
    async def test_a_cancelled_visit_takes_its_death_back(self, desk: Desk, event: str) -> None:
        await desk.send(death(ident="1"))
        await desk.send(hl7(event, ident="2", PID_30="Y"))
        await expect(desk, "recorded", "retracted")
        recorded, retracted = await desk.events()
        assert recorded[1]["incident_ref"] == retracted[1]["incident_ref"]
        assert await desk.rows("involved") == []

    async def test_another_visit_does_not(self, desk: Desk) -> None:
        await desk.send(death(ident="1"))
        await desk.send(hl7("A13", ident="2", PV1_19="V2"))
        await desk.send(hl7("A13", ident="3", PV1_19=""))
        await expect(desk, "recorded")

    async def test_the_account_stands_in_for_a_missing_visit_number(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PV1_19="", PID_18="ACC1"))
        await desk.send(hl7("A13", ident="2", PV1_19="", PID_18="ACC2"))
        await expect(desk, "recorded")
        await desk.send(hl7("A13", ident="3", PV1_19="", PID_18="ACC1"))
        await expect(desk, "recorded", "retracted")

    async def test_discharged_cancelled_and_discharged_again_is_offered_once_more(self, desk: Desk) -> None:
        await desk.send(death(ident="1"))
        await desk.send(hl7("A13", ident="2"))
        await desk.send(death(ident="3"))
        await expect(desk, "recorded", "retracted", "recorded")
        first, _, second = await desk.events()
        assert first[1]["incident_ref"] != second[1]["incident_ref"]

    async def test_the_same_within_one_transaction(self, desk: Desk) -> None:
        await asyncio.gather(*(desk.send(m) for m in (death(ident="1"), hl7("A13", ident="2"), death(ident="3"))))
        await expect(desk, "recorded", "retracted", "recorded")
        assert await desk.states() == ["recorded", "retracted"]

    @pytest.mark.parametrize("fields", [{"PV1_36": "01"}, {"PV1_36": '""'}, {"PID_30": "N"}])
    async def test_an_update_takes_the_evidence_back(self, desk: Desk, fields: dict[str, str]) -> None:
        await desk.send(death(ident="1"))
        await desk.send(hl7("A08", ident="2", **fields))
        await expect(desk, "recorded", "retracted")

    @pytest.mark.parametrize(
        "fields",
        [{}, {"PV1_36": "01", "PV1_19": "V0"}, {"PV1_36": "20", "PID_30": "N"}, {"PV1_36": "01", "PID_30": "Y"}],
    )
    async def test_an_update_that_says_less_or_otherwise_does_not(self, desk: Desk, fields: dict[str, str]) -> None:
        await desk.send(death(ident="1"))
        await desk.send(hl7("A08", ident="2", **fields))
        await expect(desk, "recorded")

    async def test_only_the_source_that_said_so_takes_it_back(self, desk: Desk) -> None:
        two = with_second_source(desk)
        await two.send(death(ident="1"))
        await two.send(hl7("A08", ident="2", PID_30="N").replace(b"|EHR|", b"|LAB|"))
        await expect(two, "recorded")
        await two.send(hl7("A08", ident="3", PID_30="N"))
        await expect(two, "recorded", "retracted")

    async def test_a_doubt_said_again_is_no_word_against_it(self, desk: Desk) -> None:
        for n in range(3):
            await desk.send(hl7("A08", ident=str(n), PID_30="N", PID_29="20261120"))
        assert await desk.states() == ["review"]

    async def test_a_doubt_is_taken_back_in_silence(self, desk: Desk) -> None:
        await desk.send(hl7("A08", ident="1", PID_30="Y"))
        await desk.send(hl7("A08", ident="2", PID_30="N"))
        assert await desk.states() == ["retracted"]
        await expect(desk)


@pytest.mark.database("sqlite", "postgresql")
class TestOnePatientByManyNames:
    async def test_feeds_that_share_a_key_tell_of_one_death(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PID_3="4711^^^HOSP^MR"))
        await desk.send(death(ident="2", PID_3="4711^^^HOSP^MR~9^^^NHS^NH", PV1_7="B2"))
        await desk.send(death(ident="3", PID_3="9^^^NHS^NH"))
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [BEN]

    async def test_the_same_within_one_transaction(self, desk: Desk) -> None:
        names = ["4711^^^HOSP^MR", "4711^^^HOSP^MR~9^^^NHS^NH", "9^^^NHS^NH"]
        await asyncio.gather(*(desk.send(death(ident=str(n), PID_3=name)) for n, name in enumerate(names)))
        await expect(desk, "recorded")

    @pytest.mark.parametrize("story", ["1 2 12 +1 +2", "1 2 +1 12 +2", "1 2 +1 +12 +2", "2 12 +1 +2", "1 2 +12 +1 +2"])
    async def test_whichever_feed_comes_first(self, desk: Desk, story: str) -> None:
        for n, step in enumerate(story.split()):
            names = "~".join(f"{number}^^^AUTHORITY{number}" for number in step.strip("+"))
            await desk.send((death if "+" in step else hl7)(ident=str(n), PID_3=names))
        await expect(desk, "recorded")

    async def test_the_same_number_by_another_authority_is_another_patient(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PID_3="4711^^^HOSP^MR"))
        await desk.send(death(ident="2", PID_3="4711^^^CLINIC^MR"))
        await expect(desk, "recorded", "recorded")

    async def test_a_placeholder_number_makes_no_two_patients_one(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PID_3="1^^^HOSP^MR~999999999^^^USSSA^SS"))
        await desk.send(death(ident="2", PID_3="2^^^HOSP^MR~999999999^^^USSSA^SS"))
        await expect(desk, "recorded", "recorded")

    async def test_a_merge_moves_a_recorded_death(self, desk: Desk) -> None:
        await desk.send(death(ident="1", PID_3="OLD^^^HOSP"))
        await desk.send(hl7("A40", ident="2", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP", PV1_3="", PV1_19=""))
        await desk.send(death(ident="3", PID_3="NEW^^^HOSP"))
        await expect(desk, "recorded")

    async def test_a_merge_moves_it_to_a_patient_known_before(self, desk: Desk) -> None:
        await desk.send(hl7("A01", ident="1", PID_3="NEW^^^HOSP"))
        await desk.send(death(ident="2", PID_3="OLD^^^HOSP"))
        await desk.send(hl7("A40", ident="3", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP"))
        await desk.send(death(ident="4", PID_3="NEW^^^HOSP"))
        await expect(desk, "recorded")

    async def test_a_merge_moves_what_was_last_said(self, desk: Desk) -> None:
        await desk.send(hl7("A01", ident="1", PID_3="OLD^^^HOSP"))
        await desk.send(hl7("A01", ident="2", PID_3="NEW^^^HOSP"))
        await desk.send(hl7("A40", ident="3", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP"))
        assert len(await desk.rows("patient")) == 1
        await desk.send(hl7("A31", ident="4", PID_3="OLD^^^HOSP", PID_30="Y"))
        await expect(desk, "recorded")

    @pytest.mark.parametrize(("disposition", "left"), [("", "review"), ("20", "recorded")])
    async def test_a_merge_leaves_one_item_for_review_at_most(self, desk: Desk, disposition: str, left: str) -> None:
        await desk.send(hl7("A08", ident="1", PID_3="OLD^^^HOSP", PID_30="Y"))
        await desk.send(hl7("A08", ident="2", PID_3="NEW^^^HOSP", PID_30="Y", PV1_36=disposition))
        await desk.send(hl7("A40", ident="3", PID_3="NEW^^^HOSP", MRG_1="OLD^^^HOSP"))
        assert await desk.states() == ["dismissed", left]

    async def test_two_deaths_in_one_unit_within_a_minute_are_two(self, desk: Desk) -> None:
        await asyncio.gather(desk.send(death(ident="1", PID_3="1^^^H")), desk.send(death(ident="2", PID_3="2^^^H")))
        await expect(desk, "recorded", "recorded")


@pytest.mark.database("sqlite", "postgresql")
class TestRepetition:
    async def test_the_same_message_has_the_same_answer_and_no_effect(self, desk: Desk, clock: ManualClock) -> None:
        first = await desk.receiver.from_mllp(death())
        await clock.advance(minutes=5)
        assert await desk.receiver.from_mllp(death()) == first
        await expect(desk, "recorded")
        assert len(await desk.rows("raw_message")) == 1

    async def test_also_within_one_transaction(self, desk: Desk) -> None:
        answers = await asyncio.gather(*(desk.receiver.from_mllp(death()) for _ in range(3)))
        assert answers[0] == answers[1] == answers[2]
        await expect(desk, "recorded")
        assert len(await desk.rows("raw_message")) == 1

    async def test_also_after_a_restart(self, desk: Desk) -> None:
        first = await desk.receiver.from_mllp(death())
        assert await Desk(desk.context).receiver.from_mllp(death()) == first
        await expect(desk, "recorded")

    async def test_a_reused_control_id_with_another_body_is_another_message(self, desk: Desk) -> None:
        await desk.send(death(PID_3="1^^^H"))
        await desk.send(death(PID_3="2^^^H"))
        await expect(desk, "recorded", "recorded")


class TestPeople:
    async def listed(self, desk: Desk, **fields: str) -> list[str]:
        await desk.send(hl7(PV1_36="20", **fields))
        return [one["person_ref"] for one in (await desk.events())[0][1]["involved"]]

    @pytest.mark.parametrize("field", ["PV1_7", "PV1_9", "PV1_17", "PV1_52"])
    async def test_these_fields_of_the_visit_list_people(self, desk: Desk, field: str) -> None:
        assert await self.listed(desk, **{field: "A1~B2"}) == [ANNA, BEN]

    @pytest.mark.parametrize(
        ("role", "listed"),
        [
            ("AT^Attending", True),
            ("TN", True),
            ("PP^Primary Care Provider", False),
            ("RP", False),
            ("FHCP", False),
            ("X^Referring physician", False),
            ("1^^L^PP", False),
        ],
    )
    async def test_roles_from_outside_are_left_out(self, desk: Desk, role: str, listed: bool) -> None:
        assert await self.listed(desk, ROL_2="AD", ROL_3=role, ROL_4="A1") == ([ANNA] if listed else [])

    async def test_participants_are_listed(self, desk: Desk) -> None:
        assert await self.listed(desk, PRT_2="AD", PRT_4="AT", PRT_5="B2") == [BEN]

    async def test_a_role_that_is_taken_out_is_not_listed(self, desk: Desk) -> None:
        assert await self.listed(desk, ROL_2="DE", ROL_3="AT", ROL_4="A1") == []

    @pytest.mark.parametrize(
        ("xcn", "found"),
        [
            ("A1", True),
            ("A1^^^^^^^^EHR", True),
            ("111^^^^^^^^NPI", True),
            ("111^^^^^^^^&2.16.840.1.113883.4.6&ISO", True),
            ("111^^^^^^^^OTHER&2.16.840.1.113883.4.6&ISO", True),
            ("A1^^^^^^^^OTHER", False),
            ("A1^^^^^^^^&&ISO", False),
            ("ZZ", False),
            ("111", False),
        ],
    )
    async def test_an_identifier_counts_with_its_authority(self, desk: Desk, xcn: str, found: bool) -> None:
        assert await self.listed(desk, PV1_7=xcn) == ([ANNA] if found else [])
        assert len(await desk.rows("unmatched")) == (0 if found else 1)


class TestTimes:
    async def occurred(self, desk: Desk, **fields: str) -> str:
        await desk.send(hl7("A03", PV1_36="20", **fields))
        return str((await desk.events())[0][1]["occurred_at"])

    async def test_precedence(self, desk: Desk) -> None:
        fields = {"EVN_2": "202611210610", "EVN_6": "202611210540", "PV1_45": "202611210510", "PID_29": "202611210440"}
        assert await self.occurred(desk, **fields) == "2026-11-21T04:30:00Z"

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"EVN_2": "202611210610", "EVN_6": "202611210540", "PV1_45": "202611210510"}, "2026-11-21T05:00:00Z"),
            ({"EVN_2": "202611210610", "EVN_6": "202611210540"}, "2026-11-21T05:30:00Z"),
            ({"EVN_2": "202611210610"}, "2026-11-21T06:00:00Z"),
            ({"PID_29": "20261121041500.123+0100"}, "2026-11-21T03:15:00Z"),
            ({"PID_29": "rubbish", "PV1_45": "202611210510"}, "2026-11-21T05:00:00Z"),
            ({"PID_29": "20261120", "PV1_45": "202611201730"}, "2026-11-20T17:30:00Z"),
            ({"PID_29": "20261120", "PV1_45": "202611210100"}, "2026-11-20T00:00:00Z"),
            ({"PID_29": "20301120"}, "2026-11-21T09:00:00Z"),
        ],
    )
    async def test_what_counts(self, desk: Desk, fields: dict[str, str], expected: str) -> None:
        assert await self.occurred(desk, **fields) == expected

    async def test_a_time_without_an_offset_is_the_sources(self, desk: Desk) -> None:
        there = with_source(desk, timezone="America/New_York")
        assert await self.occurred(there, PID_29="202611200300") == "2026-11-20T08:00:00Z"


class TestUnits:
    async def unit(self, desk: Desk, **fields: str) -> str:
        await desk.send(death(**fields))
        return str((await desk.events())[0][1]["unit"])

    async def test_a_unit_goes_by_the_sites_name(self, desk: Desk) -> None:
        assert await self.unit(with_source(desk, units={"3W": "Ward 3"}), PV1_3="3W^12^1") == "Ward 3"

    async def test_after_transit_it_is_the_one_before(self, desk: Desk) -> None:
        assert await self.unit(with_source(desk, transit_units=("MORGUE",)), PV1_3="MORGUE", PV1_6="ED^1") == "ED"


class TestHeader:
    @pytest.mark.parametrize("processing", ["P^A", "P^R", "P^I"])
    async def test_records_loaded_from_an_archive_have_no_effect(self, desk: Desk, processing: str) -> None:
        assert await desk.send(death().replace(b"|P|2.5", f"|{processing}|2.5".encode())) == ["AA"]
        await expect(desk)

    async def test_a_training_message_is_refused(self, desk: Desk) -> None:
        [answer] = await desk.receiver.from_mllp(death().replace(b"|P|2.5", b"|T|2.5"))
        assert codes_of(answer) == ("AR", "202")

    async def test_an_empty_processing_id_counts_as_production(self, desk: Desk) -> None:
        assert await desk.send(death().replace(b"|P|2.5", b"||2.5")) == ["AA"]
        await expect(desk, "recorded")

    async def test_a_source_nobody_knows_is_refused(self, desk: Desk) -> None:
        named = with_source(desk, match=desk.context.settings.sources["ehr"].match.model_copy(update={"msh3": "OTHER"}))
        [answer] = await named.receiver.from_mllp(death())
        assert codes_of(answer) == ("AR", "103")

    async def test_nothing_expected_is_told_apart_here(self, desk: Desk) -> None:
        """A unit where death is expected is published like any other: matching offers check-ins there instead."""
        await with_policy(desk, expected_units=("ICU",)).send(death())
        await expect(desk, "recorded")


def codes_of(answer: bytes) -> tuple[str, str]:
    msa, err = answer.split(b"\r")[1:3]
    return msa.split(b"|")[1].decode(), err.split(b"|")[3].split(b"^")[0].decode()

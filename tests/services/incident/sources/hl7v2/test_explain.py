"""`leeward hl7 explain`: the decision and its reasons, and nothing of the patient's."""

from services.incident import SERVICE
from services.incident.sources.hl7v2.explain import explain
from tests.services.incident.conftest import Desk, death, hl7


def test_a_death(desk: Desk) -> None:
    lines = explain(
        b"\x0b" + death(PV1_7="A1^Anna~X^Who^^^^^^^OTHER", PID_5="SECRET") + b"\x1c\r", desk.context.settings
    )
    assert lines[:3] == ["read: ADT^A03, segments MSH PID PV1", "source: ehr", "answer: AA, original mode"]
    assert "PV1-36: one of death_dispositions" in lines
    assert "people: 2 listed, 1 of them by an authority that is not in identifier_systems" in lines
    assert "decision for a patient not seen before: record (discharged_dead)" in lines
    text = "\n".join(lines)
    assert not [word for word in ("SECRET", "4711", "Anna", "Who", "V1,") if word in text]


def test_what_rests_on_what_is_known(desk: Desk) -> None:
    lines = explain(hl7("A31", PID_30="Y"), desk.context.settings)
    assert "decision for a patient not seen before: review (indicator_first_seen)" in lines
    assert "decision for a patient last seen alive: record (indicator_changed)" in lines
    assert "decision for a patient last seen with PID-30 Y: nothing (no_evidence)" in lines


def test_what_is_refused_or_not_read(desk: Desk) -> None:
    settings = desk.context.settings
    assert explain(b"rubbish", settings) == [
        "read: no message",
        "answer: AR, original mode, 100 Segment sequence error at MSH^1 (no_header)",
    ]
    assert explain(hl7("R01", kind="ORU"), settings)[-1] == "decision: nothing (event_not_read)"
    assert explain(death().replace(b"|P|2.5", b"|P^A|2.5"), settings)[-1] == "decision: nothing (not_live)"
    assert "no answer, enhanced mode (NE/NE)" in explain(hl7(msh="|||NE|NE"), settings)[2]
    merge = explain(hl7("A40", PID_3="1^^^H", MRG_1="2^^^H"), settings)
    assert merge[-1] == "decision: merge, 1 patient(s) with identifiers on both sides"


async def test_status_is_counts(desk: Desk) -> None:
    await desk.send(death(PV1_7="ZZ"))
    figures = await desk.context.store.read(lambda conn: SERVICE.status(conn, desk.context.settings))
    assert figures == {
        "incidents": {"recorded": 1},
        "unmatched": 1,
        "identifiers": 4,
        "sources": 2,
        "reconciliation": None,
        "to_fetch": 0,
    }

"""A site's own rules for OBX and Z segments."""

from typing import Any

import pytest
from pydantic import ValidationError

from leeward.settings.policy import Rule, Source
from services.incident.sources.hl7v2.explain import explain
from tests.services.incident.conftest import ANNA, Desk, death, hl7, with_source

BLUE: dict[str, Any] = {
    "name": "code_blue",
    "segment": "OBX",
    "when": {"3.1": ["CB1"], "5.1": ["FAILED", "F"]},
    "category": "failed_resuscitation",
    "level": "severe",
}
LABEL: dict[str, Any] = {"name": "tag", "segment": "ZDE", "when": {"2": ["EXITUS"]}, "messages": ["ADT^A08", "MDM"]}


def ruled(desk: Desk, *rules: dict[str, Any]) -> Desk:
    return with_source(desk, rules=tuple(Rule.model_validate(rule) for rule in rules))


def result(ident: str = "1", status: str = "F", *, order: str = "F77", value: str = "FAILED^x") -> bytes:
    obx = {"OBX_3": "CB1^Code blue", "OBX_5": value, "OBX_11": status, "OBX_14": "20261121083000"}
    return hl7("R01", kind="ORU", ident=ident, PV1_7="A1^Anna", OBR_3=order, **obx)


async def test_a_result_of_the_sites_own_is_an_incident_once(desk: Desk) -> None:
    desk = ruled(desk, BLUE)
    assert await desk.send(result()) == ["AA"]
    assert await desk.send(result("2", "C")) == ["AA"]
    [(kind, body)] = await desk.events()
    assert (kind, body["category"], body["unit"]) == ("recorded", "failed_resuscitation", "ICU")
    assert body["severity"] == {"scheme": "leeward", "code": "severe", "level": "severe"}
    assert body["occurred_at"] == "2026-11-21T08:30:00Z"
    assert [one["person_ref"] for one in body["involved"]] == [ANNA]
    await desk.send(result("3", order="F78"))
    assert await desk.kinds() == ["recorded", "recorded"]


@pytest.mark.parametrize("message", [result(value="HELD"), result(status="D"), result(status="X"), result(status="I")])
async def test_another_value_or_no_result_is_none(desk: Desk, message: bytes) -> None:
    desk = ruled(desk, BLUE)
    assert await desk.send(message) == ["AA"]
    assert await desk.states() == []


async def test_both_values_must_stand_in_one_segment(desk: Desk) -> None:
    desk = ruled(desk, BLUE)
    split = hl7("R01", kind="ORU", OBX_3="CB1", OBX_5="HELD") + b"OBX|2||OTHER||FAILED||||||F\r"
    await desk.send(split)
    assert await desk.states() == []


async def test_a_death_by_a_z_segment_meets_that_of_the_discharge(desk: Desk) -> None:
    desk = ruled(desk, LABEL)
    await desk.send(hl7("A08", ZDE_2="EXITUS", PV1_7="A1"))
    await desk.send(death(ident="2"))
    assert await desk.kinds() == ["recorded"]
    await desk.send(hl7("A13", ident="3"))
    assert await desk.kinds() == ["recorded", "retracted"]


async def test_a_rule_may_ask_for_a_persons_word(desk: Desk) -> None:
    desk = ruled(desk, {**LABEL, "review": True})
    await desk.send(hl7("T02", kind="MDM", ZDE_2="EXITUS"))
    [row] = await desk.rows("incident")
    assert (row.state, row.reasons) == ("review", "site_rule")


async def test_it_holds_for_its_messages_alone_and_never_for_a_cancellation(desk: Desk) -> None:
    desk = ruled(desk, LABEL)
    await desk.send(hl7("A01", ZDE_2="EXITUS"))
    await desk.send(hl7("A13", ident="2", ZDE_2="EXITUS"))
    assert await desk.states() == []


def test_explain_names_the_rule(desk: Desk) -> None:
    settings = ruled(desk, BLUE, LABEL).context.settings
    assert "rules of the site met: code_blue" in explain(result(), settings)
    lines = explain(hl7("A08", ZDE_2="EXITUS"), settings)
    assert "rules of the site met: tag" in lines
    assert "decision for a patient not seen before: record (site_rule)" in lines


@pytest.mark.parametrize(
    "fault", [{"when": {}}, {"when": {"3,1": ["x"]}}, {"when": {"3": []}}, {"segment": "obx"}, {"name": "A b"}]
)
def test_a_rule_that_could_never_be_met_stops_the_start(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Source.model_validate({"kind": "hl7v2", "rules": [{**BLUE, **fault}]})

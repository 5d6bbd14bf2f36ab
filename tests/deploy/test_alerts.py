"""Alert rules speak of metrics that exist, with labels that they have."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from leeward import telemetry

FILE = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(FILE.read_text())
    assert list(found) == ["groups"]
    return [rule for group in found["groups"] for rule in group["rules"]]


def metrics() -> dict[str, tuple[str, ...]]:
    """The labels of each metric, by the name under which Prometheus knows it."""
    declared = [one for one in vars(telemetry).values() if isinstance(one, (Counter, Gauge, Histogram))]
    return {one._name + ("_total" if isinstance(one, Counter) else ""): one._labelnames for one in declared}


def names(rule: dict[str, Any]) -> set[str]:
    return set(re.findall(r"\bleeward_\w+", rule["expr"]))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_rule_can_fire(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Leeward[A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"\d+[mh]", rule.get("for", "5m"))
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "action"}
    known = metrics()
    assert names(rule)
    assert names(rule) <= set(known)
    grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
    matched = re.findall(r"(\w+)=~?\"", rule["expr"])
    wanted = {label.strip() for group in grouped for label in group.split(",")} | set(matched)
    for name in names(rule):
        assert wanted <= set(known[name])
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_names_are_given_once_and_what_matters_is_watched() -> None:
    alerts = [rule["alert"] for rule in rules()]
    assert len(alerts) == len(set(alerts))
    watched = {name for rule in rules() for name in names(rule)}
    assert {
        "leeward_reconciliation_missing",
        "leeward_fhir_silent_seconds",
        "leeward_fhir_events_missed_total",
        "leeward_events_parked_total",
        "leeward_events_dead_total",
        "leeward_bus_lag_events",
        "leeward_bus_reread_time_seconds",
        "leeward_bus_oldest_seconds",
        "leeward_messages_refused_total",
    } <= watched

"""The example policy file loads, and says what holds when there is none."""

import tomllib
from pathlib import Path

from leeward.settings import load_settings
from leeward.settings.policy import FHIR_ALONE, Policy, Source

EXAMPLE = Path(__file__).parents[3] / "leeward.example.toml"


def test_the_example_is_the_defaults() -> None:
    given = tomllib.loads(EXAMPLE.read_text())
    assert Policy.model_validate(given) == Policy()


def test_the_example_names_every_default_but_the_ones_a_site_looks_up() -> None:
    given = tomllib.loads(EXAMPLE.read_text())
    looked_up = {"crisis_lines", "emergency", "on_call", "referrals", "concerns"}
    assert set(given) == set(Policy.model_fields) - looked_up
    for section in ("incident", "outreach", "supporters", "feedback"):
        assert set(given[section]) == set(type(getattr(Policy(), section)).model_fields)
    assert set(given["sources"]["ehr"]) == set(Source.model_fields) - FHIR_ALONE - {"rules"}


def test_the_commented_samples_fit_as_well() -> None:
    given = tomllib.loads("\n".join(map(in_force, EXAMPLE.read_text().splitlines())))
    policy = Policy.model_validate(given)
    chart = policy.sources["chart"]
    assert chart == Source(kind="fhir")
    assert chart.model_fields_set == FHIR_ALONE | {"kind"}
    assert [rule.name for rule in policy.sources["ehr"].rules] == ["code_blue"]
    assert policy.channels.webhook
    assert policy.crisis_lines["en"]
    assert policy.emergency["en"]
    assert policy.on_call
    assert policy.referrals["en"]
    assert policy.concerns


def in_force(line: str) -> str:
    """A commented sample as it would be written."""
    text = line.removeprefix("# ")
    return text if text.startswith("[") or " = " in text else line


def test_settings_start_with_it() -> None:
    settings = load_settings({"LEEWARD_CONFIG": str(EXAMPLE), "LEEWARD_ENV": "test"})
    assert settings.outreach.mode == "rehearsal"

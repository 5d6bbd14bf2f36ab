"""Whatever JSON comes, FHIR's reader gives claims or names a place; it raises nothing else and echoes nothing."""

import copy
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from leeward.settings.policy import Source
from services.incident.sources.fhir.notification import parse
from services.incident.sources.fhir.references import Resources, references
from services.incident.sources.fhir.resources import read_resources
from services.incident.sources.fhir.routes import said_by
from services.incident.sources.fhir.tree import JsonError, load
from tests.fuzzing import fuzzed
from tests.services.incident.sources.fhir.resources import (
    adverse_event,
    backport,
    coded,
    encounter,
    patient,
    practitioner,
    r5,
)

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
SOURCE = Source(kind="fhir", harm={"PhysicalHarm": {"5": "fatal"}})
leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
anything = st.recursive(
    leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=6), one, max_size=3)
)
sound = st.sampled_from(
    [
        backport(encounter(), patient(deceasedDateTime="2026-11-20"), practitioner(), focus="Encounter/e1"),
        r5(encounter(), adverse_event(outcome=coded("fatal")), focus="Encounter/e1"),
        encounter(contained=[practitioner("c1")], identifier=[{"value": "V1", "use": "official"}]),
        adverse_event(severity=coded("severe"), extension=[{"url": "x/PhysicalHarm", "valueCode": "5"}]),
    ]
)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A sound message with something else in a few of its places."""
    message = copy.deepcopy(draw(sound))
    for _ in range(draw(st.integers(1, 3))):
        at = message
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and draw(st.integers(0, 3)):
                at = at[key]
                continue
            at[key] = draw(anything)
            break
    return message


def taken(body: bytes) -> None:
    """Read as a notification and as a stored message."""
    for reading in (_notified, lambda raw: said_by(raw, "chart", SOURCE, NOW)):
        with suppress(JsonError):
            assert all(one.occurred_at is None or one.occurred_at <= NOW for one in reading(body))


def _notified(raw: bytes) -> Any:
    told = parse(load(raw), "https://fhirserver.org/fhir")
    told.wanted()
    return read_resources(Resources("chart", SOURCE, NOW, list(told.resources)))


@fuzzed(mutated())
def test_what_is_almost_right(message: Any) -> None:
    taken(json.dumps(message).encode())


@fuzzed(anything)
def test_any_json(message: Any) -> None:
    taken(json.dumps(message).encode())


@fuzzed(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    taken(body)


def test_a_wide_one_takes_time_by_its_length_alone() -> None:
    wide = load(json.dumps(encounter(extension=[{}] * 300_000)).encode())
    began = time.process_time()
    assert set(references([wide], "")) == {"Patient/p1", "Practitioner/d1", "Location/l1"}
    assert time.process_time() - began < 2

"""Every sample ever published still parses, and a breaking change is a new version."""

import copy
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from leeward.contracts import (
    EVENTS,
    DeliveryOutcome,
    Event,
    EventData,
    MessageCancelled,
    bucket_down,
    bucket_up,
    decode,
    encode,
)
from leeward.contracts.envelope import UnknownType
from leeward.contracts.generate import files, headers, stale, write
from tests.contract.compatibility import breaks

HERE = Path(__file__).parent
SAMPLES = sorted((HERE / "samples").glob("*/*.json"))
PUBLISHED = sorted((HERE / "published").glob("*.json"))
HASHES = {line[66:]: line[:64] for line in (HERE / "samples" / "SHA256SUMS").read_text().splitlines()}
REF = "6f1c2a3e-5b4d-4c8e-9a7b-000000000001"
NINE = datetime(2026, 11, 21, 9, tzinfo=UTC)


def test_generated_files_are_up_to_date() -> None:
    assert stale() == []


def test_a_stale_file_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    assert stale(tmp_path) == []
    (tmp_path / "schemas" / "leeward.old.thing.v1.json").write_text("{}")
    (tmp_path / "asyncapi.yaml").write_text("asyncapi: 2.6.0\n")
    assert stale(tmp_path) == ["asyncapi.yaml", "schemas/leeward.old.thing.v1.json"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_sample_ever_published_still_parses(path: Path) -> None:
    data = decode(path.parent.name, path.read_bytes())
    assert data.type == path.parent.name
    told = json.loads(data.model_dump_json(exclude_none=True))
    assert json.loads(path.read_text()).items() <= told.items()


def test_no_sample_was_edited_or_taken_away() -> None:
    there = {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in SAMPLES}
    assert there == HASHES


def test_every_type_has_a_sample_and_a_published_schema() -> None:
    assert {path.parent.name for path in SAMPLES} >= set(EVENTS)
    assert {path.stem for path in PUBLISHED} >= set(EVENTS)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_schema_is_kept_or_has_a_successor(path: Path) -> None:
    stem, _, version = path.stem.rpartition(".v")
    current = files().get(f"schemas/{path.name}")
    if current is None:
        assert any(f"{stem}.v{later}" in EVENTS for later in range(int(version) + 1, int(version) + 9))
        return
    assert breaks(json.loads(path.read_text()), json.loads(current)) == []


Change = Callable[[Any], Any]
BREAKING: dict[str, Change] = {
    "removed": lambda s: s["properties"].pop("unit"),
    "renamed": lambda s: s["properties"].update(ward=s["properties"].pop("unit")),
    "retyped": lambda s: s["properties"]["unit"].update(type="integer"),
    "shortened": lambda s: s["properties"]["unit"].update(maxLength=20),
    "now required": lambda s: s["required"].append("urgency"),
    "no longer sure": lambda s: s["required"].remove("unit"),
    "fewer choices": lambda s: s["properties"]["urgency"]["enum"].remove("urgent"),
    "inner field": lambda s: s["$defs"]["Severity"]["properties"].pop("scheme"),
    "inner pattern": lambda s: s["$defs"]["Involved"]["properties"]["person_ref"].update(pattern="^x$"),
    "strict": lambda s: s.update(additionalProperties=False),
}


@pytest.mark.parametrize("change", BREAKING)
def test_the_check_sees_a_breaking_change(change: str) -> None:
    old = json.loads(files()["schemas/leeward.incident.recorded.v1.json"])
    new = copy.deepcopy(old)
    BREAKING[change](new)
    assert breaks(old, new) != []


def test_a_new_optional_field_or_choice_breaks_nothing() -> None:
    old = json.loads(files()["schemas/leeward.incident.recorded.v1.json"])
    new = copy.deepcopy(old)
    new["properties"]["shift"] = {"type": "string"}
    new["properties"]["urgency"]["enum"].append("soon")
    assert breaks(old, new) == []


def test_a_consumer_ignores_keys_of_a_newer_producer() -> None:
    assert decode("leeward.incident.retracted.v1", json.dumps({"incident_ref": REF, "new": 1})).key == REF


def test_an_unknown_type_is_said() -> None:
    with pytest.raises(UnknownType):
        decode("leeward.incident.retracted.v2", "{}")


@pytest.mark.parametrize("wrong", ["canary-person", REF.upper(), REF.replace("-4c8e", "-1c8e"), f"{REF}\n"])
def test_a_reference_is_a_uuid4_and_a_fault_does_not_echo_it(wrong: str) -> None:
    with pytest.raises(ValidationError) as refused:
        decode("leeward.incident.retracted.v1", json.dumps({"incident_ref": wrong}))
    assert wrong not in str(refused.value)


def requested(expires_at: str) -> EventData:
    body = {"request_ref": REF, "case_ref": REF, "step": "offer", "recipient_ref": REF, "template": "offer"}
    return decode("leeward.matching.message_requested.v1", json.dumps({**body, "expires_at": expires_at}))


def test_a_time_that_is_no_bucket_is_refused() -> None:
    for wrong in ("2026-11-21T09:01:00Z", "2026-11-21T09:15:00.001Z", "2026-11-21T09:15:00"):
        with pytest.raises(ValidationError):
            requested(wrong)


def test_a_time_travels_in_utc_whatever_its_sender_said() -> None:
    assert '"2026-11-21T09:15:00Z"' in requested("2026-11-21T10:15:00+01:00").model_dump_json()


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)), st.integers(-720, 720))  # noqa: DTZ001
def test_buckets_hold_the_time_between_them(naive: datetime, offset: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(minutes=offset)))
    down, up = bucket_down(moment), bucket_up(moment)
    assert down <= moment <= up
    assert up - down == (timedelta(0) if down == moment else timedelta(minutes=15))
    assert down.minute % 15 == down.second == down.microsecond == 0
    assert down.tzinfo is UTC


def test_the_envelope_tells_an_age_and_no_time() -> None:
    event = Event(REF, REF, MessageCancelled(request_ref=REF), NINE)
    told, body = encode(event, NINE + timedelta(minutes=16, milliseconds=5))
    assert told["ce_time"] == "2026-11-21T09:15:00Z"
    assert told["ce_agems"] == "960005"
    assert told["ce_type"] == "leeward.matching.message_cancelled.v1"
    assert told["ce_source"] == "/leeward/matching"
    assert set(headers(event.type)["required"]) == set(told)
    assert json.loads(body) == {"request_ref": REF}


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    event = Event(REF, REF, DeliveryOutcome(request_ref=REF, state="failed"), NINE)
    assert encode(event, NINE - timedelta(hours=1))[0]["ce_agems"] == "0"


def test_the_asyncapi_document_names_every_type_once() -> None:
    text = files()["asyncapi.yaml"]
    for event_type in EVENTS:
        assert text.count(f"\n    {event_type}:\n") == 1
        assert f'"schemas/{event_type}.json"' in text

"""A canary in every field: what was said of a patient is found nowhere, and after its time nor is anything else."""

import json
import logging
from datetime import timedelta
from typing import Any

import httpx
import pytest

from leeward.store import Timer, Unit
from leeward.store.retention import Retention
from leeward.testing import ManualClock
from services.incident.retention import delete_expired, destroy_keys
from services.incident.sealing import KEY_TIMER, DayKeys
from tests.databases import content
from tests.services.incident.conftest import ANNA, Desk, death, hl7
from tests.services.incident.sources.fhir.resources import (
    adverse_event,
    backport,
    client,
    coded,
    encounter,
    patient,
    post,
    practitioner,
    with_fhir,
)
from tests.services.incident.sources.test_api import SAFETY

CANARY = "CANARYBIRD"


def canaries(decisive: dict[tuple[str, int], str]) -> bytes:
    """A message with canaries in 55 fields of each segment, those apart that decide."""
    lines = [f"MSH|^~\\&|{CANARY}3|{CANARY}4|{CANARY}5|{CANARY}6|20261121||ADT^A03^{CANARY}|{CANARY}10|P|2.5||{CANARY}"]
    for name in ("EVN", "PID", "PD1", "NK1", "PV1", "PV2", "ROL", "PRT", "OBX", "ZZZ"):
        cells = [
            decisive.get((name, n), f"{CANARY}{name}{n}^{CANARY}b&{CANARY}c^^{CANARY}d~{CANARY}e") for n in range(1, 56)
        ]
        lines.append("|".join([name, *cells]))
    return "\r".join(lines).encode()


DECISIVE = {
    ("PID", 30): "Y",
    ("PV1", 36): "20",
    ("PV1", 3): f"ICU^{CANARY}",
    ("ROL", 3): "AT",
    ("PRT", 4): "AT",
}


@pytest.mark.parametrize("indicator", ["Y", "N"])
async def test_no_byte_of_the_database_holds_what_was_said(desk: Desk, indicator: str) -> None:
    assert await desk.send(canaries({**DECISIVE, ("PID", 30): indicator})) == ["AA"]
    assert await desk.states() == ["recorded" if indicator == "Y" else "review"]
    assert len(await desk.rows("unmatched")) > 5
    await desk.send(canaries({("PID", 30): "Y"}) + b"\rMRG|" + CANARY.encode())
    assert CANARY.encode() not in await content(desk.context.store)


async def test_nor_of_a_native_report(desk: Desk, web: httpx.AsyncClient) -> None:
    body = {
        "source_ref": CANARY,
        "occurred_at": "2026-11-21T08:40:00Z",
        "category": "medication_error",
        "severity": {"scheme": "lfpse", "code": "fatal"},
        "unit": "ICU",
        "patient": {"system": CANARY, "value": CANARY},
        "involved": [{"system": CANARY, "value": CANARY}],
    }
    headers = {**SAFETY, "Idempotency-Key": CANARY}
    assert (await web.post("/v1/incidents", headers=headers, content=json.dumps(body))).status_code == 202
    assert await desk.kinds() == ["recorded"]
    assert CANARY.encode() not in await content(desk.context.store)


def planted(value: Any) -> Any:
    """The same JSON with a canary in every string, those apart that decide, and in fields that nobody reads."""
    if isinstance(value, dict):
        kept = {key: one if key in DECIDING else planted(one) for key, one in value.items()}
        return {**kept, "note": [{"text": CANARY}], "extension": [{"url": CANARY, "valueString": CANARY}]}
    if isinstance(value, list):
        return [planted(one) for one in value]
    return f"{CANARY}{value}" if isinstance(value, str) else value


# what a FHIR message is decided by; of dates, codes and references a canary would make another message
DECIDING = frozenset(
    {"resourceType", "status", "actuality", "code", "end", "date", "type", "location", "deceasedDateTime", "parameter"}
)
STORIES = {
    "topic": backport(encounter(), patient(deceasedDateTime="2026-11-21"), practitioner()),
    "adverse event": adverse_event(outcome=coded("fatal")),
    "classic": encounter(),
}


@pytest.mark.parametrize("story", STORIES)
async def test_nor_of_fhir(desk: Desk, story: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    chart = with_fhir(desk)
    async with await client(chart) as door:
        assert (await post(door, planted(STORIES[story]))).status_code == 204
        metrics = (await door.get("/metrics")).text
        assert (await post(door, planted({"resourceType": "Bundle", "type": CANARY}))).status_code == 422
    assert set(await chart.kinds()) == {"recorded"}
    assert CANARY.encode() not in await content(desk.context.store)
    assert CANARY not in metrics + caplog.text


async def test_nor_of_a_table(desk: Desk, web: httpx.AsyncClient) -> None:
    names = "source_ref,occurred_at,category,severity_scheme,severity_code,unit,patient,involved"
    row = f"{CANARY},2026-11-21T08:40:00Z,medication_error,lfpse,fatal,ICU,{CANARY}={CANARY},{CANARY}={CANARY}"
    headers = {**SAFETY, "Content-Type": "text/csv"}
    assert (await web.post("/v1/incidents", headers=headers, content=f"{names}\n{row}\n")).status_code == 202
    assert await desk.kinds() == ["recorded"]
    assert CANARY.encode() not in await content(desk.context.store)


async def test_the_raw_inbox_can_be_read_until_its_key_is_gone(desk: Desk, clock: ManualClock) -> None:
    await desk.send(death())
    [raw] = await desk.rows("raw_message")
    keys = DayKeys(desk.context.keys)
    box = await desk.context.store.read(lambda conn: keys.open(conn, raw.key_ref))
    assert box is not None
    assert box.open(raw.sealed, raw.raw_ref) == death()

    [timer] = await desk.rows("timer")
    assert (timer.name, timer.due_at) == (KEY_TIMER, clock.now() + timedelta(hours=72))
    await clock.advance(hours=72)
    await desk.context.store.write(lambda unit: destroy_keys(unit, [Timer(timer.name, timer.key, timer.due_at)]))
    assert await desk.context.store.read(lambda conn: keys.open(conn, raw.key_ref)) is None
    await Retention(desk.context.store, delete_expired).once()
    left = await content(desk.context.store)
    assert raw.sealed[:40].encode() not in left
    assert await desk.rows("raw_message") == []


async def test_every_day_has_a_key_of_its_own(desk: Desk, clock: ManualClock) -> None:
    for n in range(3):
        await desk.send(death(ident=f"{n}a"))
        await desk.send(death(ident=f"{n}b"))
        await clock.advance(days=1)
    assert len(await desk.rows("day_key")) == 3
    assert len({row.key_ref for row in await desk.rows("raw_message")}) == 3


async def test_a_key_of_a_transaction_that_failed_is_not_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr("services.incident.decisions.decide.decide_claim", broken)
        assert await desk.send(death(ident="1")) == ["AE"]
    assert await desk.send(death(ident="2")) == ["AA"]
    [key], [raw] = await desk.rows("day_key"), await desk.rows("raw_message")
    assert raw.key_ref == key.key_ref


async def test_retention(desk: Desk, clock: ManualClock) -> None:
    async def forgets() -> dict[str, int]:
        await desk.context.store.write(delete_expired)
        names = ("raw_message", "day_key", "seen", "involved", "unmatched", "unmatched_link", "patient", "incident")
        return {name: len(await desk.rows(name)) for name in names}

    await desk.send(death(PV1_7="A1~ZZ"))
    full = dict.fromkeys(
        ("raw_message", "day_key", "seen", "involved", "unmatched", "unmatched_link", "patient", "incident"), 1
    )
    assert await forgets() == full
    await clock.advance(hours=71)
    assert await forgets() == full
    await clock.advance(hours=1)
    gone = {**full, "raw_message": 0, "day_key": 0}
    assert await forgets() == gone
    await clock.advance(days=5)
    gone["seen"] = 0
    assert await forgets() == gone
    await clock.advance(days=80)
    assert await forgets() == gone
    await clock.advance(days=3)
    gone |= {"involved": 0, "unmatched": 0, "unmatched_link": 0}
    assert await forgets() == gone
    assert ANNA.encode() not in str(await desk.rows("involved")).encode()
    await clock.advance(days=300)
    assert await forgets() == gone
    await clock.advance(days=20)
    assert await forgets() == dict.fromkeys(full, 0)


async def test_a_patient_still_seen_is_still_known(desk: Desk, clock: ManualClock) -> None:
    await desk.send(hl7("A01", ident="1"))
    for n in range(5):
        await clock.advance(days=300)
        await desk.send(hl7("A08", ident=f"again {n}"))

        def work(unit: Unit) -> None:
            delete_expired(unit)

        await desk.context.store.write(work)
    await desk.send(hl7("A31", ident="2", PID_30="Y"))
    [row] = await desk.rows("incident")
    assert row.reasons.split()[0] == "indicator_changed"

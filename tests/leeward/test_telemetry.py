"""Logs are structured lines of allowed fields; what other code says, warns or raises is never printed."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import MetaData

from leeward import telemetry
from leeward.settings import ServiceName
from tests.conftest import MakeContext

CANARY = "canary-4711"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as `configure_logs` makes it, put back afterwards."""
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    handlers, level = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    telemetry.configure_logs(stream)
    yield stream
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def told(lines: io.StringIO) -> list[dict[str, Any]]:
    assert CANARY not in lines.getvalue()
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_line_has_time_level_event_and_its_fields(lines: io.StringIO) -> None:
    telemetry.log("event_parked", service="matching", count=3)
    [line] = told(lines)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("at"))
    assert line == {"level": "info", "event": "event_parked", "service": "matching", "count": 3}


@pytest.mark.parametrize("field", ["name", "person_ref", "case_ref", "recipient_ref", "email", "message", "answer"])
def test_a_field_that_is_not_allowed_is_refused(lines: io.StringIO, field: str) -> None:
    with pytest.raises(KeyError, match=field):
        telemetry.log("event", **{field: CANARY})
    assert told(lines) == []


def test_of_another_librarys_line_only_its_place_is_kept(lines: io.StringIO) -> None:
    logging.getLogger("sqlalchemy.engine").error("INSERT %s", CANARY)
    logging.getLogger("leeward.inner").error(CANARY)
    logging.getLogger("aiosmtplib").info(CANARY)
    first, second = told(lines)
    assert (first["logger"], first["event"]) == ("sqlalchemy.engine", "library")
    assert first["place"].startswith("test_telemetry:")
    assert second["logger"] == "leeward.inner"


def test_of_an_exception_only_its_class_is_kept(lines: io.StringIO) -> None:
    try:
        raise LookupError(CANARY)
    except LookupError:
        logging.getLogger("uvicorn.error").exception(CANARY)
    assert told(lines)[0]["fault"] == "LookupError"


async def test_a_task_that_nobody_awaited_tells_its_class_alone(lines: io.StringIO) -> None:
    async def fail() -> None:
        raise LookupError(CANARY)

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": CANARY, "exception": task.exception(), "task": task})
    assert told(lines)[0]["fault"] == "LookupError"


def test_a_warnings_text_is_not_printed(lines: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(CANARY, UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert told(lines)[0]["logger"] == "py.warnings"


def test_a_record_that_cannot_be_formatted_prints_nothing(
    lines: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("leeward").info("%d", CANARY)
    assert told(lines) == []
    assert CANARY not in capsys.readouterr().err


@pytest.mark.parametrize(
    "crash",
    [
        "raise LookupError('canary-4711')",
        "import threading; t = threading.Thread(target=int, args=('canary-4711',)); t.start(); t.join()",
    ],
)
def test_a_process_that_dies_does_not_print_the_faults_text(crash: str) -> None:
    program = f"from leeward import telemetry; telemetry.configure_logs(); {crash}"
    died = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert CANARY not in died.stderr + died.stdout
    assert json.loads(died.stderr)["event"] == "crashed"


def test_a_faults_place_is_a_module_and_a_line() -> None:
    with pytest.raises(LookupError) as raised:
        raise LookupError(CANARY)
    assert re.fullmatch(r"test_telemetry\.py:\d+", telemetry.place(raised.value))
    assert telemetry.place(LookupError()) == "unknown"


def test_no_metric_has_a_label_that_could_tell_of_a_person() -> None:
    harmless = {
        "service",
        "type",
        "timer",
        "kind",
        "channel",
        "code",
        "source",
        "reason",
        "result",
        "way",
        "fault",
        "topic",
        "cause",
    }
    declared = [metric for metric in vars(telemetry).values() if isinstance(metric, MetricWrapperBase)]
    assert len(declared) >= 8
    for metric in declared:
        assert metric._name.startswith("leeward_")
        assert set(metric._labelnames) <= harmless, metric._name


@pytest.mark.parametrize("service", ["issuer", "box"])
async def test_no_metric_moves_with_a_rating_or_a_claim(service: ServiceName, make_context: MakeContext) -> None:
    store = make_context(service, MetaData()).store
    await store.write(lambda unit: unit.set_timer("x", "y", unit.now))
    assert telemetry.REGISTRY.get_sample_value("leeward_commit_seconds_count", {"service": service}) is None


async def test_commits_of_the_others_are_timed(make_context: MakeContext) -> None:
    store = make_context("notify", MetaData()).store
    await store.write(lambda unit: unit.set_timer("x", "y", unit.now))
    counted = telemetry.REGISTRY.get_sample_value("leeward_commit_seconds_count", {"service": "notify"})
    assert counted is not None
    assert counted >= 1

"""Every metric, declared here, and logs by allow-list: no label and no field can hold a person, a case or an answer."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from traceback import extract_tb
from types import TracebackType
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry(auto_describe=False)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

# ground
EVENTS_HANDLED: Final = Counter(
    "leeward_events_handled_total", "Events applied by a consumer.", ["service", "type"], registry=REGISTRY
)
EVENTS_REPEATED: Final = Counter(
    "leeward_events_repeated_total", "Events that had been applied before.", ["service"], registry=REGISTRY
)
EVENTS_PARKED: Final = Counter(
    "leeward_events_parked_total", "Events set aside after a fault.", ["service"], registry=REGISTRY
)
EVENTS_DEAD: Final = Counter(
    "leeward_events_dead_total", "Events given up after their last attempt.", ["service"], registry=REGISTRY
)
TIMERS_FAILED: Final = Counter(
    "leeward_timers_failed_total", "Timers postponed after a fault.", ["service", "timer"], registry=REGISTRY
)
COMMIT_SECONDS: Final = Histogram(
    "leeward_commit_seconds", "Time from begin to commit.", ["service"], buckets=_SECONDS, registry=REGISTRY
)
TRANSACTIONS_REPEATED: Final = Counter(
    "leeward_transactions_repeated_total",
    "Transactions run again because another replica's came first.",
    ["service"],
    registry=REGISTRY,
)
BUS_LAG: Final = Gauge(
    "leeward_bus_lag_events",
    "Events of a topic not yet applied by a consumer.",
    ["service", "topic"],
    registry=REGISTRY,
)
BUS_OLDEST: Final = Gauge(
    "leeward_bus_oldest_seconds",
    "Time since a consumer took the batch that it has not applied yet.",
    ["service", "topic"],
    registry=REGISTRY,
)
BUS_REREAD_TIME: Final = Gauge(
    "leeward_bus_reread_time_seconds",
    "When a consumer last found a log put back from a copy, or events of it gone, in Unix time; 0 for never.",
    ["service", "topic"],
    registry=REGISTRY,
)
BUS_REBUILT: Final = Counter(
    "leeward_bus_rebuilt_total",
    "Consumers and producers of Kafka replaced by new ones, by cause.",
    ["service", "cause"],
    registry=REGISTRY,
)
DEAD_LETTERS: Final = Gauge(
    "leeward_dead_letters",
    "Events that were given up, and neither replayed nor dropped since.",
    ["service"],
    registry=REGISTRY,
)
OUTBOX_WAITING: Final = Gauge(
    "leeward_outbox_waiting_events", "Committed events not yet acknowledged by Kafka.", ["service"], registry=REGISTRY
)
OUTBOX_OLDEST: Final = Gauge(
    "leeward_outbox_oldest_seconds",
    "Time for which the first event of the outbox has been waiting for Kafka.",
    ["service"],
    registry=REGISTRY,
)
TASKS_RESTARTED: Final = Counter(
    "leeward_tasks_restarted_total", "Background tasks that ended with a fault.", ["service"], registry=REGISTRY
)
READY: Final = Gauge("leeward_ready", "1 while the service can do its work.", ["service"], registry=REGISTRY)
DATABASE_FAULT: Final = Gauge(
    "leeward_database_fault",
    "1 while a database cannot store, by reason code.",
    ["service", "reason"],
    registry=REGISTRY,
)
CLOCK_DOUBTED: Final = Gauge(
    "leeward_clock_doubted", "1 while the clock is not believed, so that what would end waits.", registry=REGISTRY
)
CRISIS_LINES_UNCHECKED: Final = Gauge(
    "leeward_crisis_lines_unchecked", "Crisis lines that nobody has checked for a year.", registry=REGISTRY
)

# incident
MESSAGES_ACCEPTED: Final = Counter(
    "leeward_messages_accepted_total", "Messages stored for the first time.", ["source"], registry=REGISTRY
)
MESSAGES_REPEATED: Final = Counter(
    "leeward_messages_repeated_total", "Messages that had been stored before.", ["source"], registry=REGISTRY
)
MESSAGES_REFUSED: Final = Counter(
    "leeward_messages_refused_total",
    "Messages that were not stored, by reason code.",
    ["way", "reason"],
    registry=REGISTRY,
)
MLLP_CONNECTIONS: Final = Gauge("leeward_mllp_connections", "Open MLLP connections.", registry=REGISTRY)
MLLP_CERTIFICATE_EXPIRES: Final = Gauge(
    "leeward_mllp_certificate_expires_seconds",
    "When the first of the MLLP port's certificates ends, in Unix time; 0 without TLS.",
    registry=REGISTRY,
)
FHIR_MISSED: Final = Counter(
    "leeward_fhir_events_missed_total",
    "Event numbers of a subscription that did not come in their turn.",
    ["source"],
    registry=REGISTRY,
)
FHIR_SILENT: Final = Gauge(
    "leeward_fhir_silent_seconds", "Since a source with a heartbeat was last heard.", ["source"], registry=REGISTRY
)
FHIR_LATE: Final = Gauge(
    "leeward_fhir_late", "1 while a source is silent for longer than it promised.", ["source"], registry=REGISTRY
)
FHIR_FETCHES: Final = Counter(
    "leeward_fhir_fetches_total", "Reads from a FHIR server, by result.", ["source", "result"], registry=REGISTRY
)
MLLP_CLOSED: Final = Counter(
    "leeward_mllp_closed_total", "MLLP connections closed by us after a fault.", ["fault"], registry=REGISTRY
)
RECONCILIATION_OUTCOMES: Final = Gauge(
    "leeward_reconciliation_outcomes", "Outcomes of the hospital's own list, last compared.", registry=REGISTRY
)
RECONCILIATION_MISSING: Final = Gauge(
    "leeward_reconciliation_missing",
    "Outcomes of that list for which nobody was offered anything, by reason code.",
    ["reason"],
    registry=REGISTRY,
)
RECONCILIATION_TIME: Final = Gauge(
    "leeward_reconciliation_time_seconds", "When that was, in Unix time; 0 for never.", registry=REGISTRY
)

# matching
NEVER_REACHED: Final = Counter(
    "leeward_cases_never_reached_total",
    "Cases whose time was over before an offer could be handed off, or anybody be found.",
    registry=REGISTRY,
)

# notify
HAND_OFFS: Final = Counter(
    "leeward_hand_offs_total",
    "Attempts to hand a message over, by what they came to.",
    ["channel", "result"],
    registry=REGISTRY,
)
CHANNEL_ILL: Final = Gauge(
    "leeward_channel_ill", "1 while a channel is there and takes nothing from us.", ["channel"], registry=REGISTRY
)
HAND_OFFS_IN_DOUBT: Final = Counter(
    "leeward_hand_offs_in_doubt_total", "Hand-offs found unfinished at a start and repeated.", registry=REGISTRY
)

# issuer, box: none that a rating or a claim could move

ALLOWED: Final = frozenset(
    {
        "address",
        "channel",
        "code",
        "count",
        "fault",
        "file",
        "kind",
        "mode",
        "place",
        "port",
        "reason",
        "seconds",
        "service",
        "source",
        "timer",
        "topic",
        "type",
        "version",
    }
)
_LOGGER: Final = logging.getLogger("leeward")


def log(event: str, **fields: str | float) -> None:
    """One structured line.

    Raises:
        KeyError: for a field that is not on the allow-list.
    """
    stray = fields.keys() - ALLOWED
    if stray:
        raise KeyError(f"{min(stray)} is not an allowed log field")
    _LOGGER.info(event, extra={"fields": fields})


def committed(service: str, seconds: float) -> None:
    """Time one transaction, but for the services in which it could be somebody's claim or rating."""
    if service not in ("issuer", "box"):
        COMMIT_SECONDS.labels(service).observe(seconds)


def too_large(service: str) -> None:
    """Count a body above the limit, where bodies are messages."""
    if service == "incident":
        MESSAGES_REFUSED.labels("http", "too_large").inc()


def place(fault: BaseException) -> str:
    """Where a fault arose, as module and line: its text could hold a person's data and is never kept."""
    frames = extract_tb(fault.__traceback__)
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "unknown"


class Lines(logging.Formatter):
    """JSON lines; of other libraries' records only level, logger and place, since their texts may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"at": moment, "level": record.levelname.lower()}
        if record.name == _LOGGER.name:
            line |= {"event": record.getMessage(), **getattr(record, "fields", {})}
        else:
            line |= {"event": "library", "logger": record.name, "place": f"{record.module}:{record.lineno}"}
            if record.exc_info and record.exc_info[0]:
                line["fault"] = record.exc_info[0].__name__
        return json.dumps(line)


def configure_logs(stream: TextIO | None = None) -> None:
    """Send every log line through the allow-list; libraries speak from warnings up."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Lines())
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    # a warning's text and a traceback's may hold anything as well
    logging.captureWarnings(True)
    # it says the same again for every attempt; our own line says once what was tried
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.raiseExceptions = False
    sys.excepthook = _crashed
    threading.excepthook = lambda told: _crashed(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: _crashed(told.exc_type, told.exc_value, told.exc_traceback)


def _crashed(kind: type[BaseException], fault: BaseException | None, _trace: TracebackType | None) -> None:
    log("crashed", fault=kind.__name__, place=place(fault) if fault else "unknown")

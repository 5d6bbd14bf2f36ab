"""Fail-points between accept and hand-off: named places of the product at which a process of the chaos run dies.

They are put around the product's functions from outside; the product knows nothing of them.
"""

import functools
import importlib
import inspect
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from leeward.settings import ServiceName
from services.notify.channels import Result

Given = Sequence[Any]
Counts = Callable[[Given, Any], bool]
Strike = Callable[[], None]
FINAL_DOT: Final = b"\r\n.\r\n"


def always(_given: Given, _result: Any) -> bool:
    return True


@dataclass(frozen=True)
class Point:
    """One place: before or after a call of `place` (`module:qualified.name`), each call that `counts` being a passage.

    services: whose processes pass here. needs: what has to be killed right before, for there to be anything to pass.
    """

    name: str
    place: str
    services: tuple[ServiceName, ...]
    when: Literal["before", "after"] = "after"
    counts: Counts = always
    distributed_only: bool = False
    needs: str = ""


# --- which calls count: those that had something to do ---


def _batch_is_ours(given: Given, _result: Any) -> bool:
    consumer, batch = given[0], given[-1]
    return any(consumer._ours(raw) for raw in batch)


def _some(_given: Given, result: Any) -> bool:
    return bool(result)


def _some_claimed(_given: Given, result: Any) -> bool:
    return bool(result[1])


def _some_given(given: Given, _result: Any) -> bool:
    return bool(given[1])


def _taken(_given: Given, result: Any) -> bool:
    return result is Result.TAKEN


def _an_answer(given: Given, _result: Any) -> bool:
    return given[4] is not None


def _whole_mail(given: Given, _result: Any) -> bool:
    return bytes(given[1]).endswith(FINAL_DOT)


_CONSUMERS: Final[tuple[ServiceName, ...]] = ("matching", "notify")
_PRODUCERS: Final[tuple[ServiceName, ...]] = ("incident", "matching", "notify")
_CONSUMER: Final = "leeward.bus.consumer:Consumer"
_RELAY: Final = "leeward.bus.relay"
_DISPATCH: Final = "services.notify.delivery.sender:Dispatch"
_INTAKE: Final = "services.incident.intake.intake:Intake"
POINTS: Final[tuple[Point, ...]] = (
    Point("accept.before_commit", f"{_INTAKE}._work", ("incident",)),
    Point("accept.after_commit", f"{_INTAKE}.__call__", ("incident",)),
    Point("relay.before_send", f"{_RELAY}:KafkaRelay._acknowledged", _PRODUCERS, "before", distributed_only=True),
    Point("relay.half_way", f"{_RELAY}:attributes", _PRODUCERS, distributed_only=True),
    Point("relay.after_ack", f"{_RELAY}:KafkaRelay._acknowledged", _PRODUCERS, distributed_only=True),
    Point("relay.after_delete", f"{_RELAY}:KafkaRelay._delete", _PRODUCERS, distributed_only=True),
    Point("consume.fetched", f"{_CONSUMER}.take", _CONSUMERS, "before", _batch_is_ours),
    Point("consume.in_transaction", f"{_CONSUMER}._apply", _CONSUMERS, "after", _batch_is_ours),
    Point("consume.after_commit", f"{_CONSUMER}._apply_in_one_or_singly", _CONSUMERS, "after", _batch_is_ours),
    Point("consume.after_offset", f"{_CONSUMER}.take", _CONSUMERS, "after", _batch_is_ours),
    Point("timer.in_transaction", "leeward.store.timing:fire", ("matching",), "after", _some_given),
    Point("timer.after_commit", "leeward.store.timing:TimerLoop.fire_due", ("matching",), "after", _some),
    Point("enqueue.before_commit", "services.notify.delivery.deliveries:Outgoing.enqueue", ("notify",), "after", _some),
    Point(
        "claim.before_commit", "services.notify.delivery.queue:Claims.claim_due", ("notify",), "after", _some_claimed
    ),
    Point("claim.after_commit", f"{_DISPATCH}._put", ("notify",), "before", _some_given),
    Point("handoff.before_data", "services.notify.channels.email.smtp:Email._hand_over", ("notify",), "before"),
    Point("handoff.before_final_dot", "aiosmtplib.protocol:SMTPProtocol.write", ("notify",), "before", _whole_mail),
    Point("handoff.after_reply", "services.notify.channels.email.smtp:Email._hand_over", ("notify",), "after", _taken),
    Point("handoff.before_body", "services.notify.channels.webhook:Webhook._post", ("notify",), "before"),
    Point("handoff.after_status", "services.notify.channels.webhook:Webhook._post", ("notify",)),
    Point("settle.before_commit", f"{_DISPATCH}._record_attempts", ("notify",)),
    Point("settle.after_commit", f"{_DISPATCH}.record_attempt", ("notify",)),
    Point(
        "recover.before_commit",
        "services.notify.delivery.recovery:Recovery._take_up",
        ("notify",),
        needs="handoff.after_reply",
    ),
    Point(
        "answer.before_commit", "services.notify.questions.answers:Answers.apply_answer", ("notify",), "after", _some
    ),
    Point(
        "answer.after_commit", "services.notify.questions.pages:MessagePages._next", ("notify",), "before", _an_answer
    ),
    Point("ask.before_commit", "services.notify.self_request:_request_help", ("notify",), "after", _some),
)
BY_NAME: Final = {point.name: point for point in POINTS}


def resolve(place: str) -> tuple[Any, str, Any]:
    """(owner, name, function) of `module:qualified.name`.

    Raises:
        AttributeError, ImportError: when the product has no such place any more.
    """
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, name, getattr(owner, name)


def wrap(place: str, around: Callable[[Any], Any]) -> None:
    """Put what `around` makes of the function there in its place."""
    owner, name, function = resolve(place)
    setattr(owner, name, functools.wraps(function)(around(function)))


def install(point: Point, strike: Strike) -> None:
    """Call `strike` at every passage of a point."""
    wrap(point.place, lambda function: _passing(function, point, strike))


def _passing(function: Any, point: Point, strike: Strike) -> Any:
    def passed(when: str, given: Given, result: Any = None) -> None:
        if when == point.when and point.counts(given, result):
            strike()

    async def asynchronous(*given: Any, **named: Any) -> Any:
        passed("before", given)
        result = await function(*given, **named)
        passed("after", given, result)
        return result

    def synchronous(*given: Any, **named: Any) -> Any:
        passed("before", given)
        result = function(*given, **named)
        passed("after", given, result)
        return result

    return asynchronous if inspect.iscoroutinefunction(function) else synchronous


def deadly(name: str, passage: int, hits: Path) -> Strike:
    """Kills this process with -9 at the n-th passage (from 1), having written the point's name to a file."""
    left = passage

    def strike() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            with hits.open("a") as file:
                file.write(f"{name}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    return strike

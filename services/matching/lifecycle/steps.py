"""The moves that the inputs of `domain` are made of. No I/O."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal

from services.matching.lifecycle.case import (
    Attention,
    Cancel,
    Case,
    DropTimer,
    Effect,
    Find,
    Forget,
    Message,
    Publish,
    Refuse,
    Release,
    Rules,
    SetTimer,
    Transition,
)
from services.matching.lifecycle.hours import after_open_time

CHECK_INS: Final = (
    ("check_in_72h", timedelta(hours=72)),
    ("check_in_7d", timedelta(days=7)),
    ("check_in_28d", timedelta(days=28)),
)
AFTER_LAST_CHECK_IN: Final = timedelta(days=7)
LIMIT: Final = timedelta(days=90)
TIMERS: Final = tuple(DropTimer(name) for name in ("reminder", "again", "confirm", "contact", "check_in", "not_closed"))


def offer(step: Transition, name: str, not_before: datetime | None) -> Transition:
    """A step's name is used once a case, so repetitions carry a number."""
    case = step.case
    number = f"-{case.offers + 1}" if case.offers and name != "offer" else ""
    held = None if case.urgency == "urgent" else not_before
    message = Message(f"{name}{number}", "offer", "person", case.urgency, held)
    return replace(step, case=replace(case, offers=case.offers + 1)).then(message)


def ask_supporter(step: Transition, now: datetime, rules: Rules, find: Find) -> Transition:
    """Ask the next best supporter, or put the case on the coordinator's list."""
    case = replace(step.case, stage="accepted", confirm_by=None)
    if case.tries >= rules.attempts:
        return _stuck(step, case, "no_confirmation")
    found = find(case)
    if found is None:
        return _stuck(step, case, "no_supporter")
    length = rules.confirm_urgent if case.pressing else rules.confirm_routine
    due = after_open_time(now, length, rules.answer_hours, found.timezone)
    asking = replace(
        case,
        supporter=found.person_ref,
        proposed=found.person_ref,
        tries=case.tries + 1,
        requests=case.requests + 1,
        attention=still(case),
        confirm_by=due,
    )
    urgency: Literal["routine", "urgent"] = "urgent" if asking.pressing else "routine"
    message = Message(asking.request_step, "supporter_request", "supporter", urgency, options={"when": asking.wanted})
    return replace(step, case=asking).then(message, Publish("assigned"), SetTimer("confirm", due))


def _stuck(step: Transition, case: Case, reason: Attention) -> Transition:
    attention = "on_call_silent" if case.attention == "on_call_silent" else reason
    return replace(step, case=replace(case, attention=attention)).then(DropTimer("confirm"))


def let_go(
    step: Transition, *, refuse: bool = False, minutes: int = 0, rest_until: datetime | None = None
) -> Transition:
    """The present supporter, if any, is free again and their link ends."""
    case = step.case
    if case.supporter is None:
        return step
    refused: tuple[Effect, ...] = (Refuse(case.person_ref, case.supporter),) if refuse and case.person_ref else ()
    freed = Release(case.supporter, minutes, rest_until)
    without = replace(case, supporter=None, proposed=None, confirm_by=None)
    timers = (DropTimer(name) for name in ("confirm", "contact", "not_closed"))
    return replace(step, case=without).then(Cancel("supporter"), freed, *refused, *timers)


def nudge(case: Case) -> Transition:
    """A further message to the present supporter, about the question they have confirmed: when to get in touch."""
    number = case.offers + 1
    urgency: Literal["routine", "urgent"] = "urgent" if case.pressing else "routine"
    step, options = f"{case.request_step}-again-{number}", {"when": case.wanted}
    message = Message(step, "supporter_request", "supporter", urgency, options=options)
    return Transition(replace(case, offers=number), (message,))


def next_check_in(step: Transition, now: datetime) -> Transition:
    case = step.case
    accepted = case.accepted_at or now
    ahead = [accepted + after for _, after in CHECK_INS[case.checked :]]
    due = ahead[0] if ahead else max(now, accepted + CHECK_INS[-1][1]) + AFTER_LAST_CHECK_IN
    return step.then(SetTimer("check_in", due))


def finish(step: Transition, now: datetime) -> Transition:
    """Closed: the person's ties to the case go with it; where support was given they may say how it was."""
    case = replace(step.case, stage="closed", attention=still(step.case), check_ins=False, ends_at=now)
    options = {"suggest": "professional"} if case.professional else {}
    follow_up = (Message("follow_up", "follow_up", "person", options=options, loose=True),) if case.supported else ()
    ends: tuple[Effect, ...] = (Cancel("all"), *TIMERS, Publish("closed"))
    # asked last: on *erased* notify drops whatever it still holds of the case
    return forget(replace(step, case=case).then(*ends)).then(*follow_up)


def forget(step: Transition) -> Transition:
    case = step.case
    if case.person_ref is None:
        return step
    bare = replace(case, person_ref=None, incident_ref=None, supporter=None, proposed=None)
    return replace(step, case=bare).then(Cancel("all"), Forget(case.person_ref), Publish("erased"))


def reopened(case: Case) -> Case:
    return replace(case, stage="offered") if case.stage == "ended" else case


def still(case: Case) -> Attention | None:
    """An alarm stays until the coordinator has seen to it; other reasons are settled by going on."""
    return "on_call_silent" if case.attention == "on_call_silent" else None


def current(case: Case, step: str) -> bool:
    """Whether a step is of the present supporter: the request itself, or a nudge about it."""
    request, _, _ = step.partition("-again-")
    return case.supporter is not None and case.request_step == request

"""The steps that the inputs in `transitions` are made of. No I/O."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal

from services.matching.lifecycle.case import (
    ACTIONS,
    Attention,
    CancelRequests,
    Case,
    DropTimer,
    Effect,
    ForgetPerson,
    NeedsSupporter,
    Publish,
    RecordRefusal,
    ReleaseSupporter,
    RequestMessage,
    Rules,
    SetTimer,
    Transition,
)

CHECK_INS: Final = (
    ("check_in_72h", timedelta(hours=72)),
    ("check_in_7d", timedelta(days=7)),
    ("check_in_28d", timedelta(days=28)),
)
AFTER_LAST_CHECK_IN: Final = timedelta(days=7)
LIMIT: Final = timedelta(days=90)
TIMERS: Final = tuple(DropTimer(name) for name in ("reminder", "again", "confirm", "contact", "check_in", "not_closed"))


def offer(transition: Transition, name: str, not_before: datetime | None) -> Transition:
    """Request an offer. A message name is used once a case, so repetitions carry a number."""
    case = transition.case
    number = f"-{case.offers + 1}" if case.offers and name != "offer" else ""
    held = None if case.urgency == "urgent" else not_before
    message = RequestMessage(f"{name}{number}", "offer", "person", case.urgency, held)
    return Transition(replace(case, offers=case.offers + 1), (*transition.effects, message))


def ask_supporter(transition: Transition, rules: Rules) -> Transition:
    """Look for the next best supporter to ask; after the last try the coordinator decides."""
    case = replace(transition.case, stage="accepted", confirm_by=None)
    if case.tries >= rules.attempts:
        return stuck(replace(transition, case=case), "no_confirmation")
    return replace(transition, case=case).then(NeedsSupporter("request"))


def stuck(transition: Transition, reason: Attention) -> Transition:
    """Nobody is left to ask: the case goes on the coordinator's list."""
    return replace(transition, case=transition.case.with_reason(reason)).then(DropTimer("confirm"))


def let_go(
    transition: Transition, *, refuse: bool = False, minutes: int = 0, rest_until: datetime | None = None
) -> Transition:
    """The present supporter, if any, is free again and their link ends."""
    case = transition.case
    if case.supporter is None:
        return transition
    refused: tuple[Effect, ...] = ()
    if refuse and case.person_ref:
        refused = (RecordRefusal(case.person_ref, case.supporter),)
    freed = ReleaseSupporter(case.supporter, minutes, rest_until)
    without = replace(case.without({"not_closed"}), supporter=None, proposed=None, confirm_by=None)
    timers = (DropTimer(name) for name in ("confirm", "contact", "not_closed"))
    return replace(transition, case=without).then(CancelRequests("supporter"), freed, *refused, *timers)


def nudge(case: Case) -> Transition:
    """A further message to the present supporter, about the question they have confirmed: when to get in touch."""
    number = case.offers + 1
    urgency: Literal["routine", "urgent"] = "urgent" if case.pressing else "routine"
    message_name, options = f"{case.request_name}-again-{number}", {"when": case.wanted}
    message = RequestMessage(message_name, "supporter_request", "supporter", urgency, options=options)
    return Transition(replace(case, offers=number), (message,))


def next_check_in(transition: Transition, now: datetime) -> Transition:
    case = transition.case
    accepted = case.accepted_at or now
    ahead = [accepted + after for _, after in CHECK_INS[case.checked :]]
    due = ahead[0] if ahead else max(now, accepted + CHECK_INS[-1][1]) + AFTER_LAST_CHECK_IN
    return transition.then(SetTimer("check_in", due))


def finish(transition: Transition, now: datetime) -> Transition:
    """Closed: the person's ties to the case go with it; where support was given they may say how it was."""
    case = replace(settled(transition.case), stage="closed", check_ins=False, ends_at=now)
    closed = forget(replace(transition, case=case).then(CancelRequests("all"), *TIMERS, Publish("closed")))
    if not case.supported:
        return closed
    options = {"suggest": "professional"} if case.professional else {}
    # asked last: on *erased* notify drops whatever it still holds of the case
    return closed.then(RequestMessage("follow_up", "follow_up", "person", options=options, loose=True))


def forget(transition: Transition) -> Transition:
    case = transition.case
    if case.person_ref is None:
        return transition
    bare = replace(case, person_ref=None, incident_ref=None, supporter=None, proposed=None)
    return replace(transition, case=bare).then(CancelRequests("all"), ForgetPerson(case.person_ref), Publish("erased"))


def reopened(case: Case) -> Case:
    return replace(case, stage="offered") if case.stage == "ended" else case


def settled(case: Case) -> Case:
    """A case that ends: an alarm stays until the coordinator has seen to it, the other reasons end with the case."""
    return case.without(ACTIONS.keys() - {"on_call_silent"})


def current(case: Case, message_name: str) -> bool:
    """Whether a message is the present supporter's: the request itself, or a nudge about it."""
    request_name, _, _ = message_name.partition("-again-")
    return case.supporter is not None and case.request_name == request_name

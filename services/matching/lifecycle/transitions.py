"""The life of a case: one function for each input, giving the case after it and what to do (DESIGN §5). No I/O.

Whoever calls loads the case in the running transaction, applies one function and carries its effects out in that same
transaction. An input that comes too late changes nothing. What needs a supporter ends with `NeedsSupporter`, and
`supporter_found` or `nobody_free` answers it before any other input of the case.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Literal

from services.matching.lifecycle.case import (
    OF_THE_OFFER,
    OF_THE_SEARCH,
    UNANSWERED,
    Attention,
    CancelRequests,
    Case,
    ChosenSupporter,
    DropTimer,
    KeepQuiet,
    ListForCoordinator,
    NeedsSupporter,
    Publish,
    RecordRefusal,
    RequestMessage,
    Rules,
    SetTimer,
    Transition,
)
from services.matching.lifecycle.hours import after_open_time
from services.matching.lifecycle.steps import (
    CHECK_INS,
    LIMIT,
    TIMERS,
    ask_supporter,
    current,
    finish,
    forget,
    let_go,
    next_check_in,
    nudge,
    offer,
    reopened,
    settled,
    stuck,
)

AGAIN: Final = {"week": timedelta(days=7), "month": timedelta(days=30)}
SAID_YES: Final = frozenset({"accepted", "supported", "following_up"})
LONGEST_SUPPORT: Final = timedelta(days=28)
LATER: Final = timedelta(days=1)
FIRST_CONTACT: Final = {"days": timedelta(days=3), "week": timedelta(days=8)}
UNDO: Final = timedelta(hours=24)
# what a supporter's coded form counts as: the upper end, so that nobody's limit is passed in fact
MINUTES: Final = {"under_15": 15, "15_45": 45, "45_90": 90, "over_90": 120}
CONTACTS: Final = {"1": 1, "2": 2, "3": 3, "more": 4}
_OPENED: Final = (Publish("opened"), NeedsSupporter("proposal"))

Undelivered = Literal["unreachable", "delivery_unknown", "held_too_long", "expired"]


# --- outreach: from the first message to an answer ---


def opened(case: Case, *, not_before: datetime | None, stuck: Attention | None) -> Transition:
    """A new case: an offer is requested at once, unless nobody can be reached or the hold would be too long."""
    if stuck:
        return Transition(case.with_reason(stuck), _OPENED)
    return offer(Transition(case, _OPENED), "offer", not_before)


def asked(case: Case, urgency: Literal["routine", "urgent"], now: datetime, rules: Rules) -> Transition:
    """Somebody asked: an offer leaves at once, whatever was sent before."""
    if case.over:
        return Transition(case)
    urgent: Literal["routine", "urgent"] = "urgent" if "urgent" in (urgency, case.urgency) else "routine"
    later = max(case.ends_at, now + rules.longest_hold + rules.coalesce)
    asking = replace(case.without(OF_THE_OFFER), urgency=urgent, ends_at=later)
    return offer(Transition(asking, (DropTimer("reminder"),)), "asked", None)


def handed_off(case: Case, message_name: str, now: datetime, rules: Rules, *, overtaken: bool = False) -> Transition:
    """A message to the person has left: the quiet time begins, whatever they answer, unless it was taken back before.

    `overtaken`: its answer, or its cancellation, was heard of before.
    """
    if case.person_ref is None:
        return Transition(case)
    if (listed := perhaps_sent(case)).effects:
        return listed
    quiet = KeepQuiet(case.person_ref, now + rules.coalesce)
    if overtaken or case.stage != "waiting" or message_name == "reminder":
        return Transition(case, (quiet,))
    sent = replace(case.without(OF_THE_OFFER), stage="offered", ends_at=now + rules.coalesce)
    reminder = (SetTimer("reminder", now + rules.reminder_after),) if message_name in ("offer", "asked") else ()
    return Transition(sent, (quiet, *reminder))


def delivered(case: Case, message_name: str, now: datetime, rules: Rules, *, overtaken: bool = False) -> Transition:
    """It arrived after all."""
    case = case.without({"delivery_unknown"})
    if case.stage != "waiting":
        return Transition(case)
    return handed_off(case, message_name, now, rules, overtaken=overtaken)


def undelivered(case: Case, reason: Undelivered) -> Transition:
    """A message to the person did not arrive, or nobody knows: never lost in silence."""
    if case.stage not in UNANSWERED:
        return Transition(case)
    # something has been heard of it by now
    return Transition(case.without({"not_sent"}).with_reason(reason), (DropTimer("reminder"),))


def called_off(case: Case, message_name: str) -> Transition:
    """notify let an offer go, and nobody here had asked for that: if nothing else has left, it is listed."""
    if message_name == "reminder" or case.stage != "waiting" or "rehearsal" in case.notes:
        return Transition(case)
    return Transition(case if not OF_THE_OFFER.isdisjoint(case.attention) else case.with_reason("not_sent"))


def remind(case: Case, not_before: datetime | None) -> Transition:
    """The one reminder; then silence."""
    if case.stage != "offered" or not {"unreachable", "delivery_unknown"}.isdisjoint(case.attention):
        return Transition(case)
    held = None if case.urgency == "urgent" else not_before
    return Transition(case, (RequestMessage("reminder", "offer", "person", case.urgency, held),))


def offer_again(case: Case, not_before: datetime | None) -> Transition:
    """The time has come that the person named with *not now*."""
    return offer(Transition(case), "offer_again", not_before) if case.stage == "waiting" else Transition(case)


def not_sent(case: Case) -> Transition:
    """Long after its latest time nothing has been heard of the offer."""
    if case.stage != "waiting" or not OF_THE_OFFER.isdisjoint(case.attention) or "rehearsal" in case.notes:
        return Transition(case)
    return Transition(case.with_reason("not_sent"))


def lapse(case: Case, now: datetime, *, reached: bool) -> Transition:
    """The time of an unanswered offer, or of an ended case, is over: what ties it to the person goes.

    `reached`: an offer was handed off. One that nobody was reached with does not end like a no: it stays on the list.
    """
    if case.ends_at > now or case.stage not in (*UNANSWERED, "ended"):
        return Transition(case)
    if case.stage == "ended":
        return forget(Transition(case))
    transition = end(case, now)
    if not reached and "rehearsal" not in case.notes:
        transition = replace(transition, case=transition.case.with_reason("never_reached"))
    return forget(transition)


def asked_again(case: Case, now: datetime) -> Transition:
    """Who asks while only check-ins are left gets an offer of a new case; this one closes."""
    return finish(Transition(case), now) if case.stage == "following_up" else Transition(case)


# --- what the search for a supporter gives ---


def supporter_found(case: Case, chosen: ChosenSupporter, now: datetime, rules: Rules) -> Transition:
    """Somebody was found: proposed before the person has answered, asked, with a place taken, once they have said yes.

    A proposal writes to nobody.
    """
    if case.stage != "accepted":
        return Transition(replace(case.without({"no_supporter"}), proposed=chosen.person_ref))
    length = rules.confirm_urgent if case.pressing else rules.confirm_routine
    due = after_open_time(now, length, rules.answer_hours, chosen.timezone)
    asking = replace(
        case.without(OF_THE_SEARCH),
        supporter=chosen.person_ref,
        proposed=chosen.person_ref,
        tries=case.tries + 1,
        requests=case.requests + 1,
        confirm_by=due,
    )
    urgency: Literal["routine", "urgent"] = "urgent" if asking.pressing else "routine"
    options = {"when": asking.wanted}
    message = RequestMessage(asking.request_name, "supporter_request", "supporter", urgency, options=options)
    return Transition(asking, (message, Publish("assigned"), SetTimer("confirm", due)))


def nobody_free(case: Case) -> Transition:
    """Nobody may support this person now: the case waits on the coordinator's list, and is tried again."""
    if "no_supporter" in case.attention:
        return Transition(case)
    if case.stage == "accepted":
        return stuck(Transition(case), "no_supporter")
    return Transition(case.with_reason("no_supporter"))


# --- the person's answers ---


def accept(case: Case, wanted: str, now: datetime, rules: Rules) -> Transition:
    """Yes: capacity is taken now, from the proposed supporter or the next best. Also takes a *no* back.

    Who talks with somebody already, and would like to again, is passed on to them.
    """
    if case.stage == "supported":
        return nudge(replace(case, wanted=wanted))
    if case.person_ref is None or case.stage not in (*UNANSWERED, "ended", "following_up"):
        return Transition(case)
    said = replace(case.without(OF_THE_OFFER), stage="accepted", wanted=wanted, accepted_at=now, tries=0)
    return ask_supporter(Transition(said, (DropTimer("reminder"), DropTimer("again"))), rules)


def another(case: Case, rules: Rules) -> Transition:
    """Somebody different: the one proposed or present is never offered to this person again."""
    if case.person_ref is None or case.stage == "closed":
        return Transition(case)
    if case.stage in SAID_YES:
        transition = let_go(Transition(replace(case, tries=0)), refuse=True)
        return ask_supporter(transition, rules)
    refused = (RecordRefusal(case.person_ref, case.proposed),) if case.proposed else ()
    return Transition(reopened(replace(case.without(OF_THE_OFFER), proposed=None)), (*refused, DropTimer("reminder")))


def not_now(case: Case, again: str, now: datetime, rules: Rules) -> Transition:
    """Not now: again when they say, or never, which is an end like any other."""
    if case.person_ref is None or case.stage not in (*UNANSWERED, "ended"):
        return Transition(case)
    if again not in AGAIN:
        return end(case, now)
    due = now + AGAIN[again]
    later = due + rules.longest_hold + rules.coalesce
    waiting = replace(case.without(OF_THE_OFFER), stage="waiting", ends_at=later)
    return Transition(waiting, (CancelRequests("unsent"), DropTimer("reminder"), SetTimer("again", due)))


def end(case: Case, now: datetime) -> Transition:
    """No thanks, withdrawn or silence, all the same; it can be taken back for a day."""
    if case.over:
        return Transition(case)
    forgets = max(now + UNDO, case.ends_at if case.stage in UNANSWERED else now)
    freed = let_go(Transition(case))
    ended = replace(settled(freed.case), stage="ended", check_ins=False, confirm_by=None, ends_at=forgets)
    return replace(freed, case=ended).then(CancelRequests("unsent"), *TIMERS)


def want_check_ins(case: Case, now: datetime) -> Transition:
    """Opt in to being asked how it goes, three times after acceptance."""
    if case.stage not in SAID_YES or case.accepted_at is None or case.check_ins:
        return Transition(case)
    passed = sum(case.accepted_at + after <= now for _, after in CHECK_INS)
    wanting = replace(case, check_ins=True, checked=max(case.checked, passed))
    return next_check_in(Transition(wanting), now)


def no_more_check_ins(case: Case, now: datetime) -> Transition:
    """Opt out of them; the support itself goes on."""
    if not case.check_ins or case.over:
        return Transition(case)
    quieter = Transition(replace(case, check_ins=False), (CancelRequests("unsent"), DropTimer("check_in")))
    return finish(quieter, now) if case.stage == "following_up" else quieter


def check_in(case: Case, now: datetime) -> Transition:
    """The time of a check-in, or, after the last, of closing."""
    if not case.check_ins or case.stage not in SAID_YES:
        return Transition(case)
    if case.checked >= len(CHECK_INS):
        return finish(Transition(case), now) if case.stage == "following_up" else Transition(case)
    name, _ = CHECK_INS[case.checked]
    asked_now = replace(case, checked=case.checked + 1)
    return next_check_in(Transition(asked_now, (RequestMessage(name, "check_in", "person"),)), now)


def not_contacted(case: Case, rules: Rules) -> Transition:
    """Nobody came: somebody else is asked, as urgent, even where the supporter has said that it was finished."""
    if case.stage not in SAID_YES:
        return Transition(case)
    transition = let_go(Transition(replace(case, urgency="urgent", tries=0)))
    return ask_supporter(transition, rules)


def on_call_silent(case: Case) -> Transition:
    """Urgent help was asked for and no professional has acknowledged: before anything else, the coordinator."""
    return Transition(case.with_reason("on_call_silent"))


def talked(case: Case) -> Transition:
    """The person has seen the page and asked for somebody now: no reminder after that."""
    return Transition(case.without(OF_THE_OFFER), (DropTimer("reminder"),))


# --- the supporter's answers ---


def confirm(case: Case, message_name: str, now: datetime) -> Transition:
    """The supporter will do it; from now on they may see whom."""
    if not current(case, message_name) or case.stage != "accepted":
        return Transition(case)
    agreed = replace(case.without(OF_THE_SEARCH), stage="supported", supported=True, confirm_by=None)
    contact = SetTimer("contact", now + FIRST_CONTACT.get(case.wanted, LATER))
    return Transition(agreed, (DropTimer("confirm"), contact, SetTimer("not_closed", now + LONGEST_SUPPORT)))


def contact_due(case: Case) -> Transition:
    """First contact is due (DESIGN §5.8). Nobody tells us of it, so the supporter is reminded, once."""
    return nudge(case) if case.stage == "supported" else Transition(case)


def passed(case: Case, message_name: str, rules: Rules) -> Transition:
    """The supporter passes, or their request could not be delivered: the next best is asked."""
    if not current(case, message_name) or case.stage != "accepted":
        return Transition(case)
    return ask_supporter(let_go(Transition(case)), rules)


def unconfirmed(case: Case, now: datetime, rules: Rules) -> Transition:
    """The time to confirm is over."""
    if case.stage != "accepted" or case.supporter is None or case.confirm_by is None or case.confirm_by > now:
        return Transition(case)
    return ask_supporter(let_go(Transition(case)), rules)


def hand_over(case: Case, message_name: str, now: datetime, rules: Rules) -> Transition:
    """A supporter who is affected hands over, rests, and somebody else goes on."""
    if not current(case, message_name) or case.stage not in ("accepted", "supported"):
        return Transition(case)
    freed = let_go(Transition(replace(case, tries=0)), rest_until=now + rules.cool_down)
    return ask_supporter(freed, rules)


def close(case: Case, message_name: str, options: dict[str, str], now: datetime, rules: Rules) -> Transition:
    """The supporter's coded form: hours are booked, they rest, and the person is asked how it was."""
    if not current(case, message_name) or case.stage != "supported":
        return Transition(case)
    contacts = CONTACTS.get(options.get("contacts", ""), 1)
    minutes = MINUTES.get(options.get("duration", ""), 45) * contacts
    done = replace(case, professional=contacts >= 3)
    freed = let_go(Transition(done), minutes=minutes, rest_until=now + rules.cool_down)
    if case.check_ins and case.checked < len(CHECK_INS):
        return replace(freed, case=replace(settled(freed.case), stage="following_up"))
    return finish(freed, now)


def not_closed(case: Case) -> Transition:
    """Support has gone on for very long without a word."""
    return Transition(case.with_reason("not_closed") if case.stage == "supported" else case)


# --- the coordinator, the roster, the source ---


def reassign(case: Case, now: datetime, rules: Rules) -> Transition:
    """Try again: another supporter once the person has accepted; before, what failed (a search, or the offer)."""
    if case.person_ref is None or case.over or case.stage == "following_up":
        return Transition(case)
    if case.stage in ("accepted", "supported"):
        return ask_supporter(let_go(Transition(replace(case.without({"no_confirmation"}), tries=0))), rules)
    search = (NeedsSupporter("proposal"),) if "no_supporter" in case.attention else ()
    if search and OF_THE_OFFER.isdisjoint(case.attention):
        return Transition(case, search)
    later = max(case.ends_at, now + rules.longest_hold + rules.coalesce)
    again = replace(case.without(OF_THE_OFFER), stage="waiting", ends_at=later)
    cleared = (CancelRequests("unsent"), DropTimer("reminder"), DropTimer("again"), *search)
    return offer(Transition(again, cleared), "offer_again", None)


def find_again(case: Case) -> Transition:
    """Somebody may have become free."""
    if "no_supporter" not in case.attention or case.supporter is not None:
        return Transition(case)
    if case.stage in UNANSWERED:
        return Transition(case, (NeedsSupporter("proposal"),))
    if case.stage != "accepted":
        return Transition(case)
    return Transition(replace(case, tries=0), (NeedsSupporter("request"),))


def attended(case: Case) -> Transition:
    """The coordinator has seen to an alarm; other reasons are settled by what is done about them."""
    return Transition(case.without({"on_call_silent"}))


def seen(case: Case) -> Transition:
    """The coordinator knows that somebody was never reached."""
    return Transition(case.without({"never_reached"}))


def coordinator_close(case: Case, now: datetime, rules: Rules) -> Transition:
    """The coordinator ends the case; the person is asked how it was only where a supporter had been confirmed."""
    if case.over:
        return Transition(case)
    rest = now + rules.cool_down if case.stage == "supported" else None
    return finish(let_go(Transition(case), rest_until=rest), now)


def retract(case: Case, now: datetime, *, sent: bool = False) -> Transition:
    """The evidence was taken back, an offer having left (`sent`) or not; who has accepted keeps their supporter."""
    if case.over or "retracted" in case.notes:
        return Transition(case)
    if case.stage not in UNANSWERED:
        noted = replace(case, notes=(*case.notes, "retracted", "retracted_after_sending"))
        return Transition(noted, (ListForCoordinator("retracted_after_sending"),))
    transition = end(case, now)
    if not sent and case.stage != "offered":
        return replace(transition, case=replace(transition.case, notes=(*case.notes, "retracted")))
    noted = replace(transition.case, notes=(*case.notes, "retracted", "retracted_after_sending"))
    # the offer that left led to nothing, so it does not keep back the offer of a death that follows
    over = [KeepQuiet(case.person_ref, now)] if case.person_ref else []
    return replace(transition, case=noted).then(ListForCoordinator("retracted_after_sending"), *over)


def perhaps_sent(case: Case) -> Transition:
    """Nobody knows whether a message left before it was cancelled: it begins no quiet time, and is listed."""
    if "retracted" not in case.notes or "retracted_after_sending" in case.notes:
        return Transition(case)
    noted = replace(case, notes=(*case.notes, "retracted_after_sending"))
    return Transition(noted, (ListForCoordinator("retracted_after_sending"),))


def moved(case: Case, incident_ref: str) -> Transition:
    """The evidence was taken back, and the person was around another outcome too: the offer stands for that one."""
    return Transition(replace(case, incident_ref=incident_ref))


def gone(case: Case, now: datetime) -> Transition:
    """The person has left or died: everything is cancelled at once."""
    return forget(end(case, now).then(CancelRequests("all")))


def supporter_gone(case: Case, rules: Rules) -> Transition:
    """The supporter has left, paused or stopped: somebody else is asked."""
    if case.stage not in ("accepted", "supported"):
        return Transition(case)
    return ask_supporter(let_go(Transition(replace(case, tries=0))), rules)


def limit(case: Case, now: datetime) -> Transition:
    """90 days after the event nothing ties a person to it any more, however far the case has come.

    Who has said yes, and was never given anybody, stays on the list.
    """
    if case.person_ref is None or case.occurred_at + LIMIT > now:
        return Transition(case)
    if case.over:
        return forget(Transition(case))
    finished = finish(let_go(Transition(case)), now)
    if case.stage == "accepted" and not case.supported and "rehearsal" not in case.notes:
        return replace(finished, case=finished.case.with_reason("never_reached"))
    return finished


def rehearsal_over(case: Case, now: datetime) -> Transition:
    """The site goes live: what was only played ends."""
    return forget(end(case, now).then(CancelRequests("all"))) if "rehearsal" in case.notes else Transition(case)

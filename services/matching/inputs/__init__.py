"""Which function applies which event, and which fires for which timer."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from leeward.contracts import (
    Answered,
    DeliveryOutcome,
    Event,
    EventData,
    HelpRequested,
    IncidentAmended,
    IncidentAttention,
    IncidentRecorded,
    IncidentRetracted,
    NotifyAttention,
    ReachabilityChanged,
)
from leeward.service import Handler, TimerHandler
from leeward.store import Timer, Unit
from services.matching.inputs import answers, attention, deliveries, hourly, incidents, monthly, timers
from services.matching.site import Site

T = TypeVar("T")


def event_handlers(site: Site) -> Mapping[type[EventData], Handler]:
    """Handlers by event model."""
    with_site: dict[type[EventData], Callable[[Unit, Sequence[Event], Site], None]] = {
        IncidentRecorded: incidents.apply_recorded,
        IncidentAmended: incidents.apply_amended,
        IncidentRetracted: incidents.apply_retracted,
        Answered: answers.apply_answers,
        HelpRequested: answers.apply_help_requests,
        DeliveryOutcome: deliveries.apply_outcomes,
    }
    bound = {model: _with_site(apply, site) for model, apply in with_site.items()}
    return {
        **bound,
        ReachabilityChanged: deliveries.record_reachability,
        IncidentAttention: attention.apply_attention,
        NotifyAttention: attention.apply_attention,
    }


def timer_handlers(site: Site) -> Mapping[str, TimerHandler]:
    """Handlers by timer name."""
    with_site: dict[str, Callable[[Unit, Sequence[Timer], Site], None]] = {
        "monthly": monthly.send_monthly,
        "departed": timers.end_departed,
        "hourly": hourly.run_hourly,
        **{name: partial(timers.fire_of_cases, choose=choose) for name, choose in timers.OF_CASES.items()},
    }
    return {name: _with_site(fire, site) for name, fire in with_site.items()}


def _with_site(apply: Callable[[Unit, Sequence[T], Site], None], site: Site) -> Callable[[Unit, Sequence[T]], None]:
    return lambda unit, batch: apply(unit, batch, site)

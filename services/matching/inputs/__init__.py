"""Which function takes which event and which timer."""

from collections.abc import Callable, Mapping, Sequence

from leeward.contracts import (
    Answered,
    DeliveryOutcome,
    Event,
    EventData,
    HelpRequested,
    IncidentAmended,
    IncidentRecorded,
    IncidentRetracted,
    ReachabilityChanged,
)
from leeward.service import Handler, TimerHandler
from leeward.store import Timer, Unit
from services.matching.inputs import answers, deliveries, hourly, incidents, timers
from services.matching.site import Site

_Takes = Callable[[Unit, Sequence[Event], Site], None]
_Fires = Callable[[Unit, Sequence[Timer], Site], None]


def event_handlers(site: Site) -> Mapping[type[EventData], Handler]:
    """Handlers by event model."""
    with_office: dict[type[EventData], _Takes] = {
        IncidentRecorded: incidents.recorded,
        IncidentAmended: incidents.amended,
        IncidentRetracted: incidents.retracted,
        Answered: answers.answered,
        HelpRequested: answers.asked,
        DeliveryOutcome: deliveries.told,
    }
    bound = {model: _taking(take, site) for model, take in with_office.items()}
    return {**bound, ReachabilityChanged: deliveries.reachability}


def timer_handlers(site: Site) -> Mapping[str, TimerHandler]:
    """Handlers by timer name."""
    with_office: dict[str, _Fires] = {
        "monthly": timers.monthly,
        "departed": timers.departed,
        "hourly": hourly.hourly,
    }
    of_cases = {name: _choosing(choose, site) for name, choose in timers.OF_CASES.items()}
    return {**of_cases, **{name: _firing(fire, site) for name, fire in with_office.items()}}


def _taking(take: _Takes, site: Site) -> Handler:
    return lambda unit, events: take(unit, events, site)


def _firing(fire: _Fires, site: Site) -> TimerHandler:
    return lambda unit, fired: fire(unit, fired, site)


def _choosing(choose: timers.OfCase, site: Site) -> TimerHandler:
    return lambda unit, fired: timers.of_case(unit, fired, site, choose)

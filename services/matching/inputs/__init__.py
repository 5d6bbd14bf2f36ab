"""Which function takes which event and which timer."""

from collections.abc import Callable, Mapping, Sequence

from leeward.contracts import (
    Answered,
    Asked,
    Event,
    EventData,
    IncidentAmended,
    IncidentRecorded,
    IncidentRetracted,
    Outcome,
    ReachabilityChanged,
)
from leeward.service import Handler, TimerHandler
from leeward.store import Timer, Unit
from services.matching.inputs import answers, deliveries, hourly, incidents, timers
from services.matching.site import Office

_Takes = Callable[[Unit, Sequence[Event], Office], None]
_Fires = Callable[[Unit, Sequence[Timer], Office], None]


def event_handlers(office: Office) -> Mapping[type[EventData], Handler]:
    """Handlers by event model."""
    with_office: dict[type[EventData], _Takes] = {
        IncidentRecorded: incidents.recorded,
        IncidentAmended: incidents.amended,
        IncidentRetracted: incidents.retracted,
        Answered: answers.answered,
        Asked: answers.asked,
        Outcome: deliveries.told,
    }
    bound = {model: _taking(take, office) for model, take in with_office.items()}
    return {**bound, ReachabilityChanged: deliveries.reachability}


def timer_handlers(office: Office) -> Mapping[str, TimerHandler]:
    """Handlers by timer name."""
    with_office: dict[str, _Fires] = {
        "monthly": timers.monthly,
        "departed": timers.departed,
        "hourly": hourly.hourly,
    }
    of_cases = {name: _choosing(choose, office) for name, choose in timers.OF_CASES.items()}
    return {**of_cases, **{name: _firing(fire, office) for name, fire in with_office.items()}}


def _taking(take: _Takes, office: Office) -> Handler:
    return lambda unit, events: take(unit, events, office)


def _firing(fire: _Fires, office: Office) -> TimerHandler:
    return lambda unit, fired: fire(unit, fired, office)


def _choosing(choose: timers.OfCase, office: Office) -> TimerHandler:
    return lambda unit, fired: timers.of_case(unit, fired, office, choose)

"""What the demonstration runs on: the services and what carries their events, in one process or in many."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from leeward.settings import ServiceName, Settings
from leeward.store import Store
from services.demo.world.clock import DemoClock

# where the events end by now, in a form that can be compared; None while they are not all with whom they are for
Ends = Callable[[], Awaitable[object]]


class System(Protocol):
    """The services of the demonstration; the story knows their addresses and databases, and no more of them."""

    @property
    def told(self) -> Sequence[str]:
        """What runs, a line each, once it does."""
        ...

    def variables(self) -> Mapping[str, str]:
        """Settings beside those that every demonstration has, as LEEWARD_ variables."""
        ...

    def running(
        self, settings: Settings, clock: DemoClock, stores: Mapping[ServiceName, Store]
    ) -> AbstractAsyncContextManager[Ends]:
        """Start the services on databases that are there, by this clock; stop them in order at the end.

        `stores` are the story's own, beside those of the services.
        """
        ...

"""Whether a database can store now: what its last write came to, and what a look at it finds."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Final, NamedTuple

from leeward import telemetry
from leeward.store.group import StoreUnavailable

LOOK_EVERY: Final = 2.0  # seconds
QUIET: Final = 1.0  # seconds without a commit after which a look tries one
HANGS: Final = 3.0  # seconds after which what does not come back is a fault


class Ailment(NamedTuple):
    """What is wrong with a database, in words, and what somebody should do about it."""

    what: str
    do: str


AILMENTS: Final[Mapping[str, Ailment]] = {
    "disk_full": Ailment("the disk is full", "make room; until then nothing is accepted, and senders repeat"),
    "read_only": Ailment("it cannot be written", "let the user who runs Leeward write to the folder and the files"),
    "damaged": Ailment("it is damaged", "stop Leeward and restore the latest backup with `leeward restore DIR`"),
    "missing": Ailment("the file that was opened is gone", "stop Leeward, put it back or run `leeward restore DIR`"),
    "io_error": Ailment("the disk reports faults", "see the system's log; replace the disk and restore a backup"),
    "locked": Ailment("another process keeps it locked", "end that process: a copy, an import, a second `leeward up`"),
    "cannot_open": Ailment("it cannot be opened", "see whether the folder is there and who may use it"),
    "hangs": Ailment("a write does not come back", "see whether the disk or the server hangs"),
    "exhausted": Ailment("the server has no memory or connections left", "raise its limits"),
    "refused": Ailment("the server does not let us in", "correct user, password or database in the address"),
    "away": Ailment("it cannot be reached", "see whether the server is up, or correct its address"),
}


def ailment(reason: str) -> Ailment:
    """The words of a reason's code."""
    return AILMENTS.get(reason, AILMENTS["away"])


class Health:
    """One database as this process finds it.

    A write that fails turns it red at once. Only a look that succeeds clears that: on a full disk a small commit still
    finds room where a large one did not. Damage stays until the process ends, since a restore is what mends it.
    """

    def __init__(self, service: str, address: str = "") -> None:
        self._service = service
        self._where = {"address": address} if address else {}
        self._fault = ""
        self._begun: dict[object, float] = {}
        self._stored_at = 0.0

    @property
    def reason(self) -> str:
        """The code of why it cannot store now; empty while it can."""
        begun = next(iter(self._begun.values()), None)
        hangs = begun is not None and monotonic() - begun > HANGS
        return self._fault or ("hangs" if hangs else "")

    @property
    def damaged(self) -> bool:
        return self._fault == "damaged"

    @property
    def due(self) -> bool:
        """Whether a write should be tried: nothing was stored lately, or the last try failed."""
        return bool(self._fault) or monotonic() - self._stored_at >= QUIET

    @contextmanager
    def trying(self) -> Iterator[None]:
        """Around a transaction or a look: it notes the fault of one that fails, and one that does not come back."""
        token = object()
        self._begun[token] = monotonic()
        try:
            yield
        except StoreUnavailable as fault:
            self.note(fault)
            raise
        finally:
            del self._begun[token]

    def stored(self) -> None:
        """A transaction has been committed."""
        self._stored_at = monotonic()

    def note(self, fault: StoreUnavailable) -> None:
        """Turn red, and say so once in the log."""
        if fault.reason and fault.reason != self._fault and not self.damaged:
            self._measure(0)
            self._fault = fault.reason
            self._measure(1)
            why = {"fault": str(fault)} if str(fault) else {}
            telemetry.log("database_away", service=self._service, reason=fault.reason, **self._where, **why)

    def clear(self) -> None:
        """A look and a write have succeeded."""
        if self._fault and not self.damaged:
            self._measure(0)
            self._fault = ""
            telemetry.log("database_back", service=self._service)

    def _measure(self, value: int) -> None:
        if self._fault:
            telemetry.DATABASE_FAULT.labels(self._service, self._fault).set(value)


def first_reason(*looks: Callable[[], str]) -> str:
    """The first reason that one of these gives, empty where all is well."""
    return next((reason for look in looks if (reason := look())), "")

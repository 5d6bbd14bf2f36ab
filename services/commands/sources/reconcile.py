"""`reconcile`: the hospital's own list of severe outcomes beside incidents and offers; none should be missing."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from leeward.settings import Settings, load_settings
from leeward.settings.key_checks import compare_key
from leeward.settings.keys import own_key
from services.commands import catalogue
from services.commands.console import Failed, say, show_json, step
from services.commands.databases import prepare, reading, transaction, with_databases

SHOWN: Final = 200  # faults; a file with more of them has one cause
OFFERED: Final = frozenset({"offered", "on_its_way"})
# without an offer of its own, and rightly so, or so old that nothing of it may be known any more
BY_DESIGN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "expected_unit": "a death is expected in its unit",
        "quiet_time": "everybody around it has had a message lately, or has a case open",
        "forgotten": "whatever tied somebody to it has been erased",
    }
)
MISSING: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no_incident": "no source has told of it",
        "unlinked": "an incident of that unit and time is known, and not by this identifier",
        "other_time": "the patient's incident is of another time",
        "in_review": "it waits for the coordinator's word",
        "dismissed": "the coordinator said that it was none",
        "retracted": "its source took it back",
        "nobody_listed": "nobody on the roster was around it, by the message or by the rota",
        "only_unmatched": "whoever was around it waits in the work queue",
        "rehearsal": "nothing was sent: mode is rehearsal",
        "no_offer": "matching has it and has offered nothing, or has not had it yet",
        "offer_failed": "no offer of it could be delivered",
        "needs_attention": "it is stuck: the board says why",
    }
)


@dataclass(frozen=True, slots=True)
class ComparedOutcome:
    """What came of one outcome of the list; `reason` is a code of the tables above, "" where there is an offer."""

    line: int
    reason: str

    @property
    def missing(self) -> bool:
        return self.reason in MISSING


def reconcile(file: Path, *, as_json: bool) -> int:
    """Print what is missing; 1 where anything is."""
    settings = load_settings(starting=False)
    try:
        content = file.read_bytes()
    except OSError as fault:
        raise Failed(f"{file.name}: cannot be read ({fault.strerror})") from None
    found = compared(settings, content, file.name, settings.clock().now())
    if as_json:
        show_json(_shown(found))
    else:
        _say(found)
    return int(any(one.missing for one in found))


def _shown(found: Sequence[ComparedOutcome]) -> dict[str, Any]:
    def count(*, missing: bool) -> dict[str, int]:
        return dict(sorted(Counter(one.reason for one in found if one.reason and one.missing is missing).items()))

    return {
        "outcomes": len(found),
        "offered": sum(not one.reason for one in found),
        "missing": count(missing=True),
        "by_design": count(missing=False),
        "lines": [{"line": one.line, "reason": one.reason, "missing": one.missing} for one in found if one.reason],
    }


def _say(found: Sequence[ComparedOutcome]) -> None:
    for one in found:
        if one.reason:
            why = MISSING.get(one.reason) or f"{BY_DESIGN[one.reason]}; not counted as missing"
            say(f"line {one.line}: {one.reason} ({why})")
    offered, missing = sum(not one.reason for one in found), sum(one.missing for one in found)
    rest = len(found) - offered - missing
    say(f"{len(found)} outcomes: {offered} with an offer, {rest} without one by design, {missing} missing")


@with_databases
def compared(settings: Settings, content: bytes, name: str, now: datetime) -> list[ComparedOutcome]:
    """What incident and matching know of each outcome of a list; the figures are kept in incident's database.

    Raises:
        Failed: with one line a fault; nothing was compared then.
    """
    from services.incident import reconciliation, repository
    from services.incident.hashing import Hasher
    from services.incident.sources.native.table import TableError
    from services.matching.coordinator.reconciliation import offers

    try:
        listed = reconciliation.read_list(content)
    except TableError as fault:
        lines = [str(one) for one in fault.faults[:SHOWN]]
        raise Failed("\n".join([*lines, f"{name}: nothing of it was compared"])) from None
    services = catalogue.load(("incident", "matching"))
    prepare(settings, services)
    step("looking for incidents")
    with reading(settings, "incident") as conn:
        assert conn is not None
        key = own_key(settings, "incident")
        compare_key(conn, services[0].metadata.tables["key_check"], settings, "incident", key.service)
        standings = reconciliation.reconcile_rows(conn, listed, Hasher.of(key))
        recorded = [one.incident_ref for one in standings if not one.reason]
        unmatched = repository.find_waiting(conn, recorded)
    step("looking for offers")
    with reading(settings, "matching") as conn:
        assert conn is not None
        codes = dict(offers(conn, recorded, now))
    for ref, code in codes.items():
        if code == "nobody":
            codes[ref] = "only_unmatched" if ref in unmatched else "nobody_listed"
        elif code in OFFERED:
            codes[ref] = ""
    found = [ComparedOutcome(one.line, one.reason or codes.get(one.incident_ref, "no_offer")) for one in standings]
    with transaction(settings, services[0], now) as unit:
        reconciliation.keep_figures(unit, len(found), Counter(one.reason for one in found if one.missing))
    return found

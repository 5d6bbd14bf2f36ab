"""`dlq`: events that were given up or wait to be tried again, for whoever is on call. No word of a sender is shown."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer
from sqlalchemy import Row

from leeward.bus import dead_letters
from leeward.contracts import EVENTS, bucket_down, decode
from leeward.service import Service
from leeward.settings import SERVICES, ServiceName, Settings, load_settings
from services.commands import catalogue
from services.commands.console import Failed, say, show_json, warn
from services.commands.databases import check_current, reading, transaction, with_databases
from services.commands.operate.status import listening

STATES: Final = {"dead": "dead", "emptied": "dead, and nothing of what was in it is kept"}
IDENT: Final = re.compile(r"([a-z]+)-([0-9]{1,18})")
TYPE: Final = re.compile(r"leeward\.[a-z_.]+\.v[0-9]+")
REFERENCE: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# of all that bodies hold the one text that no code or reference bounds
FREE_TEXT: Final = frozenset({"unit"})


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A parked event, and whose it is."""

    service: Service
    row: Row[Any]

    @property
    def ident(self) -> str:
        return f"{self.service.name}-{self.row.seq}"

    @property
    def next_try(self) -> str | None:
        """When it is tried; None for what is dead, and for what comes after another of its key."""
        return None if self.row.dead or not self.row.first else f"{self.row.due_at:%Y-%m-%dT%H:%MZ}"

    @property
    def brief(self) -> dict[str, Any]:
        """What may be shown of any event, whoever sent it."""
        row = self.row
        return {
            "id": self.ident,
            "service": self.service.name,
            "topic": row.topic,
            "type": row.type if row.type in EVENTS or TYPE.fullmatch(row.type) else "unknown",
            "fault": row.fault,
            "place": row.place,
            "attempts": row.attempts,
            "day": f"{row.parked_on}",
            "state": ("emptied" if row.emptied else "dead") if row.dead else "waiting",
            "next_try": self.next_try,
        }

    @property
    def whole(self) -> dict[str, Any]:
        """All that may be shown; times to a quarter of an hour as in all events, a body that keeps the contract."""
        row = self.row
        body: dict[str, Any] | None
        try:
            body = decode(row.type, row.body).model_dump(mode="json", exclude_none=True)
        except ValueError:  # what the contract does not know may be anything
            body = None
        return {
            **self.brief,
            "event_id": _reference(row.event_id),
            "key": _reference(row.key),
            "accepted_at": f"{bucket_down(row.accepted_at):%Y-%m-%dT%H:%MZ}",
            "bytes": len(row.body.encode()),
            "body": body and {name: "(not shown)" if name in FREE_TEXT else value for name, value in body.items()},
        }


def _reference(text: str) -> str:
    return text if REFERENCE.fullmatch(text) else "unknown"


@with_databases
def list_parked(service: ServiceName | None, *, as_json: bool) -> None:
    """Print a line for each, oldest first within a service."""
    settings = load_settings(starting=False)
    services = catalogue.load([service] if service else SERVICES)
    found = [letter for one in services for letter in _letters(settings, one)]
    if as_json:
        show_json([letter.brief for letter in found])
        return
    lines = [_line(letter.brief) for letter in found]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if not found:
        say("there are no dead letters, and nothing waits to be tried again")


def _letters(settings: Settings, service: Service, seqs: Sequence[int] | None = None) -> list[ParkedEvent]:
    with reading(settings, service.name) as conn:
        if conn is None:
            return []
        check_current(conn, service)
        rows = dead_letters.letters(conn, service.metadata.tables["parked"], seqs)
    return [ParkedEvent(service, row) for row in rows]


def _line(brief: dict[str, Any]) -> list[str]:
    attempts = f"{brief['attempts']} attempt{'' if brief['attempts'] == 1 else 's'}"
    reason = f"{brief['fault']}: {brief['place']}" if brief["fault"] else str(brief["place"])
    state = f"waits until {brief['next_try']}" if brief["next_try"] else "waits for the one before it"
    if brief["state"] != "waiting":
        state = STATES[brief["state"]]
    return [brief["id"], brief["topic"], brief["type"], reason, attempts, brief["day"], state]


@with_databases
def show(ident: str, *, as_json: bool) -> None:
    """Print one.

    Raises:
        Failed: when there is none of that id.
    """
    [letter] = _found(load_settings(starting=False), [ident])
    if as_json:
        show_json(letter.whole)
        return
    shown = letter.whole
    body = shown.pop("body")
    for name, value in shown.items():
        say(f"{name.replace('_', ' '):<12}{'-' if value in (None, '') else value}")
    if body is None:
        why = "nothing of it is kept" if letter.row.emptied else "this release does not understand it"
        say(f"body        not shown: {why}")
    for name, value in (body or {}).items():
        say(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}")


def _found(settings: Settings, idents: Sequence[str]) -> list[ParkedEvent]:
    """The letters of these ids, each once.

    Raises:
        Failed: when one is not there; which is not said, since what was typed may be anything.
    """
    matches = [IDENT.fullmatch(ident) for ident in idents]
    wanted = {(match[1], int(match[2])) for match in matches if match}
    found: list[ParkedEvent] = []
    for service in catalogue.load(name for name in SERVICES if name in {name for name, _ in wanted}):
        found += _letters(settings, service, [seq for name, seq in wanted if name == service.name])
    if len(found) < len(wanted) or not all(matches):
        raise Failed("dlq: there is no event of that id, or of one of them; `leeward dlq list` shows those there are")
    return found


@with_databases
def replay(idents: Sequence[str], service: ServiceName | None) -> None:
    """Have events wait to be tried at once, and say who will do so when.

    Raises:
        typer.BadParameter: unless it is either ids or a service.
    """
    if bool(idents) == bool(service):
        raise typer.BadParameter("give either ids or --service")
    settings = load_settings(starting=False)
    if service is None:
        chosen = _found(settings, idents)
        if emptied := [letter.ident for letter in chosen if letter.row.emptied]:
            raise Failed(f"dlq replay: nothing of {', '.join(emptied)} is kept; see whom it may concern, then drop it")
    else:
        [only] = catalogue.load([service])
        chosen = [letter for letter in _letters(settings, only) if letter.row.dead and not letter.row.emptied]
    for one, seqs in _by_service(chosen):
        with transaction(settings, one, settings.clock().now()) as unit:
            count = dead_letters.replay(unit, seqs)
        when = "within 15 seconds" if listening(settings, one.name) else "as soon as it runs: it does not answer now"
        say(f"{_events(count)} of {one.name} will be tried {when}")
    if not chosen:
        say("there are no dead letters of which anything is kept")


def _by_service(chosen: Iterable[ParkedEvent]) -> Iterable[tuple[Service, list[int]]]:
    found: dict[ServiceName, tuple[Service, list[int]]] = {}
    for letter in chosen:
        found.setdefault(letter.service.name, (letter.service, []))[1].append(letter.row.seq)
    return found.values()


def _events(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


@with_databases
def drop(idents: Sequence[str], *, yes: bool) -> int:
    """Delete dead letters; 2 where nobody has said that this is meant.

    Raises:
        Failed: when one is not there, or is not dead.
    """
    question = f"Drop {_events(len(idents))} permanently?"
    if not yes and not (sys.stdin.isatty() and typer.confirm(question, err=True)):
        warn("dlq drop: nothing was dropped; what is dropped never has an effect, so say --yes")
        return 2
    settings = load_settings(starting=False)
    chosen = _found(settings, idents)
    if waiting := [letter.ident for letter in chosen if not letter.row.dead]:
        raise Failed(f"dlq drop: {', '.join(waiting)} waits to be tried again; only what is dead can be dropped")
    for one, seqs in _by_service(chosen):
        with transaction(settings, one, settings.clock().now()) as unit:
            count = dead_letters.drop(unit, seqs)
        say(f"{_events(count)} of {one.name} dropped")
    return 0

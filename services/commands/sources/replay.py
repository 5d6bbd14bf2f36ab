"""`hl7 replay`: what a source has sent within the last days, decided again by the rules in force now."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import typer

from leeward.adapters import store_of
from leeward.settings import Settings, load_settings
from leeward.settings.key_checks import compare_key
from leeward.settings.keys import own_key
from leeward.settings.policy import duration
from leeward.store import StoreUnavailable
from services.commands import catalogue
from services.commands.console import Failed, say, show_json, step
from services.commands.databases import prepare

if TYPE_CHECKING:
    from services.incident.replay.replay import Replayed

KEPT_AT_LEAST: Final = timedelta(hours=48)  # by a key that was made at the very beginning of its day
ACTIONS: Final = ("recorded", "reviewed", "retracted", "changed")
WHY: Final[Mapping[str, str]] = {
    "key_destroyed": "their key is destroyed",
    "no_such_source": "their source is not in leeward.toml",
    "not_whole": "what is stored of them is damaged",
}


def replay(source: str, since: str, until: str, *, dry_run: bool, as_json: bool) -> None:
    """Decide the stored messages of a source again and say what came of it.

    Raises:
        Failed: when nothing can be replayed.
    """
    settings = load_settings(starting=False)
    now = settings.clock().now()
    first, last = moment(since, "--since", now), moment(until, "--until", now) if until else now + timedelta(days=1)
    if source not in settings.sources:
        raise typer.BadParameter(f"no source of that name; allowed are {', '.join(settings.sources)}")
    if first >= last:
        raise typer.BadParameter("--until must be later than --since")
    step("reading")
    found = asyncio.run(_replayed(settings, source, first, last, dry_run=dry_run))
    if found.oldest_key is None:
        raise Failed("nothing can be replayed: there are no messages whose key is not destroyed (72 hours)")
    if as_json:
        show_json({**asdict(found), "dry_run": dry_run, "counts": counts(found)})
    else:
        _say(found, source, first, now, dry_run=dry_run)


def moment(text: str, option: str, now: datetime) -> datetime:
    """A time with its offset, or how long ago, such as 36h.

    Raises:
        typer.BadParameter: for anything else.
    """
    try:
        if text[-1:] in "smhd":
            return now - duration(text)
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError
        return found
    except ValueError:
        raise typer.BadParameter(
            f"{option}: allowed is a time such as 2026-11-21T08:00:00Z, or 36h ago as 36h"
        ) from None


async def _replayed(settings: Settings, source: str, since: datetime, until: datetime, *, dry_run: bool) -> "Replayed":
    from services.incident.replay.replay import Replay

    services = catalogue.load(("incident",))
    await asyncio.to_thread(prepare, settings, services)
    key, key_check = own_key(settings, "incident"), services[0].metadata.tables["key_check"]
    store = store_of(settings, "incident", services[0].metadata, settings.clock())
    try:
        await store.read(lambda conn: compare_key(conn, key_check, settings, "incident", key.service))
        return await Replay(store, settings, key, source).run(since, until, dry_run=dry_run)
    except StoreUnavailable as fault:
        raise Failed(f"incident: the database cannot be written now ({fault}); run it again") from fault
    finally:
        await store.close()


def counts(found: "Replayed") -> dict[str, Any]:
    """How many of each action, and by which reasons."""
    return {
        action: {
            "count": sum(one.action == action for one in found.decided),
            "reasons": dict(
                sorted(Counter(r for one in found.decided if one.action == action for r in one.reasons).items())
            ),
        }
        for action in ACTIONS
    }


def _say(found: "Replayed", source: str, since: datetime, now: datetime, *, dry_run: bool) -> None:
    if found.oldest_key and found.oldest_key > since and now - since > KEPT_AT_LEAST:
        say(f"nothing is kept from before {found.oldest_key:%Y-%m-%d %H:%M} UTC: keys are destroyed after 72 hours")
    say(f"{found.messages} messages of {source}")
    for reason, number in found.refused.items():
        say(f"{number} of all sources could not be read: {WHY.get(reason, f'these rules refuse them ({reason})')}")
    for action, one in counts(found).items():
        reasons = ", ".join(f"{reason} {number}" for reason, number in one["reasons"].items())
        say(f"{action} {one['count']}" + (f" ({reasons})" if reasons else ""))
    for each in found.decided:
        say(f"  {each.raw_ref}  {each.came:%Y-%m-%d %H:%M}  {each.action}  {' '.join(each.reasons)}")
    if dry_run:
        say("nothing of this was stored: --dry-run")

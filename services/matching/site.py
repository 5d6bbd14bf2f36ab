"""What every handler of this service has at hand: the site's rules, the roster in memory, one key."""

import hmac
from dataclasses import dataclass, field
from datetime import timedelta

from leeward.service import Context
from leeward.settings import Settings
from services.matching.lifecycle.case import Rules
from services.matching.pairing.scoring import Caps
from services.matching.roster.people import Roster


@dataclass(frozen=True)
class Site:
    """One running service's settings as values, and its copy of the roster."""

    rules: Rules
    caps: Caps
    after_exposure: timedelta
    cover_every: timedelta | None
    listed: frozenset[str]
    expected_units: frozenset[str]
    key: bytes = field(repr=False)
    roster: Roster = field(default_factory=Roster, repr=False)

    def fingerprint(self, incident_ref: str, person_ref: str) -> str:
        """A keyed digest that tells again whether somebody was around an outcome, and does not tell who was."""
        return hmac.digest(self.key, f"{incident_ref} {person_ref}".encode(), "sha256").hex()


def site_of_context(context: Context) -> Site:
    """The office of a running service."""
    return site_of(context.settings, context.keys.derive("same-incident"))


def site_of(settings: Settings, key: bytes) -> Site:
    """The office for these settings."""
    supporters = settings.supporters
    return Site(
        rules=rules_of(settings),
        caps=Caps(supporters.active_cases, int(supporters.hours_a_month * 60)),
        after_exposure=supporters.after_exposure,
        cover_every=settings.outreach.cover_every,
        listed=frozenset(settings.incident.trigger_categories),
        expected_units=frozenset(settings.incident.expected_units),
        key=key,
    )


def rules_of(settings: Settings) -> Rules:
    """The state machine's times and numbers from the policy file."""
    outreach, supporters = settings.outreach, settings.supporters
    hours = supporters.answer_hours
    return Rules(
        reminder_after=outreach.reminder_after,
        longest_hold=outreach.longest_hold,
        coalesce=outreach.coalesce,
        answer_hours=(hours.start, hours.end) if hours else None,
        confirm_urgent=supporters.confirm_urgent,
        confirm_routine=supporters.confirm_routine,
        attempts=supporters.attempts,
        cool_down=supporters.cool_down,
        rehearsal=outreach.mode == "rehearsal",
    )

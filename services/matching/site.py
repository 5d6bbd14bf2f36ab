"""What every handler of this service has at hand: the site's rules, the roster in memory, one key."""

import hmac
from dataclasses import dataclass, field
from datetime import timedelta

from leeward.service import Context
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
        """A keyed digest by which it can be checked whether somebody was around an incident, and not read who was."""
        return hmac.digest(self.key, f"{incident_ref} {person_ref}".encode(), "sha256").hex()


def site_of(context: Context) -> Site:
    """The site of a running service, from its settings and a key of its own."""
    settings = context.settings
    return Site(
        rules=Rules.of(settings.outreach, settings.supporters),
        caps=Caps.of(settings.supporters),
        after_exposure=settings.supporters.after_exposure,
        cover_every=settings.outreach.cover_every,
        listed=frozenset(settings.incident.trigger_categories),
        expected_units=frozenset(settings.incident.expected_units),
        key=context.keys.derive("same-incident"),
    )

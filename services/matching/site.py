"""What every handler of this service has at hand: the site's rules, the roster in memory, one key."""

import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from leeward.settings import Settings
from leeward.settings.keys import Keyring
from leeward.store.copies.erasures import hash_of
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
    erasure_key: bytes = field(repr=False)
    roster: Roster = field(default_factory=Roster, repr=False)

    def fingerprint(self, incident_ref: str, person_ref: str) -> str:
        """A keyed digest by which it can be checked whether somebody was around an incident, and not read who was."""
        return hmac.digest(self.key, f"{incident_ref} {person_ref}".encode(), "sha256").hex()

    def erasure_hash(self, kind: Literal["case", "person"], ref: str) -> str:
        """What stands on the list of erasures for a case that names nobody any more, or somebody who has left."""
        return hash_of(self.erasure_key, kind, ref)


def site_of(settings: Settings, keys: Keyring) -> Site:
    """The site of an installation, from its settings and this service's own key."""
    return Site(
        rules=Rules.of(settings.outreach, settings.supporters),
        caps=Caps.of(settings.supporters),
        after_exposure=settings.supporters.after_exposure,
        cover_every=settings.outreach.cover_every,
        listed=frozenset(settings.incident.trigger_categories),
        expected_units=frozenset(settings.incident.expected_units),
        key=keys.derive("same-incident"),
        erasure_key=keys.derive("erasures"),
    )

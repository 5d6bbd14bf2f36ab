"""The channels there are. Everything else in Leeward learns of a channel from its entry here."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from leeward.settings import Settings, SettingsError
from services.notify.channels import ChannelEntry, Contact
from services.notify.channels.email import EMAIL
from services.notify.channels.webhook import WEBHOOK

Entries = Sequence[ChannelEntry[Any]]
# the first one that reaches somebody is used
CHANNELS: Final[tuple[ChannelEntry[Any], ...]] = (EMAIL, WEBHOOK)


def entries_on(settings: Settings) -> Entries:
    """The channels that the site has turned on.

    Raises:
        SettingsError: when one of them lacks a variable; only notify asks, other processes are not given its secrets.
    """
    entries = [entry for entry in CHANNELS if entry.is_on(settings)]
    for entry in entries:
        for variable, purpose in entry.required.items():
            if not settings.variable(variable):
                raise SettingsError(f"LEEWARD_{variable}: is missing; {purpose}")
    return entries


def first_reaching(entries: Iterable[ChannelEntry[Any]], contact: Contact) -> ChannelEntry[Any] | None:
    """The first of the channels that has an address for this contact."""
    return next((entry for entry in entries if entry.address(contact)), None)

"""Mail over SMTP."""

from typing import Final

from services.notify.channels import ChannelEntry
from services.notify.channels.email.check import check_server
from services.notify.channels.email.message import Mailer
from services.notify.channels.email.smtp import Email, smtp_server
from services.notify.channels.wording import wording

EMAIL: Final[ChannelEntry[str]] = ChannelEntry(
    name="email",
    turned_on_by="LEEWARD_SMTP_URL",
    is_on=lambda settings: settings.smtp_url is not None,
    address=lambda contact: contact.email,
    lanes=8,
    # a mailbox shows every copy: one repetition, and the outcome stays unknown after that
    repeats_in_doubt=1,
    bounce_ends="email",
    make=lambda settings, now, lanes: Email(
        smtp_server(settings.smtp_url or ""), Mailer(settings.mail_from, settings.public_url, wording), now, lanes
    ),
    check=check_server,
)

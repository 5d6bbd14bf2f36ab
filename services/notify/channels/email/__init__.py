"""Mail over SMTP."""

from collections.abc import Sequence
from typing import Final

from aiosmtplib import SMTP, SMTPAuthenticationError, SMTPException

from leeward.settings import Settings
from services.notify.channels import ChannelEntry, ChannelFinding, Now
from services.notify.channels.email.message import Mailer
from services.notify.channels.email.smtp import Email, smtp_server
from services.notify.channels.wording import wording

PATIENCE: Final = 10.0  # seconds


def _make(settings: Settings, now: Now, lanes: int) -> Email:
    mailer = Mailer(settings.mail_from, settings.public_url, wording)
    return Email(smtp_server(settings.smtp_url or ""), mailer, now, lanes)


async def _check(settings: Settings) -> Sequence[ChannelFinding]:
    """Connect, encrypt and sign in as notify will; a fault is told without what the server said."""
    found: list[ChannelFinding] = []
    at = smtp_server(settings.smtp_url or "")
    client = SMTP(
        hostname=at.host,
        port=at.port,
        username=at.user,
        password=at.password,
        use_tls=at.tls,
        start_tls=at.starttls,
        timeout=PATIENCE,
    )
    fault = ""
    try:
        async with client:
            pass
    except SMTPAuthenticationError:
        fault = "the server does not take this user and password"
    except (SMTPException, OSError) as error:
        fault = f"cannot be reached ({type(error).__name__})"
    if fault:
        do = "correct it, or see whether the mail server is up"
        found.append(ChannelFinding("error", f"LEEWARD_SMTP_URL: {fault}", do))
    if settings.variable("MAIL_FROM") is None:
        do = "mail leaves as messages@localhost: set a neutral address"
        found.append(ChannelFinding("warning", "LEEWARD_MAIL_FROM is not set", do))
    return found


EMAIL: Final[ChannelEntry[str]] = ChannelEntry(
    name="email",
    turned_on_by="LEEWARD_SMTP_URL",
    is_on=lambda settings: settings.smtp_url is not None,
    address=lambda contact: contact.email,
    lanes=8,
    # a mailbox shows every copy: one repetition, and the outcome stays unknown after that
    repeats_in_doubt=1,
    bounce_ends="email",
    make=_make,
    check=_check,
)

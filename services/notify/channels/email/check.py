"""What `leeward doctor` finds out about e-mail, by really connecting."""

from collections.abc import Sequence
from typing import Final

from aiosmtplib import SMTP, SMTPAuthenticationError, SMTPException

from leeward.settings import Settings
from services.notify.channels import ChannelFinding
from services.notify.channels.email.smtp import smtp_server

PATIENCE: Final = 10.0  # seconds


async def check_server(settings: Settings) -> Sequence[ChannelFinding]:
    """Connect, encrypt and sign in as notify will; a fault is named without what the server said."""
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

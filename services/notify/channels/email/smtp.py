"""E-mail through several kept connections (RFC 5321). An attempt lost after the final dot is in doubt, not failed."""

import asyncio
import re
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from aiosmtplib import SMTP, SMTPAuthenticationError, SMTPException, SMTPResponseException

from leeward import telemetry
from services.notify.channels import Letter, Now, Result
from services.notify.channels.email.message import Mailer, UnfitAddress, envelope_address

# seconds that a server may take (RFC 5321, 4.5.3.2): for the greeting, MAIL and RCPT, and for the final dot
PATIENCE: Final = 300.0
PATIENCE_FOR_THE_DOT: Final = 600.0
# firewalls forget an idle connection after as little as 30 s, and tell neither side
LONGEST_IDLE: Final = 20.0
# RFC 3463, 3.2: only these say that the address itself is of no use; 5.7.x is the relay's policy, 5.2.2 a full box
_BAD_ADDRESS: Final = re.compile(r"5\.1\.\d{1,3}(?!\d)")
_FULL_BOX: Final = re.compile(r"5\.2\.2(?!\d)")
# replies after which the server takes nothing from us, whatever the letter (RFC 4954, 6)
_NOT_ALLOWED: Final = frozenset({530, 534, 535, 538})


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over, read from LEEWARD_SMTP_URL."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool
    starttls: bool | None

    def __repr__(self) -> str:
        return "SmtpServer(…)"


def smtp_server(url: str) -> SmtpServer:
    """`smtp://user:password@host:port`, `smtps://…`, `?starttls=required` (or `never`; otherwise if it is offered)."""
    parts = urlsplit(url)
    tls = parts.scheme == "smtps"
    wish = parse_qs(parts.query).get("starttls", [""])[0]
    starttls = {"required": True, "never": False}.get(wish)
    return SmtpServer(
        parts.hostname or "localhost",
        parts.port or (465 if tls else 587 if starttls else 25),
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        tls,
        False if tls else starttls,
    )


class Email:
    """Hands letters to an SMTP server, one kept connection a lane; a lane that lost its connection makes a new one."""

    def __init__(self, server: SmtpServer, mailer: Mailer, now: Now, lanes: int) -> None:
        self._server = server
        self._mailer = mailer
        self._now = now
        self._kept: list[SMTP | None] = [None] * lanes
        self._used_at = [0.0] * lanes

    async def send(self, letter: Letter[str], lane: int) -> Result:
        try:
            recipient = envelope_address(letter.address)
        except UnfitAddress:
            return Result.BOUNCED
        kept = self._kept_client(lane)
        if kept is not None:
            # what breaks on a connection that was kept says nothing of this letter, nor of the server
            result = await self._offer(kept, letter, recipient, lane)
            if result is not None:
                return result
        client = await self._new_client(lane)
        if isinstance(client, Result):
            return client
        # where a new connection breaks, it is this letter that the server will not have
        return await self._offer(client, letter, recipient, lane) or Result.LATER

    async def _offer(self, client: SMTP, letter: Letter[str], recipient: str, lane: int) -> Result | None:
        """One transaction; None where the connection ended before the message was on its way."""
        try:
            await client.mail(self._mailer.sender)
            await client.rcpt(recipient)
        except SMTPResponseException as fault:
            if fault.code == 421:
                self._drop(lane)
                return None
            await self._reset(lane)
            return _refused(fault, address=isinstance(fault, aiosmtplib.SMTPRecipientRefused))
        except (SMTPException, OSError):
            self._drop(lane)
            return None
        return await self._hand_over(client, self._mailer.render(letter, recipient, self._now()), lane)

    async def _hand_over(self, client: SMTP, message: bytes, lane: int) -> Result:
        try:
            await client.data(message, timeout=PATIENCE_FOR_THE_DOT)
        except SMTPResponseException as fault:
            await self._reset(lane)
            return _refused(fault, address=False)
        except (SMTPException, OSError):
            self._drop(lane)
            return Result.UNSURE
        self._used_at[lane] = time.monotonic()
        return Result.TAKEN

    def _kept_client(self, lane: int) -> SMTP | None:
        """The lane's connection, where it was used a moment ago."""
        kept = self._kept[lane]
        if kept is not None and kept.is_connected and time.monotonic() - self._used_at[lane] < LONGEST_IDLE:
            return kept
        self._drop(lane)
        return None

    async def _new_client(self, lane: int) -> SMTP | Result:
        """A new connection for the lane, or what its failure says of the channel."""
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.starttls,
            timeout=PATIENCE,
            local_hostname=self._mailer.sender.rpartition("@")[2],
        )
        try:
            await client.connect()
        except SMTPAuthenticationError as fault:
            client.close()
            # a server that cannot look the password up now says 454 (RFC 4954, 6)
            return Result.ILL if fault.code >= 500 else Result.NOT_TRIED
        except (SMTPException, OSError) as fault:
            client.close()
            telemetry.log("channel_away", channel="email", fault=type(fault).__name__)
            return Result.NOT_TRIED
        self._kept[lane], self._used_at[lane] = client, time.monotonic()
        return client

    async def _reset(self, lane: int) -> None:
        client = self._kept[lane]
        try:
            if client is not None:
                await client.rset()
        except (SMTPException, OSError):
            self._drop(lane)

    def _drop(self, lane: int) -> None:
        client, self._kept[lane] = self._kept[lane], None
        if client is not None:
            client.close()

    async def close(self) -> None:
        """Say goodbye on every lane, without waiting long for an answer."""
        for lane, client in enumerate(self._kept):
            if client is not None and client.is_connected:
                try:
                    async with asyncio.timeout(2):
                        await client.quit()
                except (SMTPException, OSError, TimeoutError):
                    pass
            self._drop(lane)


def _refused(fault: SMTPResponseException, *, address: bool) -> Result:
    """What a reply says of the letter: 4xx is for now, 5xx permanent (RFC 5321, 4.2.1), more by its code (RFC 3463)."""
    if fault.code in _NOT_ALLOWED:
        return Result.ILL
    if fault.code < 500 or _FULL_BOX.match(fault.message):
        return Result.LATER
    return Result.BOUNCED if address and _BAD_ADDRESS.match(fault.message) else Result.REFUSED

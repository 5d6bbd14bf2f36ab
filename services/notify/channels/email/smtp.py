"""E-mail through several kept connections (RFC 5321). An attempt lost after the final dot is in doubt, not failed."""

import asyncio
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import aiosmtplib
from aiosmtplib import (
    SMTP,
    SMTPException,
    SMTPReadTimeoutError,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from leeward import telemetry
from services.notify.channels import Letter, Now, Result
from services.notify.channels.email.message import Mailer, UnfitAddress, envelope_address

TIMEOUT: Final = 30.0
# RFC 5321, 4.2.3: replies to RCPT that say the mailbox itself is not there, permanently
NO_SUCH_MAILBOX: Final = frozenset({550, 551, 553, 556})


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

    async def send(self, letter: Letter[str], lane: int) -> Result:
        try:
            recipient = envelope_address(letter.address)
        except UnfitAddress:
            return Result.BOUNCED
        client = await self._client(lane)
        if client is None:
            return Result.NOT_TRIED
        try:
            await client.mail(self._mailer.sender)
            await client.rcpt(recipient)
        except SMTPResponseException as fault:
            await self._reset(lane)
            return _refused(fault.code, address=isinstance(fault, aiosmtplib.SMTPRecipientRefused))
        except (SMTPException, OSError):
            self._drop(lane)
            return Result.NOT_TRIED
        return await self._hand_over(client, self._mailer.render(letter, recipient, self._now()), lane)

    async def _hand_over(self, client: SMTP, message: bytes, lane: int) -> Result:
        try:
            await client.data(message)
        except SMTPResponseException as fault:
            await self._reset(lane)
            return _refused(fault.code, address=False)
        except (SMTPServerDisconnected, SMTPReadTimeoutError, SMTPException, OSError):
            self._drop(lane)
            return Result.UNSURE
        return Result.TAKEN

    async def _client(self, lane: int) -> SMTP | None:
        """The lane's connection, opened again where it was lost; None where the server is away."""
        kept = self._kept[lane]
        if kept is not None and kept.is_connected:
            return kept
        self._drop(lane)
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.tls,
            start_tls=server.starttls,
            timeout=TIMEOUT,
            local_hostname=self._mailer.sender.rpartition("@")[2],
        )
        try:
            await client.connect()
        except (SMTPException, OSError) as fault:
            telemetry.log("channel_away", channel="email", fault=type(fault).__name__)
            return None
        self._kept[lane] = client
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


def _refused(code: int, *, address: bool) -> Result:
    """4xx is for now, 5xx permanent (RFC 5321, 4.2.1); 421 closes the connection, which is no answer to this letter."""
    if code == 421:
        return Result.NOT_TRIED
    if code < 500:
        return Result.LATER
    return Result.BOUNCED if address and code in NO_SUCH_MAILBOX else Result.REFUSED

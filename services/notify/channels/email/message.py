"""A neutral message as RFC 5322 bytes from a template: an `EmailMessage` would cost half a millisecond each."""

import base64
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, parseaddr

from services.notify.channels import Letter, Words


class UnfitAddress(ValueError):
    """An address that cannot stand in a mail: nothing is sent to it."""


def envelope_address(address: str) -> str:
    """An address as SMTP takes it: the domain in ASCII (RFC 5890), nothing that could end a line.

    Raises:
        UnfitAddress: for anything else; the text names no address.
    """
    local, at, domain = address.strip().rpartition("@")
    if not at or not local or not local.isascii() or any(c <= " " or c in '<>"(),;:\\' or c == "\x7f" for c in local):
        raise UnfitAddress("not an address that can be mailed")
    try:
        ascii_domain = domain.encode("idna").decode()
    except UnicodeError:
        raise UnfitAddress("not a domain that can be mailed") from None
    if not ascii_domain or any(not (c.isalnum() or c in "-.[]:") for c in ascii_domain):
        raise UnfitAddress("not a domain that can be mailed")
    return f"{local}@{ascii_domain}"


class Mailer:
    """Renders letters. From, Message-ID domain and every other header are the same for all and name nothing."""

    def __init__(self, sender: str, public_url: str, words: Words) -> None:
        self.sender = envelope_address(parseaddr(sender)[1] or sender)
        self._domain = self.sender.rpartition("@")[2]
        self._public_url = public_url
        self._words = words
        self._subjects: dict[str, str] = {}

    def message_id(self, letter: Letter[str]) -> str:
        return f"<{letter.key}@{self._domain}>"

    def render(self, letter: Letter[str], recipient: str, now: datetime) -> bytes:
        """The whole message, CRLF line ends; ASCII as it is, all else as base64 (RFC 2045, 6)."""
        words = self._words(letter.kind, letter.locale)
        subject = self._subjects.get(words.subject)
        if subject is None:
            subject = words.subject
            if not subject.isascii():
                subject = Header(subject, "utf-8").encode(linesep="\r\n")
            self._subjects[words.subject] = subject
        body = words.body.format(link=letter.link(self._public_url), code=letter.token)
        lines = "\r\n".join([*body.rstrip("\n").split("\n"), ""])
        encoding, payload = "7bit", lines.encode()
        if not lines.isascii():
            coded = base64.b64encode(payload)
            encoding = "base64"
            payload = b"".join(coded[start : start + 76] + b"\r\n" for start in range(0, len(coded), 76))
        head = (
            f"From: {self.sender}\r\nTo: {recipient}\r\nSubject: {subject}\r\n"
            f"Date: {format_datetime(now)}\r\nMessage-ID: {self.message_id(letter)}\r\nMIME-Version: 1.0\r\n"
            f"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n"
            f"Content-Language: {letter.locale}\r\nAuto-Submitted: auto-generated\r\n\r\n"
        )
        return head.encode("ascii") + payload

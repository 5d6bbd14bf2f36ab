"""`hl7 send` and `hl7 explain`: messages of a file over MLLP, and what would be done with them."""

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from leeward.settings import load_settings
from services.commands.console import Failed, say, show_json

START: Final = b"\x0b"
END: Final = b"\x1c\r"
PATIENCE: Final = 10.0  # seconds to wait for an acknowledgement
ACCEPTED: Final = frozenset({"AA", "CA"})
NEVER: Final = frozenset({"NE", ""})


@dataclass(frozen=True)
class Tls:
    """PEM files: who signed the listener's certificate, our own certificate and its key."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """What a connection is made with.

        Raises:
            Failed: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except OSError as fault:
            raise Failed(f"--ca, --cert, --key: one cannot be used ({fault.strerror or 'not PEM'})") from None
        return context


def send(file: Path, host: str, port: int, tls: Tls | None = None) -> None:
    """Send every message of a file and print its acknowledgement.

    Raises:
        Failed: when one was not accepted or not answered.
    """
    settings = load_settings(starting=False)
    messages = split(file.read_bytes())
    if not messages:
        raise Failed(f"{file.name}: holds no HL7 message (nothing begins with MSH)")
    refused = 0
    with MllpConnection(host or settings.host, port or settings.mllp_port, tls.context() if tls else None) as line:
        for number, message in enumerate(messages, 1):
            answer = line.exchange(message)
            say(f"message {number}: {answer}")
            refused += not (answer.fine or answer.code == "none asked for")
    if refused:
        raise Failed(f"{refused} of {len(messages)} not accepted")


def split(raw: bytes) -> list[bytes]:
    """The messages of a file, with or without MLLP frames around them, each with CR as line end."""
    body = raw.replace(START, b"\r").replace(b"\x1c", b"\r")
    # an LF that no segment follows is a line break inside a value
    body = re.sub(rb"\r\n|\n(?=[A-Z][A-Z0-9]{2}[^\w\s]|\s|\Z)", b"\r", body).removeprefix(b"\xef\xbb\xbf")
    starts = [found.start() for found in re.finditer(rb"(?<![^\r])MSH(?![\w\s])", body)]
    ends = [*starts[1:], len(body)]
    return [body[first:last].strip(b"\r") + b"\r" for first, last in zip(starts, ends, strict=False)]


@dataclass(frozen=True)
class Acknowledgement:
    """MSA-1 and, for a refusal, what the ERR segment says; never a value of the message."""

    code: str
    fault: str = ""

    @property
    def fine(self) -> bool:
        return self.code in ACCEPTED

    def __str__(self) -> str:
        return f"{self.code} ({self.fault})" if self.fault else self.code


class MllpConnection:
    """One MLLP connection (HL7 v2.9, transport specification: MLLP release 1)."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=PATIENCE)
            if context:
                self._socket = context.wrap_socket(self._socket, server_hostname=host)
        except ssl.SSLError as fault:
            raise Failed(f"no TLS with {host}:{port} ({fault.reason or 'refused'})") from None
        except OSError as fault:
            raise Failed(f"nothing answers at {host}:{port} ({fault.strerror or 'no answer in time'})") from None
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_fault: object) -> None:
        self._socket.close()

    def exchange(self, message: bytes) -> Acknowledgement:
        """Send one message and wait for what answers it: the last of a commit and an application answer.

        Raises:
            Failed: when the line closes or stays silent.
        """
        answers: list[Acknowledgement] = []
        try:
            self._socket.sendall(START + message + END)
            while len(answers) < expected(message) and all(answer.fine for answer in answers):
                answers.append(acknowledgement(self._frame()))
        except OSError as fault:
            if not (isinstance(fault, TimeoutError) and silence_is_consent(message)):
                raise Failed(f"no acknowledgement ({type(fault).__name__}); send the message again") from None
        # a refusal says both
        return answers[-1] if answers else Acknowledgement("none asked for")

    def _frame(self) -> bytes:
        while END not in self._rest:
            some = self._socket.recv(65536)
            if not some:
                raise ConnectionResetError
            self._rest += some
        frame, _, self._rest = self._rest.partition(END)
        return frame.lstrip(START)


def expected(message: bytes) -> int:
    """How many answers a message asks for by MSH-15 and MSH-16; at most one is waited for where that is conditional."""
    given = _conditions(message)
    if not any(given):
        return 1
    return given.count("AL") or (0 if NEVER.issuperset(given) else 1)


def silence_is_consent(message: bytes) -> bool:
    """Whether faults alone are answered."""
    given = set(_conditions(message)) - NEVER
    return given == {"ER"}


def _conditions(message: bytes) -> list[str]:
    header = message.partition(b"\r")[0].split(message[3:4])
    return [(header[n].strip().decode("ascii", "replace").upper() if n < len(header) else "") for n in (14, 15)]


def acknowledgement(frame: bytes) -> Acknowledgement:
    """What an acknowledgement says."""
    from services.incident.sources.hl7v2.parser import CONDITIONS, Hl7Error, Hl7Message

    try:
        answer = Hl7Message(frame)
    except Hl7Error:
        return Acknowledgement("unreadable")
    code = answer.segment(b"MSA").text(1)
    if code in ACCEPTED or not answer.segments(b"ERR"):
        return Acknowledgement(code)
    error = answer.segment(b"ERR")
    number = error.text(3) or error.text(1, 4, 1)
    field, parts = (2, range(1, 6)) if error.raw(2) else (1, range(1, 4))
    place = "^".join(filter(None, (error.text(field, part) for part in parts)))
    return Acknowledgement(code, f"{number} {CONDITIONS.get(int(number), '')} at {place}" if number.isdigit() else "")


def explain(file: Path, *, as_json: bool) -> None:
    """Say what each message of a file would lead to, and why."""
    from services.incident.sources.hl7v2.explain import explain as explained

    settings = load_settings(starting=False)
    content = file.read_bytes()
    # what holds no header is explained as it is: that it has none
    found = [explained(message, settings) for message in split(content) or [content]]
    if as_json:
        show_json(found)
        return
    for number, lines in enumerate(found, 1):
        say("\n".join([f"message {number}", *(f"  {line}" for line in lines)]))

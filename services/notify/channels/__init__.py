"""The ways a message leaves. A channel takes one letter at a time and says what became of the attempt."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

Kind = Literal["message", "link", "code", "call"]


@dataclass(frozen=True, slots=True)
class Letter:
    """One hand-off ready to go: `key` is the idempotency key of all its attempts.

    kind: `message` carries a link, `link` one asked for anew, `code` eight digits, `call` a link for the professional.
    token: the link's token, or the digits of a code. email, mobile: where to; empty where there is none.
    """

    key: str
    kind: Kind
    token: str
    email: str
    mobile: str
    locale: str


class Result(StrEnum):
    """What one attempt came to, as a channel reports it."""

    TAKEN = "taken"
    REFUSED = "refused"
    BOUNCED = "bounced"
    LATER = "later"
    UNSURE = "unsure"
    NOT_TRIED = "not_tried"


class Channel(Protocol):
    """One way out. `send` never raises for what the other side does; it reports."""

    name: str
    lanes: int

    async def send(self, letter: Letter, lane: int) -> Result:
        """Hand one letter over on a lane of its own (a kept connection); lanes never wait for one another."""
        ...

    async def close(self) -> None: ...

"""The ways a message leaves: what a channel does with a letter, and what the rest of Leeward knows of it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar

from leeward.settings import Settings

Kind = Literal["message", "link", "code", "call"]
Way = Literal["email", "mobile"]
# what a roster says of how somebody is reached; a channel makes its address of these, a person chooses one of them
WAYS: Final[tuple[Way, ...]] = ("email", "mobile")
Now = Callable[[], datetime]
Address = TypeVar("Address")


@dataclass(frozen=True, slots=True)
class Contact:
    """How somebody is reached, as the roster has it; empty where there is no such way."""

    email: str
    mobile: str
    locale: str = ""
    timezone: str = ""


@dataclass(frozen=True, slots=True)
class Letter(Generic[Address]):
    """One hand-off ready to go: `key` is the idempotency key of all its attempts.

    kind: `message` carries a link, `link` one that replaces it, `code` eight digits, `call` a link for the
    professional. token: the link's token, or the digits of a code. address: what the channel's entry made of
    the contact.
    """

    key: str
    kind: Kind
    token: str
    address: Address
    locale: str

    def link(self, public_url: str) -> str:
        """Where its link leads; a code has none."""
        return "" if self.kind == "code" else f"{public_url.rstrip('/')}/m/{self.token}"


@dataclass(frozen=True, slots=True)
class Wording:
    """Subject and body of one kind of letter in one locale; `{link}` or `{code}` in the body."""

    subject: str
    body: str


Words = Callable[[str, str], Wording]


class Result(StrEnum):
    """What one attempt came to, as a channel reports it.

    REFUSED, BOUNCED: permanently, this letter or its address. LATER: this letter, for now. UNSURE: it may have arrived.
    NOT_TRIED: the other side is away. ILL: it is there and takes nothing from us (a password, a permission). These two
    are about the channel and count against no letter.
    """

    TAKEN = "taken"
    REFUSED = "refused"
    BOUNCED = "bounced"
    LATER = "later"
    UNSURE = "unsure"
    NOT_TRIED = "not_tried"
    ILL = "ill"


@dataclass(frozen=True, slots=True)
class Later:
    """LATER, where the other side says when: not before that much time has passed."""

    pause: timedelta


class Channel(Protocol[Address]):
    """One way out. `send` never raises for what the other side does; it reports."""

    async def send(self, letter: Letter[Address], lane: int) -> Result | Later:
        """Hand one letter over on a lane of its own (a kept connection); lanes never wait for one another."""
        ...

    async def close(self) -> None: ...


class ChannelFinding(NamedTuple):
    """What a channel's check has to say to `leeward doctor`: what is wrong, and what to do about it."""

    level: Literal["error", "warning"]
    what: str
    do: str


async def nothing_to_check(_settings: Settings) -> Sequence[ChannelFinding]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEntry(Generic[Address]):
    """Everything that the rest of Leeward knows of one channel.

    name: as rows and metrics have it, eight characters at most.
    turned_on_by: the setting that turns it on; is_on: whether it does. required: the `LEEWARD_` variables (without the
    prefix) that a channel which is on cannot do without, each with what it is for.
    address: where a letter to this contact goes, or something empty where the channel does not reach them.
    repeats_in_doubt: how often an attempt whose outcome nobody knows is repeated under its key.
    bounce_ends: which part of the contact a bounced letter shows to be of no use any more.
    make: the channel with that many `lanes`. check: what `leeward doctor` looks at while the channel is on.
    """

    name: str
    turned_on_by: str
    is_on: Callable[[Settings], bool]
    required: Mapping[str, str] = field(default_factory=dict)
    address: Callable[[Contact], Address | None]
    lanes: int
    repeats_in_doubt: int
    bounce_ends: Literal["email"] | None = None
    make: Callable[[Settings, Now, int], Channel[Address]]
    check: Callable[[Settings], Awaitable[Sequence[ChannelFinding]]] = nothing_to_check

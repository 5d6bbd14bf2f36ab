"""Follows the issuer's published epochs: pins each key at first sight, opens windows, and ends them.

It asks on a schedule and never because somebody came: the issuer must not learn when the box is visited.
"""

import asyncio
import base64
from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from typing import Annotated, Final, Literal

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from leeward.sealing import Sealer
from leeward.service import Context
from leeward.store import StoreUnavailable, Unit
from leeward.store.periodic import every
from leeward.telemetry import log
from services.feedback import blind
from services.feedback.box import ratings, repository, sealing

LONGEST_PAUSE: Final = timedelta(seconds=30)
TIMEOUT: Final = 10.0  # seconds


class PublishedEpoch(BaseModel):
    """An epoch as the issuer's `GET /v1/keys` gives it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)
    epoch: str
    state: Literal["issuing", "rating", "ended"]
    key: Annotated[bytes, BeforeValidator(base64.b64decode)]
    fingerprint: str
    issued: int | None
    opened_on: date
    closed_on: date | None

    @property
    def honest(self) -> bool:
        """Whether its name and fingerprint are those of its key."""
        return blind.fingerprint(self.key) == self.fingerprint and blind.epoch_of(self.key) == self.epoch


class PublishedEpochs(BaseModel):
    """The answer of `GET /v1/keys`."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
    epochs: list[PublishedEpoch]

    def trusted(self) -> list[PublishedEpoch]:
        """What may be pinned: never a key under another's name, and no two that sign at the same time."""
        honest = [epoch for epoch in self.epochs if epoch.honest]
        signing = [epoch for epoch in honest if epoch.state == "issuing"]
        if len(honest) < len(self.epochs) or len(signing) > 1:
            log("keys-doubted", reason="two-at-once" if len(signing) > 1 else "fingerprint")
        return [epoch for epoch in honest if epoch.state != "issuing" or len(signing) == 1]


class EpochKeeper:
    """Keeps the box's epochs in step with the issuer's."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._secret = context.keys.derive("seal keys")
        self._window = context.settings.feedback.window
        self._pause = min(LONGEST_PAUSE, self._window / 30).total_seconds()

    async def run(self, stop: asyncio.Event) -> None:
        """Task: look again and again, by the service's clock, until told to stop."""
        await every(self._pause, self.look, self._context.clock)(stop)

    async def look(self) -> bool:
        """End windows whose time is over, empty the log of writes, pin new epochs; False if it must be repeated."""
        store = self._context.store
        try:
            for name, locked in await store.read(partial(repository.windows_to_end, now=self._context.clock.now())):
                ended = False
                while not ended:
                    sealed = await store.read(partial(repository.sealed_in, epoch=name))
                    opened = await asyncio.to_thread(sealing.open_batch, self._secret, name, locked, sealed)
                    ended = await store.write(ratings.open_window(name, sealed, *opened))
            await store.tidy()
            await self._pin_epochs()
        except (httpx.HTTPError, ValidationError, StoreUnavailable) as fault:
            log("keys-not-read", fault=type(fault).__name__)
            return False
        return True

    async def _pin_epochs(self) -> None:
        url = f"{self._context.settings.url('issuer')}/v1/keys"
        answer = await self._context.http.get(url, timeout=TIMEOUT)
        answer.raise_for_status()
        published = PublishedEpochs.model_validate_json(answer.content).trusted()
        known = await self._context.store.read(repository.states_of_epochs)
        for epoch in published:
            if epoch.epoch not in known and epoch.state != "ended":
                await self._context.store.write(pin(epoch))
                known[epoch.epoch] = "issuing"
            if known.get(epoch.epoch) == "issuing" and epoch.closed_on is not None:
                public, private = await asyncio.to_thread(sealing.new_key)
                locked = Sealer(self._secret).seal(private, epoch.epoch)
                await self._context.store.write(begin_window(epoch, self._window, public, locked))


def pin(epoch: PublishedEpoch) -> Callable[[Unit], None]:
    """Work: know an epoch by the key that it is first seen with."""
    return lambda unit: repository.pin_epoch(unit.conn, epoch.epoch, epoch.key, epoch.opened_on)


def begin_window(epoch: PublishedEpoch, window: timedelta, public: bytes, locked: bytes) -> Callable[[Unit], None]:
    """Work: the window begins when the box sees that the epoch has closed, and always lasts its full time."""

    def work(unit: Unit) -> None:
        times = {"closed_on": epoch.closed_on, "closes_at": unit.now + window}
        seal = {"seal_key": public, "seal_private": locked}
        repository.begin_window(unit.conn, epoch.epoch, issued=epoch.issued, **times, **seal)

    return work

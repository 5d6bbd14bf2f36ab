"""Says what happens, a line each, and checks that it did."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")
PATIENCE: Final = 20.0  # seconds of the wall for something that should follow at once


class NotObserved(Exception):
    """A step of the story did not happen."""


class Narrator:
    """Prints chapters, lines, links, and what was observed."""

    def __init__(self) -> None:
        self.observed = 0
        self._began = time.monotonic()

    def chapter(self, title: str) -> None:
        self._print(f"\n{title}")

    def say(self, text: str) -> None:
        self._print(f"  {text}")

    def link(self, what: str, url: str) -> None:
        self._print(f"  {what}\n    {url}")

    def seen(self, what: str) -> None:
        """Something that the story promises was there."""
        self.observed += 1
        self._print(f"  ✓ {what}")

    def check(self, what: str, fact: object) -> None:
        """See that something is so.

        Raises:
            NotObserved: when it is not.
        """
        if not fact:
            raise NotObserved(what)
        self.seen(what)

    async def wait(self, what: str, look: Callable[[], T], *, quiet: bool = False) -> T:
        """See that something becomes so.

        Raises:
            NotObserved: when it does not within the patience.
        """
        until = time.monotonic() + PATIENCE
        while not (found := look()):
            if time.monotonic() > until:
                raise NotObserved(what)
            await asyncio.sleep(0.02)
        if not quiet:
            self.seen(what)
        return found

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def _print(self, text: str) -> None:
        print(text, flush=True)

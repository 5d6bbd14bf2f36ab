"""New references: UUIDv4 as text, from the system's random source, which is asked for many at a time."""

import os
from typing import Final
from uuid import UUID

_AT_ONCE: Final = 256
_spare: list[str] = []


def new_ref() -> str:
    """A random UUIDv4 (RFC 9562, 122 random bits)."""
    if not _spare:
        random = os.urandom(16 * _AT_ONCE)
        _spare.extend(str(UUID(bytes=random[n : n + 16], version=4)) for n in range(0, len(random), 16))
    return _spare.pop()

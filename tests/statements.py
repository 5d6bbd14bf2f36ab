"""Statements are compiled once a test process instead of once a database: each test has databases of its own.

SQLAlchemy keeps what it has compiled with each engine, under the engine's dialect. Here all engines of a driver keep it
in one place, and their dialects count as the same. More than half of what a test of a service costs was this.
"""

from typing import Any, Final

from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect

_KEPT: Final[dict[str, Any]] = {}  # by driver


def share_compiled() -> None:
    """Have every engine made from here on use what others have compiled."""
    kept = property(lambda engine: _KEPT[engine.driver], lambda engine, made: _KEPT.setdefault(engine.driver, made))
    setattr(Engine, "_compiled_cache", kept)  # noqa: B010
    setattr(DefaultDialect, "__hash__", lambda dialect: hash(dialect.driver))  # noqa: B010
    setattr(DefaultDialect, "__eq__", lambda dialect, other: type(dialect) is type(other))  # noqa: B010

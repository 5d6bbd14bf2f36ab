"""Lists in pages: `limit` (1 to 200, 50 by default) and an opaque `cursor`."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from leeward.web.problem import Problem

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=400)]


def after(cursor: str | None) -> str | None:
    """The sort key a cursor stands for.

    Raises:
        Problem: 422 when it was not issued here.
    """
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise Problem(422, "not-valid", "cursor: was not issued by a list of this service") from None


def page(rows: Sequence[T], limit: int, key: Callable[[T], str], show: Callable[[T], Any]) -> dict[str, Any]:
    """`{"items": […], "next": cursor or null}` from up to limit + 1 rows."""
    more = len(rows) > limit
    shown = rows[:limit]
    cursor = base64.urlsafe_b64encode(key(shown[-1]).encode()).decode() if more else None
    return {"items": [show(row) for row in shown], "next": cursor}

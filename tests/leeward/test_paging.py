"""Lists come in pages, and a cursor is only ever one of ours."""

import pytest

from leeward.web.paging import after, page
from leeward.web.problem import Problem


def test_a_list_comes_in_pages() -> None:
    rows = [f"r{n}" for n in range(5)]
    first = page(rows[:3], 2, key=str, show=str.upper)
    assert first["items"] == ["R0", "R1"]
    assert after(first["next"]) == "r1"
    assert page(rows[:2], 2, key=str, show=str)["next"] is None
    assert after(None) is None


@pytest.mark.parametrize("cursor", ["é", "a", "_w==", "!"])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(Problem) as refused:
        after(cursor)
    assert refused.value.status == 422

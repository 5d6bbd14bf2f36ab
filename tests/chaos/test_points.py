"""Every fail-point is a place that the product has, and is where it says."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos import bodies, points
from tests.chaos.bugs import BUGS
from tests.chaos.points import POINTS, Point, resolve


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_point_is_an_existing_function(point: Point) -> None:
    _, _, function = resolve(point.place)
    assert inspect.isfunction(function)


def test_names_are_unique() -> None:
    assert len({point.name for point in POINTS}) == len(POINTS)
    assert {point.needs for point in POINTS if point.needs} <= set(points.BY_NAME)


class Place:
    """Something of the product's."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def now(self, found: int) -> int:
        self.done.append("now")
        return found

    async def later(self, found: int) -> int:
        self.done.append("later")
        return found


@pytest.mark.parametrize(("when", "struck_after"), [("before", 0), ("after", 1)])
@pytest.mark.parametrize("name", ["now", "later"])
def test_a_point_is_before_or_after_what_counts(
    name: str, when: str, struck_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, struck = Place(), list[int]()
    here = f"{__name__}:Place.{name}"
    original: Callable[..., object] = getattr(Place, name)
    monkeypatch.setattr(points, "resolve", lambda _place: (Place, name, original))
    point = Point("here", here, ("notify",), when, lambda given, _result: given[1] > 0)  # type: ignore[arg-type]
    points.install(point, lambda: struck.append(len(place.done)))
    try:
        for found in (0, 3):
            result = getattr(place, name)(found)
            assert (asyncio.run(result) if inspect.iscoroutine(result) else result) == found
    finally:
        setattr(Place, name, original)
    assert struck == [1 + struck_after], "only what counts is a passage"


async def test_a_process_dies_at_its_point_and_says_so(tmp_path: Path) -> None:
    environment = {
        "LEEWARD_ENV": "test",
        "LEEWARD_DATA": str(tmp_path / "data"),
        "LEEWARD_CONFIG": "",
        "CHAOS_POINT": "timer.in_transaction:1",
        "CHAOS_HITS": str(tmp_path / "hits"),
        **{f"LEEWARD_{name}_PORT": "0" for name in ("INCIDENT", "MATCHING", "NOTIFY", "ISSUER", "BOX", "MLLP")},
    }
    body = await bodies.start(("up",), environment, tmp_path / "log")
    async with asyncio.timeout(60):
        assert await body.gone == -9, (tmp_path / "log").read_text()
    assert (tmp_path / "hits").read_text() == "timer.in_transaction\n"


async def test_a_fault_of_a_process_ends_with_it(tmp_path: Path) -> None:
    body = await bodies.start(("up", "--help"), {"LEEWARD_ENV": "test"}, tmp_path / "log")
    with body.full_disk(), body.stopped():
        await body.kill()
    with body.full_disk(), body.stopped():
        assert await body.gone == -9


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_finds_what_it_breaks(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped: list[str] = []
    monkeypatch.setattr("tests.chaos.bugs.wrap", lambda place, _around: wrapped.append(place))
    BUGS[bug]()
    assert wrapped
    assert all(resolve(place) for place in wrapped)

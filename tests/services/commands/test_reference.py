"""docs/reference.md names everything that a site can set, call or watch."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from leeward.contracts.events import EVENTS
from leeward.people import COLUMNS
from leeward.service import Context
from leeward.settings import PER_SERVICE, PLAIN, SERVICES, ServiceName
from leeward.settings.policy import Policy
from leeward.telemetry import REGISTRY
from services.__main__ import app
from services.commands import catalogue
from tests.conftest import MakeContext

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference.md").read_text()
SHARED = {"/livez", "/readyz", "/metrics", "/openapi.json"}


def commands(group: typer.Typer, path: str = "leeward") -> Iterator[str]:
    for command in group.registered_commands:
        yield f"{path} {command.name or command.callback.__name__}"  # type: ignore[union-attr]
    for inner in group.registered_groups:
        assert inner.typer_instance
        yield from commands(inner.typer_instance, f"{path} {inner.name}")


def keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Every key of the policy as it stands in the reference; of lists and of what is in them only the list."""
    for name, field in model.model_fields.items():
        inner = next((one for one in (field.annotation, *get_args(field.annotation)) if is_section(one)), None)
        by_name = "dict[" in str(field.annotation) and inner
        here = f"{path}{name}"
        if name in ("crisis_lines", "emergency", "referrals"):
            yield f"{here}.LOCALE"
        elif inner and "tuple" not in str(field.annotation) and name != "match":
            yield from keys(inner, f"{here}.NAME." if by_name else f"{here}.")
        else:
            yield here


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ != "Hours"


def test_every_command_is_there() -> None:
    found = list(commands(app))
    assert "leeward staff import" in found
    assert [name for name in found if f"`{name}" not in REFERENCE] == []


def test_every_variable_is_there() -> None:
    names = [f"LEEWARD_{name}" for name in PLAIN]
    names += [f"LEEWARD_{service.upper()}_{name}" for service in SERVICES for name in PER_SERVICE]
    names.append("LEEWARD_SOURCE_<NAME>_SECRET")
    assert [name for name in names if f"`{name}`" not in REFERENCE] == []


def test_every_key_of_the_policy_is_there() -> None:
    found = list(keys(Policy))
    assert {"outreach.mode", "sources.NAME.kind", "channels.webhook.url", "on_call"} <= set(found)
    assert [key for key in found if f"`{key}`" not in REFERENCE] == []


def test_every_metric_event_and_roster_column_is_there() -> None:
    metrics = {sample.name for sample in REGISTRY.collect()}
    missing = [name for name in metrics if name not in REFERENCE]
    missing += [name for name in (*EVENTS, *COLUMNS) if f"`{name}`" not in REFERENCE]
    assert missing == []


@pytest.mark.parametrize("name", SERVICES)
async def test_every_route_is_there(name: ServiceName, make_context: MakeContext) -> None:
    service = catalogue.load([name])[0]
    context: Context = make_context(name, service.metadata)
    routes = dict(paths(service.build(context).router.routes))
    assert routes
    missing = [path for path in routes if path not in SHARED and f"{path}`" not in REFERENCE and not folder(path)]
    assert missing == []


def paths(routes: Any) -> Iterator[tuple[str, Any]]:
    for route in routes:
        if path := getattr(route, "path", None):
            yield path, route
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", ())
        yield from paths(inner)


def folder(path: str) -> bool:
    """Files are named by their folder alone."""
    return bool(re.match(r"/(look|box)/", path)) and f"GET {path[: path.index('/', 1)]}/…" in REFERENCE


def test_every_code_of_a_problem_is_there() -> None:
    root = Path(__file__).parents[3]
    sources = [path.read_text() for part in ("leeward", "services") for path in (root / part).rglob("*.py")]
    pattern = r'(?:Problem\(\s*|[(:]\s*\(?)(?:4|5)\d\d, "([a-z-]+)"|4\d\d: \("([a-z-]+)"'
    codes = {one or other for text in sources for one, other in re.findall(pattern, text)}
    assert {"not-valid", "unknown-case", "no-token", "not-found"} <= codes
    assert [code for code in sorted(codes) if f"`{code}`" not in REFERENCE] == []

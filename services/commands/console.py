"""How commands speak: results on standard output, progress and faults on standard error."""

import json
import sys
from collections.abc import Mapping
from typing import Any


class Failed(Exception):
    """The command could not do its work: one or more lines for standard error, exit code 1."""


def say(text: str) -> None:
    """A line of the result."""
    print(text)


def step(text: str) -> None:
    """What a long command is doing, for whoever watches; nothing where the output goes to a file or a pipe."""
    if sys.stderr.isatty():
        print(f"… {text}", file=sys.stderr)


def warn(text: str) -> None:
    """A line that is no result."""
    print(text, file=sys.stderr)


def show_json(value: Any) -> None:
    """A result for scripts."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def flat(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as `[("a b", 1)]`, for figures that are read by people."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{path} {key}".strip().replace("_", " ")
        found += flat(value, name) if isinstance(value, Mapping) and value else [(name, value)]
    return found

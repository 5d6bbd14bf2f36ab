"""JSON of others, read leniently: what is absent is empty, what has the wrong type is named by its place."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

DEEPEST: Final = 100
# what a place may begin with; any other word is the sender's own, and not repeated
NAMES: Final = frozenset({"AdverseEvent", "Bundle", "CareTeam", "Encounter", "Patient"})
_HALF: Final = re.compile("[\ud800-\udfff]")  # JSON's escapes can name half a character, which cannot be stored


class JsonError(Exception):
    """What is wrong with a body: FHIR's issue type, the place as a FHIRPath, the rule; never the value."""

    def __init__(self, code: str, place: str, rule: str, reason: str) -> None:
        super().__init__(f"{place}: {rule}")
        self.code = code
        self.place = place
        self.rule = rule
        self.reason = reason


def load(body: bytes) -> "Node":
    """The object that a body is.

    Raises:
        JsonError: where it is no JSON object, or nested too deeply.
    """
    try:
        # NaN and Infinity are not JSON: `int` refuses them
        value = json.loads(body, parse_constant=int)
    except (ValueError, RecursionError):
        raise JsonError("structure", "body", "is no JSON, or nested too deeply", "not_json") from None
    if not isinstance(value, dict):
        raise JsonError("structure", "body", "must be a JSON object", "not_json")
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise JsonError("structure", "body", "is nested too deeply", "not_json")
        inner = (each for one in level for each in (one.values() if isinstance(one, dict) else one))
        level = [one for one in inner if isinstance(one, dict | list)]
    name = value.get("resourceType")
    return Node(value, name if isinstance(name, str) and name in NAMES else "body")


class Node:
    """An object in the tree, with the place it stands at; `url` is the one that a Bundle gives it."""

    __slots__ = ("place", "url", "value")

    def __init__(self, value: dict[str, Any], place: str, url: str = "") -> None:
        self.value = value
        self.place = place
        self.url = url

    def __bool__(self) -> bool:
        return bool(self.value)

    @property
    def kind(self) -> str:
        """The resource type, "" where it is no resource."""
        return self.text("resourceType")

    def text(self, key: str) -> str:
        """A string, trimmed; "" where there is none.

        Raises:
            JsonError: for another type. The same holds for the methods below.
        """
        value = self.value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._wrong(key, "must be a string")
        if not value.isascii() and _HALF.search(value):
            self._wrong(key, "must be Unicode")
        return value.replace("\0", "").strip()

    def number(self, key: str) -> int | None:
        """A whole number, sent as such or as a string of digits."""
        value = self.value.get(key)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
            return int(value)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18):
            return value
        return self._wrong(key, "must be a whole number")

    def flag(self, key: str) -> bool | None:
        """A boolean, None where there is none."""
        value = self.value.get(key)
        if value is None or isinstance(value, bool):
            return value
        return self._wrong(key, "must be true or false")

    def child(self, key: str) -> "Node":
        """An object; an empty one where there is none."""
        value = self.value.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            self._wrong(key, "must be an object")
        return Node(value, f"{self.place}.{key}")

    def children(self, *keys: str) -> Iterator["Node"]:
        """The objects of a list, or the one that stands in its place: releases differ in what repeats."""
        for key in keys:
            value = self.value.get(key)
            if isinstance(value, dict):
                yield Node(value, f"{self.place}.{key}")
            elif isinstance(value, list):
                for number, each in enumerate(value):
                    if not isinstance(each, dict):
                        self._wrong(f"{key}[{number}]", "must be an object")
                    yield Node(each, f"{self.place}.{key}[{number}]")
            elif value is not None:
                self._wrong(key, "must be an object or a list of objects")

    def _wrong(self, key: str, rule: str) -> NoReturn:
        raise JsonError("structure", f"{self.place}.{key}", rule, "wrong_type")


NOTHING: Final = Node({}, "nothing")

"""Whether a schema still reads what was published, and is still read by who knew it."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_FIXED = ("type", "const", "pattern", "format")
_CEILINGS = ("maxLength", "maxItems", "maxProperties", "maximum")
_FLOORS = ("minLength", "minItems", "minProperties", "minimum")


def breaks(old: Schema, new: Schema) -> list[str]:
    """What a change of a schema breaks: fields removed or renamed, requirements changed, values no longer allowed."""
    return list(_object(old, new, old, new, "data"))


def _resolved(part: Schema, whole: Schema) -> Schema:
    if "$ref" not in part:
        return part
    found: Schema = whole["$defs"][part["$ref"].rpartition("/")[2]]
    return {**found, **{key: value for key, value in part.items() if key != "$ref"}}


def _object(old: Schema, new: Schema, was: Schema, now: Schema, place: str) -> Iterator[str]:
    old, new = _resolved(old, was), _resolved(new, now)
    yield from _value(old, new, place)
    for name, field in old.get("properties", {}).items():
        if name not in new.get("properties", {}):
            yield f"{place}.{name} was removed"
            continue
        yield from _object(field, new["properties"][name], was, now, f"{place}.{name}")
    for name in sorted(set(old.get("required", ())) ^ set(new.get("required", ()))):
        if name in new.get("properties", {}):
            yield f"{place}.{name} changed whether it is required"
    for key in ("items", "additionalProperties"):
        if isinstance(old.get(key), Mapping) and isinstance(new.get(key), Mapping):
            yield from _object(old[key], new[key], was, now, f"{place}.{key}")
    for one, other in zip(old.get("anyOf", ()), new.get("anyOf", ()), strict=False):
        yield from _object(one, other, was, now, place)


def _value(old: Schema, new: Schema, place: str) -> Iterator[str]:
    for key in _FIXED:
        if old.get(key) != new.get(key):
            yield f"{place} changed its {key}"
    if set(old.get("enum", ())) - set(new.get("enum", old.get("enum", ()))) or ("enum" in new and "enum" not in old):
        yield f"{place} no longer takes every value"
    for key in _CEILINGS:
        if new.get(key, float("inf")) < old.get(key, float("inf")):
            yield f"{place} lowered its {key}"
    for key in _FLOORS:
        if new.get(key, float("-inf")) > old.get(key, float("-inf")):
            yield f"{place} raised its {key}"
    if old.get("additionalProperties", True) is not False and new.get("additionalProperties", True) is False:
        yield f"{place} no longer takes unknown keys"
    if len(new.get("anyOf", ())) < len(old.get("anyOf", ())):
        yield f"{place} no longer takes every kind"

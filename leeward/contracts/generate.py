"""Writes the JSON Schemas and `asyncapi.yaml` from the event models; `make generate` runs it.

python -m leeward.contracts.generate            writes them
python -m leeward.contracts.generate --check    fails where the committed files are not what the models give
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from leeward import __version__
from leeward.contracts.envelope import topic_of
from leeward.contracts.events import EVENTS, UUID4, AttentionEvent, EventData

HERE: Final = Path(__file__).parent
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_UUID: Final = {"type": "string", "pattern": UUID4}


def schema(model: type[EventData]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one event's data."""
    return {"$schema": DIALECT, "$id": f"{model.type}.json", **model.model_json_schema()}


def _key(event_type: str) -> dict[str, Any]:
    """What orders events of a type: a reference, or a kind where there is none."""
    model = EVENTS[event_type]
    return model.model_json_schema()["properties"]["kind"] if issubclass(model, AttentionEvent) else _UUID


def headers(event_type: str) -> dict[str, Any]:
    """The CloudEvents 1.0 attributes of a type as Kafka headers (binary content mode)."""
    fields: dict[str, Any] = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": _UUID,
        "ce_source": {"const": f"/{topic_of(event_type).replace('.', '/')}"},
        "ce_type": {"const": event_type},
        "ce_subject": _key(event_type),
        "ce_partitionkey": _key(event_type),
        "ce_time": {"type": "string", "format": "date-time", "description": "Start of a 15-minute bucket, UTC."},
        "ce_agems": {"type": "string", "pattern": "^[0-9]+$", "description": "Milliseconds since acceptance."},
        "content-type": {"const": "application/json"},
    }
    return {"type": "object", "required": list(fields), "properties": fields}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document: a channel a topic, a message a type, keyed by what orders it."""
    title = "Leeward's events"
    channels = {topic: topic.rpartition(".")[2] for topic in sorted(map(topic_of, EVENTS))}
    sent = {event_type: f"#/channels/{channels[topic_of(event_type)]}" for event_type in EVENTS}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": __version__, "description": "Generated from leeward/contracts; see there."},
        "defaultContentType": "application/json",
        "channels": {
            name: {
                "address": topic,
                "messages": {t: {"$ref": f"#/components/messages/{t}"} for t in EVENTS if topic_of(t) == topic},
            }
            for topic, name in channels.items()
        },
        "operations": {
            event_type.removeprefix("leeward.").replace(".", "_"): {
                "action": "send",
                "channel": {"$ref": channel},
                "messages": [{"$ref": f"{channel}/messages/{event_type}"}],
            }
            for event_type, channel in sent.items()
        },
        "components": {"messages": {event_type: _message(model) for event_type, model in EVENTS.items()}},
    }


def _message(model: type[EventData]) -> dict[str, Any]:
    return {
        "name": model.type,
        "summary": " ".join((model.__doc__ or model.type).split()),
        "contentType": "application/json",
        "headers": headers(model.type),
        "payload": {
            "schemaFormat": "application/schema+json;version=2020-12",
            "schema": {"$ref": f"schemas/{model.type}.json"},
        },
        "bindings": {"kafka": {"key": _key(model.type), "bindingVersion": "0.5.0"}},
    }


def yaml(tree: Any, indent: str = "") -> Iterator[str]:
    """Block YAML of dictionaries, lists and scalars; scalars are written as JSON, which YAML 1.2 contains."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            name = key if re.fullmatch(r"[A-Za-z][\w.-]*", key) else json.dumps(key)
            if isinstance(value, (Mapping, list)) and value:
                yield f"{indent}{name}:"
                yield from yaml(value, indent + "  ")
            else:
                yield f"{indent}{name}: {json.dumps(value)}"
    else:
        for value in tree:
            lines = list(yaml(value, indent + "  ")) if isinstance(value, Mapping) else [json.dumps(value)]
            yield f"{indent}- {lines[0].lstrip()}"
            yield from lines[1:]


def files() -> dict[str, str]:
    """Every generated file by its path inside this package."""
    schemas = {f"schemas/{t}.json": json.dumps(schema(model), indent=2) + "\n" for t, model in EVENTS.items()}
    return {**schemas, "asyncapi.yaml": "\n".join(yaml(asyncapi())) + "\n"}


def write(folder: Path = HERE) -> None:
    """Write them below a folder."""
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def stale(folder: Path = HERE) -> list[str]:
    """The files that are missing, outdated, or of a type that is no more."""
    wanted = files()
    there = {f"schemas/{path.name}" for path in (folder / "schemas").glob("*.json")} | {"asyncapi.yaml"}
    current = {name: (folder / name).read_text(encoding="utf-8") for name in there if (folder / name).exists()}
    return sorted(name for name in wanted.keys() | current.keys() if wanted.get(name) != current.get(name))


def main(arguments: list[str]) -> int:
    """Write, or with `--check` say what is stale."""
    if arguments != ["--check"]:
        write()
        return 0
    for name in stale():
        print(f"leeward/contracts/{name} is not what the models give; run `make generate`", file=sys.stderr)
    return 1 if stale() else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How FHIR resources refer to one another: inside one message, and on their server."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from leeward.settings.policy import Source
from services.incident.sources.fhir.tree import NOTHING, Node

AROUND: Final = frozenset({"Patient", "Practitioner", "PractitionerRole", "Location", "CareTeam"})
# an id that is `..` would lead out of its type
_REFERENCE: Final = re.compile(
    r"(?:^|/)([A-Z][A-Za-z]{1,63})/(?!\.\.?(?:/|$))([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?\Z"
)


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one message, by the references that lead to them."""

    name: str
    source: Source
    now: datetime
    each: Sequence[Node]
    more_comes: bool = False  # what they refer to will be read: until then nobody is known by a reference alone
    _index: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for one in self.each:
            self._index.setdefault(f"{one.kind}/{one.text('id')}", one)
            self._index.setdefault(one.url, one)

    @property
    def server(self) -> str:
        """What resource ids count for: two sources of one server mean the same patient by them."""
        return self.source.base_url.rstrip("/") or self.name

    def of(self, kind: str) -> list[Node]:
        return [one for one in self.each if one.kind == kind]

    def find(self, reference: Node, inside: Node) -> Node:
        """What a reference leads to: contained, or in the same message; an empty node where it is not here."""
        text = reference.text("reference")
        if text.startswith("#"):
            return next((one for one in inside.children("contained") if one.text("id") == text[1:]), NOTHING)
        wanted = text if text.startswith("urn:") else local_reference(text)
        return self._index.get(wanted, NOTHING) if wanted else NOTHING


def references(resources: Iterable[Node], base_url: str) -> Iterator[str]:
    """What resources refer to on their own server, as far as it tells who was there, where, and about whom."""
    waiting: deque[object] = deque(one.value for one in resources)
    while waiting:
        value = waiting.popleft()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            text = value.get("reference")
            local = own_reference(text, base_url) if isinstance(text, str) else ""
            if local.partition("/")[0] in AROUND:
                yield local


def local_reference(text: str) -> str:
    """`Encounter/12` of a relative or absolute reference, with or without its version; "" for anything else."""
    found = _REFERENCE.search(text)
    return f"{found[1]}/{found[2]}" if found else ""


def own_reference(text: str, base_url: str) -> str:
    """The same of a reference to the server itself, relative or below its base; "" for one that leads elsewhere."""
    relative = text.removeprefix(f"{base_url.rstrip('/')}/") if base_url else text
    local = local_reference(relative)
    return local if relative.partition("/_history/")[0] == local else ""

"""What a FHIR subscription sends: R4 backport (Parameters), R4B and R5 (SubscriptionStatus), classic rest-hooks.

Written against what HAPI FHIR 8.8, sekmet-fhir and Inferno's fixtures send: event numbers as strings or numbers, times
that are missing, references that are relative, absolute or bare, kebab and camel case.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast, get_args

from services.incident.sources.fhir.references import local_reference, own_reference
from services.incident.sources.fhir.tree import NOTHING, JsonError, Node

BUNDLES: Final = frozenset({"history", "subscription-notification"})
PROFILE: Final = (
    "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription-notification-r4"
)
HAPPENED: Final = frozenset({"Encounter", "AdverseEvent"})
READ: Final = HAPPENED | {"Patient"}
ENTRIES: Final = 1000
Type = Literal["handshake", "heartbeat", "event-notification", "query-status", "query-event"]


@dataclass(frozen=True, slots=True)
class NotificationEvent:
    """One event: its number where the server gives one, and the reference of what it is about, "" for none."""

    number: int | None
    focus: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification. `name` is the server's own for the subscription; `counted`: events since it began."""

    kind: Type
    name: str
    counted: int | None
    events: tuple[NotificationEvent, ...]
    resources: tuple[Node, ...]

    def wanted(self) -> list[str]:
        """What events are about that did not come along, as `Encounter/12`; only what is read here."""
        here = {f"{one.kind}/{one.text('id')}" for one in self.resources}
        focuses = dict.fromkeys(event.focus for event in self.events if event.focus)
        return [one for one in focuses if one not in here and one.partition("/")[0] in READ]

    @property
    def empty(self) -> bool:
        """Whether it says that something happened, and not what; HAPI sends the patient along all the same."""
        named = any(one.focus for one in self.events) or any(one.kind in HAPPENED for one in self.resources)
        return self.kind == "event-notification" and not named


def parse(bundle: Node, base_url: str) -> Notification:
    """A notification Bundle.

    Args:
        base_url: the server's, the only one a focus may lead to; "" where none is set up.

    Raises:
        JsonError: naming the place and the rule.
    """
    if bundle.text("type") not in BUNDLES:
        raise JsonError("not-supported", "Bundle.type", "must be history or subscription-notification", "bundle_type")
    entries = list(bundle.children("entry"))
    if not 1 <= len(entries) <= ENTRIES:
        raise JsonError("structure", "Bundle.entry", f"must hold 1 to {ENTRIES} entries", "entries")
    profiles = bundle.child("meta").value.get("profile")
    if isinstance(profiles, list) and PROFILE in profiles:
        # invariants of the backport's profile
        for key in ("request", "response"):
            if not entries[0].child(key):
                raise JsonError("required", f"Bundle.entry[0].{key}", "is required by the profile", "profile")
    status = entries[0].child("resource")
    if status.kind not in STATUSES:
        rule = "must be a Parameters or a SubscriptionStatus"
        raise JsonError("structure", "Bundle.entry[0].resource", rule, "no_status")
    kind, name, counted, events = STATUSES[status.kind](status)
    return Notification(
        kind=kind,
        name=local_reference(name) or name,
        counted=counted,
        events=tuple(NotificationEvent(number, _focus(text, place, base_url)) for number, text, place in events),
        resources=tuple(_resources(entries[1:])),
    )


Status = tuple[Type, str, int | None, list[tuple[int | None, str, str]]]


def read_parameters(status: Node) -> Status:
    """The backport's status for R4."""
    given: dict[str, Node] = {}
    events: list[tuple[int | None, str, str]] = []
    for one in status.children("parameter"):
        name = one.text("name").replace("-", "").casefold()
        given.setdefault(name, one)
        if name == "notificationevent":
            parts = {part.text("name").replace("-", "").casefold(): part for part in one.children("part")}
            focus = parts.get("focus", NOTHING).child("valueReference")
            events.append((_number(parts.get("eventnumber", NOTHING)), focus.text("reference"), focus.place))
    kind = given.get("type", NOTHING)
    name = given.get("subscription", NOTHING).child("valueReference").text("reference")
    counted = _number(given.get("eventssincesubscriptionstart", NOTHING))
    return _kind(kind.text("valueCode"), status.place), name, counted, events


def read_status(status: Node) -> Status:
    """The status of R4B and R5."""
    events = [
        (one.number("eventNumber"), one.child("focus").text("reference"), one.child("focus").place)
        for one in status.children("notificationEvent")
    ]
    kind = _kind(status.text("type"), status.place)
    name = status.child("subscription").text("reference")
    return kind, name, status.number("eventsSinceSubscriptionStart"), events


STATUSES: Final[Mapping[str, Callable[[Node], Status]]] = MappingProxyType(
    {"Parameters": read_parameters, "SubscriptionStatus": read_status}
)


def _number(parameter: Node) -> int | None:
    keys = ("valueString", "valueInteger", "valueInteger64", "valueUnsignedInt", "valueDecimal")
    return next((parameter.number(key) for key in keys if key in parameter.value), None)


def _kind(text: str, place: str) -> Type:
    if text not in get_args(Type):
        raise JsonError("value", f"{place}.type", f"must be one of {', '.join(get_args(Type))}", "notification_type")
    return cast("Type", text)


def _focus(text: str, place: str, base_url: str) -> str:
    """`Encounter/12`; what points to another server is refused: nobody shall make this one read from there."""
    local = own_reference(text, base_url) if base_url else local_reference(text)
    if text and not local and not text.startswith("urn:"):
        if ":" in text or text.startswith("/"):
            raise JsonError("security", f"{place}.reference", "must lead to this source's base_url", "foreign_focus")
        raise JsonError("value", f"{place}.reference", "must be TYPE/ID", "focus")
    return local


def referenced(bundle: Node) -> Iterator[Node]:
    """The resources of a search's answer."""
    yield from _resources(bundle.children("entry"))


def _resources(entries: Iterable[Node]) -> Iterator[Node]:
    for entry in entries:
        if found := entry.child("resource"):
            yield Node(found.value, found.place, entry.text("fullUrl"))

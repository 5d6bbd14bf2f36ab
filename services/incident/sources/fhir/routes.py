"""FHIR's doors: topic subscriptions, classic rest-hooks, bare resources. 204 once all is stored (CONTRACT §Inbound).

Faults are OperationOutcomes: HAPI and others read the body of an answer, and repeat what they cannot read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse

from leeward import telemetry
from leeward.service import Context
from leeward.settings.policy import Source
from leeward.store import Unit
from leeward.web.access import SOURCE
from leeward.web.problem import Problem
from services.incident.decisions.claims import PatientClaim, Report
from services.incident.hashing import Hasher, hash_signal
from services.incident.intake.fetch_queue import FetchRequest, enqueue
from services.incident.intake.intake import Intake, Item
from services.incident.intake.subscriptions import Heard, record_heard
from services.incident.sealing import DayKeys
from services.incident.sources.access import authenticate_source
from services.incident.sources.fhir.notification import BUNDLES, READ, Notification, parse, referenced
from services.incident.sources.fhir.references import Resources, local_reference, references
from services.incident.sources.fhir.resource_types import TYPES
from services.incident.sources.fhir.resources import list_mattering, read_each, read_resources
from services.incident.sources.fhir.tree import NOTHING, JsonError, Node, load
from services.incident.sources.hl7v2.receiver import STORAGE_FAULTS

MEDIA_TYPE: Final = "application/fhir+json"
ACCEPTED: Final = frozenset({MEDIA_TYPE, "application/json", "application/json+fhir"})
HOOK: Final = "rest-hook"  # the name of subscriptions that do not tell theirs
_MALFORMED: Final = "structure"
SourceName = Annotated[str, Path(max_length=32)]
Name = Annotated[str, Path(max_length=64)]


def add_routes(router: APIRouter, context: Context, intake: Intake, hasher: Hasher) -> None:
    """`POST /v1/fhir/{source}` and `PUT /v1/fhir/{source}/{type}/{id}`."""
    door = FhirDoor(context, intake, hasher)

    @router.post("/v1/fhir/{source}", dependencies=[SOURCE], status_code=204)
    async def notified(request: Request, source: SourceName) -> Response:
        """A notification of a topic subscription, a resource by itself, or the empty post of a classic rest-hook."""
        return await door.answer(request, source)

    @router.put("/v1/fhir/{source}/{kind}/{ident}", dependencies=[SOURCE], status_code=204)
    async def changed(request: Request, source: SourceName, kind: Name, ident: Name) -> Response:
        """A classic R4 rest-hook, with its resource or without."""
        return await door.answer(request, source, (kind, ident))


def operation_outcome(
    status: int, code: str, text: str, place: str = "", headers: dict[str, str] | None = None
) -> Response:
    """A refusal as an OperationOutcome: FHIR's issue type, the place as FHIRPath, the rule."""
    issue = {"severity": "error", "code": code, "diagnostics": text, **({"expression": [place]} if place else {})}
    body = {"resourceType": "OperationOutcome", "issue": [issue]}
    return JSONResponse(body, status, headers=headers, media_type=MEDIA_TYPE)


def said_by(raw: bytes, name: str, source: Source, now: datetime) -> tuple[PatientClaim | Report, ...]:
    """What a stored FHIR message of a source says, by the rules that hold now.

    Raises:
        JsonError: where it is none.
    """
    body = load(raw) if raw else NOTHING
    found = list(referenced(body)) if body.kind == "Bundle" else [body] if raw else []
    return read_resources(Resources(name, source, now, found, more_comes=bool(source.base_url)))


def turn_of(raw: bytes) -> tuple[str, int] | None:
    """The subscription by which a stored message came, and the last of its events' numbers; None without any.

    Raises:
        JsonError: where it is no FHIR.
    """
    body = load(raw) if raw else NOTHING
    if body.kind != "Bundle" or body.text("type") not in BUNDLES:
        return None
    told = parse(body, "")
    numbers = [event.number for event in told.events if event.number is not None]
    return (told.name, max(numbers)) if numbers else None


@dataclass(frozen=True)
class FhirDoor:
    """Reads, stores, answers."""

    context: Context
    intake: Intake
    hasher: Hasher

    async def answer(self, request: Request, name: str, expected: tuple[str, str] | None = None) -> Response:
        """204, or an OperationOutcome."""
        try:
            body = await request.body()
            authenticate_source(self.context.settings, "fhir", request, body, only=name)
            await self._take(request, body, name, expected)
        except JsonError as fault:
            telemetry.MESSAGES_REFUSED.labels("fhir", fault.reason).inc()
            return operation_outcome(
                400 if fault.code == _MALFORMED else 422, fault.code, f"{fault.place}: {fault.rule}", fault.place
            )
        except Problem as fault:
            return operation_outcome(
                fault.status, "security" if fault.status == 401 else "invalid", fault.detail, headers=fault.headers
            )
        except STORAGE_FAULTS:
            telemetry.MESSAGES_REFUSED.labels("fhir", "storage").inc()
            detail = "Nothing was stored; the same request may work later."
            return operation_outcome(503, "transient", detail, headers={"Retry-After": "5"})
        return Response(status_code=204)

    async def _take(self, request: Request, body: bytes, name: str, expected: tuple[str, str] | None) -> None:
        if not body.strip():
            wanted = _unsaid(name, self.context.settings.sources[name], expected)
            await self._store(name, b"", (), Heard(name, HOOK), wanted)
            return
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if given not in ACCEPTED:
            telemetry.MESSAGES_REFUSED.labels("fhir", "media_type").inc()
            raise Problem(415, "wrong-media-type", f"Content-Type: must be {MEDIA_TYPE}.")
        found = load(body)
        if found.kind == "Bundle" and expected is None:
            await self._notified(body, parse(found, self.context.settings.sources[name].base_url), name)
            return
        _expect(found, expected)
        await self._store(name, body, [found], Heard(name, HOOK), ())

    async def _notified(self, body: bytes, told: Notification, name: str) -> None:
        numbers = tuple(event.number for event in told.events if event.number is not None)
        subscription = self.hasher.of_message(b"subscription", told.name.encode())
        heard = Heard(name, subscription, numbers, told.counted, began=told.kind == "handshake")
        if told.kind in ("handshake", "heartbeat"):

            def note(unit: Unit) -> None:
                # nothing has happened; where a heartbeat counts an event that never came, what changed is looked for
                noted = record_heard(unit, [heard])
                if noted.gaps and self.context.settings.sources[name].base_url:
                    enqueue(unit, DayKeys(self.context.keys), [FetchRequest(name, since=noted.since[name])])

            await self.context.store.write(note)
            return
        source = self.context.settings.sources[name]
        search = told.empty and (source.base_url or not told.resources)
        wanted = [FetchRequest(name, path) for path in told.wanted()] + ([FetchRequest(name)] if search else [])
        if wanted:
            _require_base(source)
        await self._store(name, body, told.resources, heard, wanted)

    async def _store(
        self, name: str, body: bytes, resources: Sequence[Node], heard: Heard, wanted: Sequence[FetchRequest]
    ) -> None:
        source = self.context.settings.sources[name]
        # two posts without a body are two events
        content = body or uuid4().bytes
        found = Resources(name, source, self.context.clock.now(), list(resources), more_comes=bool(source.base_url))
        told = list(read_each(found))
        # what matters and names a patient, people or places who did not come along is read with those
        here = {f"{one.kind}/{one.text('id')}" for one in found.each}
        more = [
            f"{one.kind}/{one.text('id')}"
            for one in (list_mattering(told) if source.base_url else ())
            if one.text("id") and not here.issuperset(references([one], source.base_url))
        ]
        item = Item(
            source=name,
            raw=body,
            fingerprint=self.hasher.of_message(b"fhir", name.encode(), content),
            signals=tuple(hash_signal(one, self.hasher) for _, one in told),
            heard=heard,
            wanted=tuple(dict.fromkeys([*wanted, *(FetchRequest(name, one) for one in more)])),
        )
        accepted = await self.intake(item)
        (telemetry.MESSAGES_REPEATED if accepted.repeated else telemetry.MESSAGES_ACCEPTED).labels(name).inc()


def _unsaid(name: str, source: Source, address: tuple[str, str] | None) -> list[FetchRequest]:
    """What a rest-hook without a body leaves to be read: what its address names, else whatever has changed."""
    _require_base(source)
    path = "/".join(address or ())
    if path != local_reference(path):
        raise JsonError("value", "address", "must be TYPE/ID", "address")
    return [FetchRequest(name, path)] if address is None or address[0] in READ else []


def _require_base(source: Source) -> None:
    if not source.base_url:
        rule = "holds no resource, and this source has no base_url to read it from"
        raise JsonError("not-supported", "body", rule, "no_base_url")


def _expect(found: Node, expected: tuple[str, str] | None) -> None:
    """A resource by itself, and under PUT the one that the address names."""
    if not found.kind:
        raise JsonError("structure", "resourceType", "is missing", "no_type")
    if found.kind not in TYPES:
        raise JsonError("not-supported", "resourceType", "is no type of FHIR's", "unknown_type")
    if expected and (found.kind, found.text("id")) != expected:
        raise JsonError("value", f"{found.place}.id", "must be that of the address", "other_id")

"""FHIR as the tests say it: resources, notifications of each release, and a source that takes them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from leeward.settings.policy import Source
from leeward.web.app import create_app
from services.incident import SERVICE
from tests.services.incident.conftest import Desk

SECRET = "fhir-secret-of-many-characters"
BASE = "https://fhirserver.org/fhir"
HEADERS = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/fhir+json"}
EXP = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/discharge-disposition", "code": "exp"}]}
HOME = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/discharge-disposition", "code": "home"}]}
Resource = dict[str, Any]


def with_fhir(desk: Desk, **source: Any) -> Desk:
    """The same service with a FHIR source beside the others."""
    settings = desk.context.settings
    systems = {"NPI": "npi", "http://hl7.org/fhir/sid/us-npi": "npi", "EHR": "ehr", "1.2.3": "ehr"}
    made = Source.model_validate(
        {"kind": "fhir", "identifier_systems": systems, "units": {"Location/l1": "ICU"}, **source}
    )
    variables = {**settings.variables, "SOURCE_CHART_SECRET": SECRET}
    changed = settings.model_copy(update={"sources": {**settings.sources, "chart": made}, "variables": variables})
    return Desk(replace(desk.context, settings=changed))


def patient(ident: str = "p1", **fields: Any) -> Resource:
    return {
        "resourceType": "Patient",
        "id": ident,
        "identifier": [{"system": "urn:oid:1.9", "value": f"MRN-{ident}"}],
        **fields,
    }


def encounter(ident: str = "e1", *, who: str = "p1", disposition: Resource | None = EXP, **fields: Any) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": ident,
        "status": "finished",
        "subject": {"reference": f"Patient/{who}"},
        "period": {"end": "2026-11-21T08:30:00Z"},
        "location": [{"location": {"reference": "Location/l1"}, "status": "active"}],
        "participant": [{"individual": {"reference": "Practitioner/d1"}}],
        **({"hospitalization": {"dischargeDisposition": disposition}} if disposition else {}),
        **fields,
    }


def practitioner(ident: str = "d1", system: str = "http://hl7.org/fhir/sid/us-npi", value: str = "111") -> Resource:
    return {"resourceType": "Practitioner", "id": ident, "identifier": [{"system": system, "value": value}]}


def adverse_event(ident: str = "a1", **fields: Any) -> Resource:
    return {
        "resourceType": "AdverseEvent",
        "id": ident,
        "actuality": "actual",
        "date": "2026-11-21T08:15:00Z",
        "subject": {"reference": "Patient/p1"},
        "location": {"reference": "Location/l1"},
        "recorder": {"reference": "Practitioner/d1"},
        **fields,
    }


def coded(code: str) -> Resource:
    return {"coding": [{"code": code}]}


def backport(
    *resources: Resource,
    number: int | None = 1,
    focus: str = "",
    kind: str = "event-notification",
    counted: int | None = None,
) -> Resource:
    """An R4 backport notification Bundle."""
    parts: list[Resource] = [{"name": "event-number", "valueString": str(number)}] if number is not None else []
    parts += [{"name": "focus", "valueReference": {"reference": focus}}] if focus else []
    events = [{"name": "notification-event", "part": parts}] if parts else []
    status = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": f"{BASE}/Subscription/s1"}},
            {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(counted if counted is not None else number)},
            *events,
        ],
    }
    return {"resourceType": "Bundle", "type": "history", "entry": [{"resource": one} for one in (status, *resources)]}


def r5(*resources: Resource, number: int = 1, focus: str = "") -> Resource:
    """An R5 notification Bundle; R4B's differs in its Bundle.type alone."""
    status = {
        "resourceType": "SubscriptionStatus",
        "type": "event-notification",
        "eventsSinceSubscriptionStart": number,
        "notificationEvent": [{"eventNumber": number, "focus": {"reference": focus}}],
        "subscription": {"reference": "Subscription/s5"},
    }
    entries = [{"resource": one} for one in (status, *resources)]
    return {"resourceType": "Bundle", "type": "subscription-notification", "entry": entries}


async def client(desk: Desk) -> httpx.AsyncClient:
    """A client of the real app."""
    app = create_app(desk.context, SERVICE.build(desk.context).router)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://incident")


async def post(web: httpx.AsyncClient, body: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await web.post("/v1/fhir/chart", headers={**HEADERS, **headers}, content=content)


async def put(web: httpx.AsyncClient, resource: Resource) -> httpx.Response:
    path = f"/v1/fhir/chart/{resource['resourceType']}/{resource['id']}"
    return await web.put(path, headers=HEADERS, content=json.dumps(resource))

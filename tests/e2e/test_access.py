"""Deny by default: what a coordinator's token opens, and that nothing opens without one."""

import re

import httpx

from leeward.settings import SERVICES
from leeward.testing import wait_until
from tests.e2e.harness import Mailbox, System, death

# link holders, sources and the public
OPEN = re.compile(
    r"^/(livez|readyz|metrics|openapi\.json|m/.*|ask.*|resources|privacy|login/.*|keep|rate|look/.*|static/.*|"
    r"icon.*|favicon.*|problems|leave|v1/keys|v1/claims/mint|v1/ratings|v1/reports|v1/epochs|v1/hl7v2|v1/incidents|"
    r"v1/fhir/.*|)$"
)


def test_without_a_token_every_other_route_answers_401(live: System) -> None:
    closed = 0
    for service in SERVICES:
        for path, methods in httpx.get(live.url(service, "/openapi.json")).json()["paths"].items():
            for method in methods:
                public = OPEN.match(path) and not (service == "matching" and path == "/")
                if public and not (path == "/v1/incidents" and method == "get"):
                    continue
                answer = httpx.request(method, live.url(service, re.sub(r"{\w+}", "x", path)))
                assert answer.status_code == 401, f"{method} {service}{path} gave {answer.status_code}"
                assert answer.headers["content-type"].startswith("application/problem+json")
                closed += 1
    assert closed >= 10


def test_a_coordinator_sees_codes_and_reasons_and_nobody(live: System, mailbox: Mailbox) -> None:
    live.send(death("M1", "AMY", "BEN"))
    wait_until(lambda: len(mailbox.message_ids()), 5, lambda found: found == 2)
    token = live.token()
    cases = wait_until(lambda: live.cases(token), 5, lambda found: len(found) == 2)
    assert {frozenset(case) for case in cases} == {frozenset({"case_ref", "state", "reasons", "day"})}
    assert {case["state"] for case in cases} == {"offered"}
    assert live.get("matching", f"/v1/cases/{cases[0]['case_ref']}", token) in cases
    board = live.page("matching", "/", token)
    for hidden in ("NameAMY", "NameBEN", "ICU", "physician", "nurse"):
        assert hidden not in board


def test_a_wrong_token_and_another_role_are_refused(live: System) -> None:
    for token, status in (("wrong", 401), (live.token("reporter"), 403)):
        answer = httpx.get(live.url("matching", "/v1/cases"), headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status

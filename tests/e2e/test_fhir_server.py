"""A FHIR server that nobody here wrote (PyPI sekmet-fhir) tells a death by its own subscription engines."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from leeward.testing import wait_until
from services.demo.servers.server import Port
from tests.e2e.conftest import STAFF, MakeSystem
from tests.e2e.harness import LIVE, Mailbox, System

TOPICS = "http://sekmet.dev/fhir/SubscriptionTopic"
SECRET = "a-bearer-token-of-many-characters"
STAFF_SYSTEM, NUMBERS = "urn:oid:1.2.3.4.5.5", "urn:oid:1.2.3.4.5.1"
SMART = '\nclient_id = "leeward"\nscopes = "system/*.cruds"'
SOURCES = f"""
[sources.by_topic]
kind = "fhir"
base_url = "{{base}}"
topic = "{TOPICS}/encounter-complete"
identifier_systems = {{{{ "{STAFF_SYSTEM.removeprefix("urn:oid:")}" = "ehr" }}}}{SMART}

[sources.classic]
kind = "fhir"
base_url = "{{base}}"
identifier_systems = {{{{ "{STAFF_SYSTEM.removeprefix("urn:oid:")}" = "ehr" }}}}{SMART}

[sources.ehr]
kind = "hl7v2"
"""


class FhirServer:
    """sekmet-fhir as a process: Leeward signs in by SMART Backend Services, the test by a token of its own."""

    def __init__(self, folder: Path) -> None:
        self._port = Port()
        self.base = f"http://127.0.0.1:{self._port.number}/fhir"
        self.http = httpx.Client(
            headers={"Authorization": "Bearer test-token", "Content-Type": "application/fhir+json"}
        )
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, jwks: dict[str, Any]) -> None:
        settings = {
            "base_url": self.base,
            "host": "127.0.0.1",
            "port": self._port.number,
            "data_dir": str(self._folder),
            "server_auth": {
                "types": ["bearer", "smart"],
                "tokens": ["test-token"],
                "smart_clients": [{"client_id": "leeward", "jwks": jwks, "scopes": "system/*.cruds"}],
            },
        }
        path = self._folder / "settings.yaml"
        path.write_text(json.dumps(settings))
        command = [str(Path(sys.executable).with_name("sekmet")), "serve", "--config", str(path)]
        with (self._folder / "sekmet.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, env=os.environ, stdout=log, stderr=log)
        wait_until(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return self.http.get(f"{self.base}/metadata").status_code == 200
        except httpx.TransportError:
            return False

    def put(self, resource: dict[str, Any]) -> None:
        answer = self.http.put(f"{self.base}/{resource['resourceType']}/{resource['id']}", json=resource)
        assert answer.status_code in (200, 201), answer.text

    def stop(self) -> None:
        self.http.close()
        if self._process:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FhirServer]:
    folder = tmp_path / "sekmet"
    folder.mkdir()
    made = FhirServer(folder)
    yield made
    made.stop()


def encounter(status: str, **fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "Encounter",
        "id": "e1",
        "status": status,
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": "Patient/p1"},
        "participant": [{"individual": {"reference": "Practitioner/d1"}}],
        **fields,
    }


def hospital(server: FhirServer) -> None:
    """A patient, and Amy who looks after them."""
    server.put({"resourceType": "Patient", "id": "p1", "identifier": [{"system": NUMBERS, "value": "CANARYPM1"}]})
    listed = [{"system": STAFF_SYSTEM, "value": "E-AMY"}]
    server.put({"resourceType": "Practitioner", "id": "d1", "identifier": listed})
    server.put(encounter("in-progress"))


def test_one_death_by_two_engines_of_a_server_and_by_hl7_is_one_message(
    make_system: MakeSystem, mailbox: Mailbox, server: FhirServer
) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    given = {f"LEEWARD_SOURCE_{name}_SECRET": SECRET for name in ("BY_TOPIC", "CLASSIC")}
    given |= {f"LEEWARD_SOURCE_{name}_PRIVATE_KEY": key.decode() for name in ("BY_TOPIC", "CLASSIC")}
    system = make_system(LIVE + SOURCES.format(base=server.base), LEEWARD_CLOCK="2026-11-21T09:00:00Z", **given)
    system.import_roster(*STAFF)
    server.start(json.loads(system.command("fhir", "keys", "by_topic").stdout))
    hospital(server)
    system.start()
    for words in (("by_topic", "--content", "id-only"), ("classic", "--content", "full-resource")):
        made = json.loads(system.command("fhir", "subscribe", *words, "--json").stdout)
        assert made["id"]
    ended = {"period": {"end": "2026-11-21T08:40:00Z"}, "hospitalization": {"dischargeDisposition": EXPIRED}}
    server.put(encounter("finished", **ended))
    wait_until(lambda: mailbox.to("amy@hospital.example"), 20)
    assert "MSA|AA" in bridge(system, death_of("CANARYPM1"))
    token = system.token()
    wait_until(lambda: system.get("incident", "/v1/incidents", token)["items"], 10, lambda found: len(found) == 1)
    wait_until(lambda: metric(system, "leeward_messages_accepted_total", "classic"), 10)
    wait_until(lambda: metric(system, "leeward_fhir_fetches_total", "by_topic"), 10)
    [incident] = system.get("incident", "/v1/incidents", token)["items"]
    assert (incident["state"], incident["reasons"]) == ("recorded", ["discharged_dead"])
    assert len(mailbox.to("amy@hospital.example")) == 1
    written = [path for path in system.folder.rglob("*") if path.is_file() and path.name != "bridge.hl7"]
    assert not [path.name for path in written if b"CANARYPM1" in path.read_bytes()]


EXPIRED = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/discharge-disposition", "code": "exp"}]}


def death_of(number: str) -> str:
    """The same death by HL7, the patient under the same number."""
    return (
        "MSH|^~\\&|EHRSYS|HOSP|LW|HOSP|20261121085000||ADT^A03|B1|P|2.5\r"
        f"PID|1||{number}^^^HOSP&{NUMBERS.removeprefix('urn:oid:')}&ISO||Lastname^Firstname\r"
        "PV1|1|I|ICU||||E-AMY" + "|" * 29 + "20\r"
    )


def bridge(system: System, message: str) -> str:
    """PyPI hl7v2-fhir-bridge's own sender; gives what it printed."""
    file = system.folder / "bridge.hl7"
    file.write_text(message, newline="")
    words = ["send", "--host", "127.0.0.1", "--port", str(system.mllp_port), str(file)]
    sender = Path(sys.executable).with_name("hl7v2-fhir-bridge")
    done = subprocess.run([sender, *words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metric(system: System, name: str, source: str) -> bool:
    """Whether a counter of a source has counted anything."""
    text = system.http.get(system.url("incident", "/metrics")).text
    return any(line.startswith(f"{name}{{") and f'source="{source}"' in line for line in text.splitlines())

"""What no file, log, metric, page or mail may hold: a byte search after a whole story."""

import httpx

from leeward.settings import SERVICES
from leeward.testing import wait_until
from tests.e2e.harness import Mailbox, System, death, link_in

PATIENT = ("CANARYMRN77", "Canarylast", "Canaryfirst", "Canary Street", "CANARYVISIT", "CANARYDOCTOR")
STAFF_IDS = ("AMY", "BEN", "MAX", "SUE", "TOM")


def told() -> str:
    message = death("MSGCANARY", "AMY", "BEN", patient="CANARYMRN77")
    message = message.replace("Lastname^Firstname", "Canarylast^Canaryfirst").replace("1 Street", "1 Canary Street")
    return message.replace("VMSGCANARY", "CANARYVISIT").replace("Doe^Jo", "CANARYDOCTOR^Jo")


def stored(system: System) -> dict[str, bytes]:
    files = [
        path for path in system.folder.rglob("*") if path.is_file() and path.name not in ("roster.csv", "message.hl7")
    ]
    return {str(path.relative_to(system.folder)): path.read_bytes() for path in files}


def test_no_patient_data_and_no_names_outside_notify(live: System, mailbox: Mailbox) -> None:
    live.send(told())
    wait_until(lambda: len(mailbox.message_ids()), 5, lambda found: found == 2)
    link = link_in(mailbox.to("amy@hospital.example")[0])
    pages = {"person": httpx.get(link).content, "metrics": httpx.get(live.url("incident", "/metrics")).content}
    token = live.token()
    for path in ("/v1/incidents?state=recorded", "/v1/unmatched"):
        pages[path] = httpx.get(live.url("incident", path), headers={"Authorization": f"Bearer {token}"}).content
    for path in ("/", "/v1/cases"):
        pages["matching" + path] = live.page("matching", path, token).encode()
    mails = {f"mail {n}": mail.as_bytes() for n, mail in enumerate(mailbox.mails)}
    everything = {**stored(live), **pages, **mails}
    assert live.stop() == 0
    everything |= {f"{name} after the stop": raw for name, raw in stored(live).items()}
    for name, raw in everything.items():
        for canary in PATIENT:
            assert canary.encode() not in raw, f"{canary} in {name}"
        if "leeward.toml" in name:
            continue
        if not name.startswith(("data/notify.db", "mail ")):
            assert b"@hospital.example" not in raw, f"an address in {name}"
        if not name.startswith(("data/notify.db", "matching/")):
            assert b"Name" + b"AMY" not in raw, f"a name in {name}"
        for staff_id in STAFF_IDS:
            assert f"E-{staff_id}".encode() not in raw, f"an identifier in {name}"


def test_the_same_member_has_another_reference_in_every_service(live: System, mailbox: Mailbox) -> None:
    live.send(told())
    wait_until(lambda: len(mailbox.message_ids()), 5, lambda found: found == 2)
    files = stored(live)
    assert {name.removeprefix("data/").removesuffix(".db") for name in files if name.endswith(".db")} == set(SERVICES)

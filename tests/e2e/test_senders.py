"""Senders that other people wrote, each with a real death for one running system."""

import re

from leeward.testing import wait_until
from tests.e2e.harness import Mailbox, System, death
from tests.senders import NPM_SENDERS, send

PEOPLE = ("BEN", "SUE", "TOM")


def test_each_sender_reads_its_acknowledgement_and_each_death_is_offered_once(live: System, mailbox: Mailbox) -> None:
    printed = live.send(death("M0", "AMY", patient="P0"))
    assert re.search(r"MSA\|AA\|M0\b", printed)
    for number, (sender, person) in enumerate(zip(NPM_SENDERS, PEOPLE, strict=True), 1):
        message = death(f"M{number}", person, patient=f"P{number}")
        assert send(sender, live.mllp_port, message, live.folder) == f"AA M{number}"
    offered = sorted(f"{name.lower()}@hospital.example" for name in ("AMY", *PEOPLE))
    wait_until(lambda: sorted(mailbox.message_ids()), 10, lambda found: found == offered)
    assert all(len(ids) == 1 for ids in mailbox.message_ids().values())
    token = live.token()
    found = live.get("incident", "/v1/incidents", token)["items"]
    assert [one["state"] for one in found] == ["recorded"] * 4

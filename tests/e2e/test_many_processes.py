"""Each service a process of its own, in replicas: whatever is killed or restarted, each person gets one message."""

from tests.e2e.conftest import STAFF, MakeDistributed
from tests.e2e.harness import LIVE, Mailbox, death, eventually

NINE = "2026-11-21T09:00:00Z"
TWICE = {"incident": 2, "matching": 2, "notify": 2}
INVOLVED = ("amy@hospital.example", "ben@hospital.example")


def test_each_involved_person_gets_exactly_one_message(make_distributed: MakeDistributed, mailbox: Mailbox) -> None:
    system = make_distributed(LIVE, TWICE, LEEWARD_CLOCK=NINE)
    system.import_roster(*STAFF)
    system.start()
    assert "MSA|AA|M1" in system.send(death("M1", "AMY", "BEN", referring="REF"))
    eventually(lambda: len(mailbox.message_ids()), 10, lambda found: found >= 2)
    assert sorted(mailbox.message_ids()) == sorted(INVOLVED)
    assert all(len(ids) == 1 for ids in mailbox.message_ids().values())

"""At night nothing leaves; in the morning it does, once, with restarts in between."""

import time

from leeward.testing import wait_until
from tests.e2e.conftest import STAFF, MakeSystem
from tests.e2e.harness import Mailbox, Member, cancelled, death

NIGHT = '[outreach]\nmode = "live"\njitter = "0s"\n'


def test_a_message_waits_for_the_morning_of_the_persons_own_zone(make_system: MakeSystem, mailbox: Mailbox) -> None:
    # 23:00 in Berlin is 22:00 UTC; noon in Auckland is the day before's 23:00 UTC
    system = make_system(NIGHT, LEEWARD_CLOCK="2026-11-20T22:00:00Z")
    berlin = Member("NIA", columns={"timezone": "Europe/Berlin"})
    auckland = Member("ANA", columns={"timezone": "Pacific/Auckland"})
    spared = Member("IDA", columns={"timezone": "Europe/Berlin"})
    system.import_roster(*STAFF, berlin, auckland, spared)
    system.start()
    system.send(death("M1", "NIA", "ANA", at="20261120215000"))
    wait_until(lambda: mailbox.to("ana@hospital.example"), 5)
    # a death that was none, as is said before the night is over
    system.send(death("M2", "IDA", at="20261120215000"))
    system.send(cancelled("M3", "M2"))
    system.kill()
    system.restart(LEEWARD_CLOCK="2026-11-21T06:30:00Z")
    time.sleep(1)
    assert mailbox.to("nia@hospital.example") == []
    system.kill()
    system.restart(LEEWARD_CLOCK="2026-11-21T07:00:05Z")
    wait_until(lambda: mailbox.to("nia@hospital.example"), 5)
    assert mailbox.to("ida@hospital.example") == []
    system.kill()
    system.restart(LEEWARD_CLOCK="2026-11-21T07:30:00Z")
    time.sleep(1)
    assert len(mailbox.to("nia@hospital.example")) == 1
    assert [to for _, to in mailbox.envelopes].count("nia@hospital.example") == 1

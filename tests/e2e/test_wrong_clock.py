"""A clock that is wrong at a start ends and forgets nothing; a site that was really off comes back (ADR 21)."""

import json
import time

from leeward.testing import wait_until
from tests.e2e.harness import Mailbox, System, death

AMY, BEN = "amy@hospital.example", "ben@hospital.example"
IN_TWO_YEARS = "2028-11-20T17:00:00Z"
FIVE_DAYS_LATER = "2026-11-26T09:00:00Z"


def begin(live: System, mailbox: Mailbox) -> None:
    """Somebody has had an offer, whose reminder is due in three days; then the machine goes off."""
    live.send(death("M1", "AMY", at="20261121090000"))
    wait_until(lambda: mailbox.to(AMY))
    wait_until(lambda: states(live), until=lambda found: found == ["offered"])
    assert live.stop() == 0


def states(live: System) -> list[str]:
    figures = json.loads(live.command("status", "--json").stdout)
    return [state for state, number in figures["services"]["matching"]["cases"].items() for _ in range(number)]


def is_doubted(live: System) -> bool:
    return "clock_doubted" in live.http.get(live.url("matching", "/readyz")).json().get("notes", ())


def test_two_years_ahead_for_some_seconds_end_nothing_and_hold_nobody_up(live: System, mailbox: Mailbox) -> None:
    begin(live, mailbox)
    live.restart(LEEWARD_CLOCK=IN_TWO_YEARS)
    assert is_doubted(live)
    assert "leeward_clock_doubted 1.0" in live.http.get(live.url("notify", "/metrics")).text
    live.send(death("M2", "BEN", at="20261121090100"))
    wait_until(lambda: mailbox.to(BEN))
    found = live.command("doctor", check=False)
    assert "error: matching does not believe the clock: it is 730 days ahead" in found.stdout
    assert "clock_doubted" in json.loads(live.command("status", "--json").stdout)["gaps"]
    assert '"event": "clock_doubted"' in (live.folder / "log").read_text()
    wait_until(lambda: states(live), until=lambda found: found == ["offered", "offered"])
    assert live.stop() == 0
    live.restart(LEEWARD_CLOCK="2026-11-21T09:02:00Z")
    assert not is_doubted(live)
    assert states(live) == ["offered", "offered"]
    assert "clock" not in live.command("doctor", check=False).stdout.replace("LEEWARD_CLOCK is set", "")
    assert [len(mailbox.to(one)) for one in (AMY, BEN)] == [1, 1]


def test_after_five_days_off_the_first_message_of_a_source_bears_the_clock_out(live: System, mailbox: Mailbox) -> None:
    begin(live, mailbox)
    live.restart(LEEWARD_CLOCK=FIVE_DAYS_LATER)
    assert is_doubted(live)
    time.sleep(0.5)
    assert len(mailbox.to(AMY)) == 1, "a reminder that came due in the gap waits"
    live.send(death("M2", "BEN", at="20261126083000"))
    wait_until(lambda: mailbox.to(BEN))
    assert not is_doubted(live)
    wait_until(lambda: len(mailbox.to(AMY)) == 2)
    assert states(live) == ["offered", "offered"]


def test_after_five_days_off_a_person_may_say_that_the_clock_is_right(live: System, mailbox: Mailbox) -> None:
    begin(live, mailbox)
    live.restart(LEEWARD_CLOCK=FIVE_DAYS_LATER)
    assert is_doubted(live)
    assert "the clock is right: 2026-11-26" in live.command("doctor", "--clock-is-right", check=False).stdout
    wait_until(lambda: not is_doubted(live))
    wait_until(lambda: len(mailbox.to(AMY)) == 2)

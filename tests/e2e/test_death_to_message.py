"""An HL7 death discharge in, one discreet message out to everyone involved, whatever is repeated or killed."""

import sqlite3
import time

from leeward.testing import wait_until
from tests.e2e.conftest import STAFF, MakeSystem
from tests.e2e.harness import LIVE, Mailbox, System, cancelled, death

DENIED = "patient incident support peer trauma death victim leeward icu programme program error".split()  # noqa: SIM905
TAKEN_BACK = ["retracted", "retracted_after_sending"]
INVOLVED = ("amy@hospital.example", "ben@hospital.example")


def arrived(mailbox: Mailbox, count: int) -> None:
    wait_until(lambda: len(mailbox.message_ids()), 5, lambda found: found >= count)


def test_each_involved_person_gets_exactly_one_discreet_message(live: System, mailbox: Mailbox) -> None:
    printed = live.send(death("M1", "AMY", "BEN", referring="REF"))
    assert "MSA|AA|M1" in printed
    arrived(mailbox, 2)
    # nothing more may follow, to the referring doctor or anybody else
    live.send(death("M2-ignored", patient="X").replace("ADT^A03", "ADT^A05"))
    assert sorted(mailbox.message_ids()) == sorted(INVOLVED)
    for mail in mailbox.mails:
        text = mail.as_string().lower()
        assert not [word for word in DENIED if word in text]
        assert "You have a message. Open it when it suits you." in mail.get_content()
        assert mail["Message-ID"].endswith("@post.example>")
    assert all(len(ids) == 1 for ids in mailbox.message_ids().values())


def test_the_proposed_supporter_shares_no_outcome_line_or_expired_training(live: System, mailbox: Mailbox) -> None:
    live.send(death("M1", "AMY", "BEN"))
    arrived(mailbox, 2)
    with sqlite3.connect(f"file:{live.folder}/data/matching.db?mode=ro", uri=True) as db:
        proposals = dict(db.execute("SELECT person_ref, proposed FROM support_case").fetchall())
        supporters = {row[0] for row in db.execute("SELECT person_ref FROM person WHERE unit IN ('ED', 'OR')")}
        expired = {row[0] for row in db.execute("SELECT person_ref FROM person WHERE training_ends < '2026-11-21'")}
    assert len(proposals) == 2
    assert set(proposals.values()) <= supporters - expired


def test_taken_back_after_it_left_the_coordinator_hears_and_a_new_death_is_offered_once_more(
    live: System, mailbox: Mailbox
) -> None:
    live.send(death("M1", "AMY"))
    wait_until(lambda: mailbox.to(INVOLVED[0]), 5)
    live.send(cancelled("M2", "M1"))
    token = live.token()
    wait_until(lambda: [case["reasons"] for case in live.cases(token)], 5, lambda found: found == [TAKEN_BACK])
    live.send(death("M3", "AMY", patient="PM1"))
    wait_until(lambda: len(mailbox.to(INVOLVED[0])), 5, lambda found: found == 2)
    live.send(death("M4", "AMY", patient="PM1"))
    time.sleep(0.5)
    assert len(mailbox.to(INVOLVED[0])) == 2


def test_in_rehearsal_nothing_is_sent_and_the_figures_say_what_would_have_been(
    make_system: MakeSystem, mailbox: Mailbox
) -> None:
    system = make_system(LIVE.replace("live", "rehearsal"), LEEWARD_CLOCK="2026-11-21T09:00:00Z")
    system.import_roster(*STAFF)
    system.start()
    assert "MSA|AA" in system.send(death("M1", "AMY", "BEN"))
    token = system.token()
    wait_until(lambda: len(system.cases(token)), 5, lambda found: found == 2)
    assert all("rehearsal" in case["reasons"] for case in system.cases(token))
    assert "2" in system.command("status").stdout
    assert "rehearsal" in system.command("status").stdout.lower()
    board = system.page("matching", "/", token)
    assert "2" in board
    assert "rehearsal" in board.lower()
    assert mailbox.mails == []


def test_the_same_message_again_and_after_a_power_cut_changes_nothing(live: System, mailbox: Mailbox) -> None:
    message = death("M1", "AMY", "BEN")
    live.send(message)
    arrived(mailbox, 2)
    assert "MSA|AA|M1" in live.send(message)
    live.kill()
    live.restart()
    assert "MSA|AA|M1" in live.send(message)
    live.send(death("M2", "SUE", patient="other"))
    arrived(mailbox, 3)
    assert all(len(ids) == 1 for ids in mailbox.message_ids().values())
    assert live.stop() == 0


def test_a_source_takes_no_death_twice_under_another_message_id(live: System, mailbox: Mailbox) -> None:
    live.send(death("M1", "AMY", patient="P1"))
    arrived(mailbox, 1)
    live.send(death("M2", "AMY", patient="P1"))
    live.send(death("M3", "SUE", patient="P3"))
    arrived(mailbox, 2)
    assert sorted(mailbox.message_ids()) == ["amy@hospital.example", "sue@hospital.example"]

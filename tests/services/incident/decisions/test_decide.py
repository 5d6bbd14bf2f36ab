"""The one loop of decisions: a rule written once holds at the door, in a replay, in its trial, and explained."""

from datetime import datetime, timedelta

import pytest

from leeward.settings.policy import IncidentPolicy
from services.incident.decisions import decide
from services.incident.decisions.claims import Action, Patient, PatientClaim, SignalDecision
from services.incident.hashing import Hasher
from services.incident.replay.inbox import Inbox
from services.incident.replay.replay import Replay
from services.incident.replay.trial import Trial
from services.incident.sources.hl7v2.explain import explain
from tests.services.incident.conftest import Desk, hl7

RULE = "planted"


def leaves_alive(claim: PatientClaim, patient: Patient, rules: IncidentPolicy, now: datetime) -> SignalDecision:
    """A rule that nobody has: whoever leaves alive is for review."""
    alive = claim.disposition == "living" and patient.current is None
    return SignalDecision(Action.REVIEW if alive else Action.NOTHING, (RULE,))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "decide_claim", leaves_alive)


def alive(ident: str = "1") -> bytes:
    return hl7(ident=ident, PV1_36="01")


async def test_without_the_rule_nothing_follows(desk: Desk) -> None:
    await desk.send(alive())
    assert await desk.rows("incident") == []


@pytest.mark.usefixtures("planted")
async def test_it_holds_at_the_door(desk: Desk) -> None:
    assert await desk.send(alive()) == ["AA"]
    assert [(row.state, row.reasons) for row in await desk.rows("incident")] == [("review", RULE)]


async def test_it_holds_in_a_replay_and_in_its_trial(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.send(alive())
    monkeypatch.setattr(decide, "decide_claim", leaves_alive)
    context = desk.context
    since = context.clock.now() - timedelta(hours=1)
    inbox = Inbox(context.settings, context.keys, since)
    trial = Trial(Hasher.of(context.keys), context.settings.incident, since)
    stored = await context.store.read(inbox.list_unread)
    await context.store.read(lambda conn: trial.feed(conn, inbox.read(conn, stored)))
    assert [one.stored for one in trial.list_standing()] == stored
    assert await desk.rows("incident") == []
    replay = Replay(context.store, context.settings, context.keys, "ehr")
    replayed = await replay.run(since, context.clock.now() + timedelta(seconds=1), dry_run=False)
    assert [(one.action, one.reasons) for one in replayed.decided] == [("reviewed", (RULE,))]
    assert [(row.state, row.reasons) for row in await desk.rows("incident")] == [("review", RULE)]


@pytest.mark.usefixtures("planted")
def test_it_holds_where_a_message_is_explained(desk: Desk) -> None:
    lines = explain(alive(), desk.context.settings)
    assert f"decision for a patient not seen before: review ({RULE})" in lines

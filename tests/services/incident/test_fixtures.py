"""Third-party samples: each is answered as its header asks, and none that is no death opens anything.

All samples but two share one patient and lie years back, so a first look at each finds what these tables say.
"""

import os
from pathlib import Path

import pytest

from leeward.clock import FakeClock
from services.incident.domain import Patient
from services.incident.edge import read
from services.incident.policy import decide_claim
from tests.services.incident.conftest import Desk

FOLDER = Path(__file__).parents[4] / "shared" / "fixtures" / "hl7v2"
FILES = sorted(FOLDER.glob("*.hl7"))
pytestmark = pytest.mark.skipif(not FILES and "CI" not in os.environ, reason="the shared fixtures are not here")

# MSH-15/16 ask for it, or MSH-11 is T
ANSWERS = {
    "ADT-A40-01": [],
    "ADT-A40-02": [],
    "ADT04-251": ["AR"],
    "ADT04-28": ["AR"],
    "LAB-ORU-1": ["AR"],
    "LAB-ORU-2": ["AR"],
    "MDM-T02-03": ["CR"],
    "ORU-R01-01": ["CR"],
    "VXU": ["AA"],
}
# PID-30 is Y, and PV1-36 holds a text that is no death disposition: contradictory, so a person looks at it
LIVING = {f"ADT-{event}-0{n}" for event in ("A01", "A02", "A03", "A04", "A08", "A31") for n in (1, 2)} | {"MDM_01"}
DECISIONS = {
    **dict.fromkeys(LIVING, ("review", "living_disposition")),
    **dict.fromkeys(["ADT-A11-01", "ADT-A11-02", "ADT-A13-01", "ADT-A13-02"], ("nothing", "nothing_to_cancel")),
    **dict.fromkeys(["ADT-A06-01", "ADT-A06-02", "ADT-A07-01", "ADT-A07-02"], ("nothing", "no_evidence")),
    **dict.fromkeys(["ADT01-23", "ADT01-28", "ADT04-23"], ("nothing", "no_evidence")),
}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def sample(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_there_are_81_of_them() -> None:
    assert len(FILES) == 81


def test_each_is_read_and_decided(sample: Path, desk: Desk, clock: FakeClock) -> None:
    reading = read(sample.read_bytes(), desk.ground.settings.sources, clock)
    if reading.fault:
        assert ANSWERS[sample.stem] in (["AR"], ["CR"])
        assert reading.fault.code == 202
        return
    expected = DECISIONS.get(sample.stem)
    if reading.claim is None or reading.claim.merges:
        assert expected is None
        return
    decision = decide_claim(reading.claim, Patient(""), desk.ground.settings.incident, clock.now())
    assert (decision.action, decision.reasons[0]) == expected


async def test_each_is_answered_and_none_is_an_incident(desk: Desk) -> None:
    for path in FILES:
        assert await desk.send(path.read_bytes()) == ANSWERS.get(path.stem, ["AA"]), path.stem
    assert await desk.events() == []
    # one item for their one patient; the A11 among them cancels that visit, and the A31 after it asks anew
    assert await desk.states() == ["retracted", "review"]

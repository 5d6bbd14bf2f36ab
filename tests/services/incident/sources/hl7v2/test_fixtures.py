"""Third-party samples: what is decided on each and why, and how each is answered over a real MLLP connection.

None of them is the report of a fresh death, so none may be recorded. Those with PID-30 Y name a disposition that is no
death in the same breath, years back: contradictory, so a person looks at it.
"""

import os
import re
from pathlib import Path

import pytest

from leeward.settings import load_settings
from services.incident.sources.hl7v2.explain import explain
from services.incident.sources.hl7v2.mllp import framed
from services.incident.sources.hl7v2.receiver import read_hl7
from tests.services.incident.conftest import Desk, codes, death
from tests.services.incident.sources.hl7v2.ports import Port, answer, control_id

FOLDER = Path(__file__).parents[6] / "shared" / "fixtures" / "hl7v2"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.hl7"))}
pytestmark = pytest.mark.skipif(not FILES and "CI" not in os.environ, reason="the shared fixtures are not here")

# "says" is PV1-36/PID-30/PID-29 of what could be evidence; MSH-11 is T where a processing id is refused; what is
# decided is so on the first look at a patient
TABLE = """
file            message  15/16  says            answer decided  why
ADT-A01-01      ADT^A01  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A01-02      ADT^A01  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A02-01      ADT^A02  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A02-02      ADT^A02  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A03-01      ADT^A03  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A03-02      ADT^A03  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A04-01      ADT^A04  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A04-02      ADT^A04  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A05-01      ADT^A05  -/-    -               AA     nothing  event_not_read
ADT-A05-02      ADT^A05  -/-    -               AA     nothing  event_not_read
ADT-A06-01      ADT^A06  -/-    -/N/-           AA     nothing  no_evidence
ADT-A06-02      ADT^A06  -/-    -/N/-           AA     nothing  no_evidence
ADT-A07-01      ADT^A07  -/-    -/N/-           AA     nothing  no_evidence
ADT-A07-02      ADT^A07  -/-    -/N/-           AA     nothing  no_evidence
ADT-A08-01      ADT^A08  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A08-02      ADT^A08  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A09-01      ADT^A09  -/-    -               AA     nothing  event_not_read
ADT-A09-02      ADT^A09  -/-    -               AA     nothing  event_not_read
ADT-A10-01      ADT^A10  -/-    -               AA     nothing  event_not_read
ADT-A10-02      ADT^A10  -/-    -               AA     nothing  event_not_read
ADT-A11-01      ADT^A11  -/-    living/Y/given  AA     nothing  nothing_to_cancel
ADT-A11-02      ADT^A11  -/-    living/Y/given  AA     nothing  nothing_to_cancel
ADT-A13-01      ADT^A13  -/-    living/Y/given  AA     nothing  nothing_to_cancel
ADT-A13-02      ADT^A13  -/-    living/Y/given  AA     nothing  nothing_to_cancel
ADT-A14-01      ADT^A14  -/-    -               AA     nothing  event_not_read
ADT-A14-02      ADT^A14  -/-    -               AA     nothing  event_not_read
ADT-A15-01      ADT^A15  -/-    -               AA     nothing  event_not_read
ADT-A15-02      ADT^A15  -/-    -               AA     nothing  event_not_read
ADT-A16-01      ADT^A16  -/-    -               AA     nothing  event_not_read
ADT-A16-02      ADT^A16  -/-    -               AA     nothing  event_not_read
ADT-A25-01      ADT^A25  -/-    -               AA     nothing  event_not_read
ADT-A25-02      ADT^A25  -/-    -               AA     nothing  event_not_read
ADT-A26-01      ADT^A26  -/-    -               AA     nothing  event_not_read
ADT-A26-02      ADT^A26  -/-    -               AA     nothing  event_not_read
ADT-A27-01      ADT^A27  -/-    -               AA     nothing  event_not_read
ADT-A27-02      ADT^A27  -/-    -               AA     nothing  event_not_read
ADT-A28-01      ADT^A28  -/-    -               AA     nothing  event_not_read
ADT-A28-02      ADT^A28  -/-    -               AA     nothing  event_not_read
ADT-A29-01      ADT^A29  -/-    -               AA     nothing  event_not_read
ADT-A29-02      ADT^A29  -/-    -               AA     nothing  event_not_read
ADT-A31-01      ADT^A31  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A31-02      ADT^A31  -/-    living/Y/given  AA     review   living_disposition, older
ADT-A40-01      ADT^A40  NE/NE  -               none   merge
ADT-A40-02      ADT^A40  NE/NE  -               none   merge
ADT-A41-01      ADT^A41  -/-    -               AA     nothing  event_not_read
ADT-A41-02      ADT^A41  -/-    -               AA     nothing  event_not_read
ADT-A45-01      ADT^A45  -/-    -               AA     nothing  event_not_read
ADT-A45-02      ADT^A45  -/-    -               AA     nothing  event_not_read
ADT-A47-01      ADT^A47  -/-    -               AA     nothing  event_not_read
ADT-A47-02      ADT^A47  -/-    -               AA     nothing  event_not_read
ADT-A60-01      ADT^A60  -/-    -               AA     nothing  event_not_read
ADT-A60-02      ADT^A60  -/-    -               AA     nothing  event_not_read
ADT01-23        ADT^A01  -/-    -/N/-           AA     nothing  no_evidence
ADT01-28        ADT^A01  -/-    -/-/-           AA     nothing  no_evidence
ADT04-23        ADT^A04  -/-    -/N/-           AA     nothing  no_evidence
ADT04-251       ADT^A04  -/-    -               AR     refused  processing_id
ADT04-28        ADT^A04  -/-    -               AR     refused  processing_id
LAB-ORU-1       ORU^R01  -/-    -               AR     refused  processing_id
LAB-ORU-2       ORU^R01  -/-    -               AR     refused  processing_id
MDM-T01-01      MDM^T01  -/-    -               AA     nothing  event_not_read
MDM-T01-02      MDM^T01  -/-    -               AA     nothing  event_not_read
MDM-T02-01      MDM^T02  -/-    -               AA     nothing  event_not_read
MDM-T02-02      MDM^T02  -/-    -               AA     nothing  event_not_read
MDM-T02-03      MDM^T02  AL/-   -               CR     refused  processing_id
MDM-T05-01      MDM^T05  -/-    -               AA     nothing  event_not_read
MDM-T05-02      MDM^T05  -/-    -               AA     nothing  event_not_read
MDM-T06-01      MDM^T06  -/-    -               AA     nothing  event_not_read
MDM-T06-02      MDM^T06  -/-    -               AA     nothing  event_not_read
MDM-T09-01      MDM^T09  -/-    -               AA     nothing  event_not_read
MDM-T09-02      MDM^T09  -/-    -               AA     nothing  event_not_read
MDM-T10-01      MDM^T10  -/-    -               AA     nothing  event_not_read
MDM-T10-02      MDM^T10  -/-    -               AA     nothing  event_not_read
MDM_01          ADT^A01  -/-    living/Y/given  AA     review   living_disposition, older
ORU-R01-01      ORU^R01  AL/NE  -               CR     refused  processing_id
ORU-R01-RMGEAD  ORU^R01  -/-    -               AA     nothing  event_not_read
SIU-S12-01      SIU^S12  -/-    -               AA     nothing  event_not_read
SIU-S12-02      SIU^S12  -/-    -               AA     nothing  event_not_read
SIU-S12_1       SIU^S12  -/-    -               AA     nothing  event_not_read
VXU-V04-01      VXU^V04  -/-    -               AA     nothing  event_not_read
VXU-V04-02      VXU^V04  -/-    -               AA     nothing  event_not_read
VXU             VXU^V04  ER/AL  -               AA     nothing  event_not_read
"""
ROWS = [re.split(r" +", line, maxsplit=6) for line in TABLE.strip().splitlines()[1:]]
ANSWERS = {row[0]: [] if row[4] == "none" else [row[4]] for row in ROWS}


def test_the_table_holds_each_of_the_81_files() -> None:
    assert len(FILES) == 81
    assert [row[0] for row in ROWS] == list(FILES)
    assert {row[5] for row in ROWS} == {"nothing", "review", "merge", "refused"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_each_is_read_and_decided_as_the_table_says(row: list[str]) -> None:
    name, message, conditions, says, answered, *decided = row
    settings = load_settings({"LEEWARD_ENV": "test", "LEEWARD_CLOCK": "2026-11-21T09:00:00Z"})
    raw = FILES[name].read_bytes()
    reading, lines = read_hl7(raw, settings.sources, settings.clock()), explain(raw, settings)
    claim, header = reading.claim, reading.header
    assert lines[0].startswith(f"read: {message},")
    assert "/".join(header.code(number) or "-" for number in (15, 16)) == conditions
    if claim and not claim.merges:
        given = (claim.disposition, claim.indicator, "given" if claim.death_given else "")
        assert "/".join(one or "-" for one in given) == says
    else:
        assert says == "-"
    told = next(line for line in lines if line.startswith("answer: "))
    assert told.split(",")[0] == f"answer: {answered.replace('none', 'no answer')}"
    assert _decided(reading.fault.reason if reading.fault else "", lines) == decided


def _decided(refused: str, lines: list[str]) -> list[str]:
    """What explain says of a patient not seen before."""
    if refused:
        return ["refused", refused]
    found = re.search(r"^decision[^:]*: (\w+)(?: \((.*)\))?", "\n".join(lines), re.MULTILINE)
    assert found
    return [part for part in found.groups() if part]


async def test_all_are_answered_on_one_connection_and_none_opens_a_case(desk: Desk, port: Port) -> None:
    reader, writer = await port.open()
    for name, path in FILES.items():
        writer.write(framed(path.read_bytes()))
        replies = [await answer(reader) for _ in ANSWERS[name]]
        assert codes(replies) == ANSWERS[name], name
        wanted = read_hl7(path.read_bytes(), desk.context.settings.sources, desk.context.clock).header.control_id
        assert [control_id(reply) for reply in replies] == [wanted] * len(replies)
    assert await desk.events() == []
    # one item for their one patient; the A11 among them cancels that visit, and the A31 after it asks anew
    assert await desk.states() == ["retracted", "review"]
    # the connection has outlived them all, and what is a death is taken for one
    writer.write(framed(death(ident="LAST", PID_3="999001^^^HOSP")))
    assert codes([await answer(reader)]) == ["AA"]
    assert await desk.kinds() == ["recorded"]

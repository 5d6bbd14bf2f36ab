"""What an epoch leaves behind goes once its window is over, however much it is, and nobody waits for it."""

import pytest

from leeward.store import Unit
from leeward.store.timing import TimerLoop
from services.feedback.issuer import epochs, repository
from services.feedback.issuer.models import METADATA
from tests.conftest import MakeContext

CLAIMS = 1200


@pytest.mark.database("sqlite", "postgresql")
async def test_claims_of_an_epoch_that_is_over_are_forgotten_a_slice_at_a_time(make_context: MakeContext) -> None:
    context = make_context("issuer", METADATA)
    store, left = context.store, list[int]()

    def used(unit: Unit) -> None:
        cases = [f"case {n}" for n in range(CLAIMS)]
        repository.add_claims(unit.conn, cases, unit.now.date())
        unit.conn.execute(METADATA.tables["claim"].update().values(epoch="over"))
        repository.add_claims(unit.conn, ["another"], unit.now.date())
        unit.set_timer(epochs.END, "over", unit.now)

    await store.write(used)
    loop = TimerLoop("issuer", store, {epochs.END: epochs.end_epochs})
    while await loop.fire_due():
        left.append(await store.read(lambda conn: len(conn.execute(METADATA.tables["claim"].select()).all())))
    assert left == [CLAIMS + 1 - epochs.FORGOTTEN_AT_ONCE, CLAIMS + 1 - 2 * epochs.FORGOTTEN_AT_ONCE, 1]

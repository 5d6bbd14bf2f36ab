"""Choosing for several people of one batch. No I/O.

Greedy: people are served in the order given, each gets the best supporter left for them, and a proposal already made in
the batch costs `scoring.A_PROPOSAL`. That guarantees that nobody is given somebody who may not support them, that
nobody goes without while somebody who may is below their cap, that equal choices spread evenly, and that the same input
gives the same result. It does not maximise the sum of the scores: a person served early may take the best of one served
later. As proposals take no capacity, no person loses a supporter by that, only a few points.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.matching.pairing.scoring import Load, Pool, Proposal, Search, State


def propose(pool: Pool, searches: Sequence[Search], state: State) -> list[Proposal | None]:
    """One proposal a search, in their order; `state` is left as it was."""
    running = replace(state, loads=dict(state.loads))
    return [_next(pool, search, running) for search in searches]


def _next(pool: Pool, search: Search, running: State) -> Proposal | None:
    chosen = pool.best(search, running)
    if chosen:
        load = running.loads.get(chosen.person_ref, Load())
        running.loads[chosen.person_ref] = replace(load, proposals=load.proposals + 1)
    return chosen

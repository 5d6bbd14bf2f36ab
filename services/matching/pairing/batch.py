"""Choosing supporters for all who need one in a batch. No I/O.

Greedy: needs are served in the order given, each gets the supporter proposed before, if they still may, else the best
who is left. A place taken for one need is gone for those after it, and a proposal costs them `scoring.A_PROPOSAL`. That
guarantees that nobody is given somebody who may not support them, that nobody goes without while somebody who may is
below their cap, that no two needs share a last place, that equal choices spread evenly, and that the same input gives
the same result. It does not maximise the sum of the scores: a person served early may take the best of one served
later.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from services.matching.pairing.scoring import Pool, Proposal, Search, State, Workload


class Need(NamedTuple):
    """One case's need: the search for its person, who was proposed before, and whether the chosen one gives a place."""

    search: Search
    proposed: str | None
    takes_place: bool


def solve(pool: Pool, needs: Sequence[Need], state: State) -> list[Proposal | None]:
    """One answer a need, in their order, None where nobody may; `state` is left as it was."""
    running = replace(state, loads=dict(state.loads))
    answers = []
    for need in needs:
        kept = pool.proposal(need.search, need.proposed, running) if need.proposed else None
        chosen = kept or pool.best(need.search, running)
        if chosen:
            load = running.loads.get(chosen.person_ref, Workload())
            running.loads[chosen.person_ref] = load.with_one_more(takes_place=need.takes_place)
        answers.append(chosen)
    return answers

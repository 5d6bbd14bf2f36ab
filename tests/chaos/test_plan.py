"""A seed is a plan, and consecutive seeds leave out no fail-point."""

import pytest

from tests.chaos.plan import MODES, REPLICAS, SERVERS, Mode, plan, points_of, processes

ENOUGH = 20


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_is_the_same_plan_and_another_is_not(mode: Mode) -> None:
    assert plan(7, mode) == plan(7, mode)
    assert plan(7, mode) != plan(8, mode)
    somebody = "a001@hospital.example"
    assert plan(7, mode).habit(somebody, 1, supporter=False) == plan(7, mode).habit(somebody, 1, supporter=False)


@pytest.mark.parametrize("mode", MODES)
def test_as_many_runs_as_must_hit_every_point_aim_at_each_of_them(mode: Mode) -> None:
    for first in (0, 20261121):
        runs = [plan(seed, mode) for seed in range(first, first + ENOUGH)]
        aimed = [blow.point for one in runs for chain in one.chains.values() for blow in chain]
        assert {point.name for point in points_of(mode)} <= set(aimed)


def test_a_point_is_aimed_at_where_it_can_be_hit() -> None:
    by_name = {point.name: point for point in points_of("distributed")}
    for seed in range(100):
        for name, chain in plan(seed, "distributed").chains.items():
            for blow in (blow for blow in chain if blow.point):
                assert name.partition("-")[0] in by_name[blow.point].services


def test_over_many_runs_everything_is_killed() -> None:
    struck = {name for seed in range(60) for name, chain in plan(seed, "distributed").chains.items() if chain}
    assert struck == {*processes(), *SERVERS}
    assert {name.partition("-")[0] for name in processes()} == set(REPLICAS)

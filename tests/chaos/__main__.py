"""`make chaos`: runs one after the other, from a seed on; then what was hit, and whether planted bugs are caught."""

import argparse
import asyncio
import logging
import pickle
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.chaos import walk
from tests.chaos.bugs import BREAKS, BUGS, EMBEDDED_ONLY
from tests.chaos.many import Many
from tests.chaos.plan import MODES, Mode, plan, points_of, revealing
from tests.chaos.run import Outcome, carry_out
from tests.chaos.worlds import Embedded, World, surroundings

WORLDS: Final[dict[Mode, type[World]]] = {"embedded": Embedded, "distributed": Many}
ENOUGH: Final = 20  # runs after which every fail-point must have been hit
LINES: Final = 10
AGAIN: Final = 3  # times that a run is played until it is not void
MOST_VOID: Final = 0.1  # of all runs


async def chaos(seed: int, runs: int, modes: Sequence[Mode], *, bugs_only: bool) -> bool:
    """Whether every promise was kept, every fail-point hit and every bug caught."""
    good = True
    for mode in modes:
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            async with surroundings(Path(folder)) as around:
                world = WORLDS[mode](around)
                try:
                    await world.prepare()
                    good = (bugs_only or await _runs(world, seed, runs)) and good
                    good = ((runs < 10 and not bugs_only) or await _bugs(world)) and good
                finally:
                    await world.close()
    return good


async def _runs(world: World, seed: int, runs: int) -> bool:
    hits: Counter[str] = Counter()
    good, void = True, 0
    for number in range(seed, seed + runs):
        for again in range(AGAIN):
            name = f"run-{number}-{again}" if again else f"run-{number}"
            outcome = await carry_out(world, plan(number, world.mode), world.around.folder / name)
            _print(outcome)
            if not outcome.void:
                break
            void += 1
        hits += outcome.hits
        good = not outcome.breaches and good
    if void > max(1, runs * MOST_VOID):
        print(f"{world.mode}: {void} of {runs} runs were void: this machine is too busy", flush=True)
        good = False
    missed = [point.name for point in points_of(world.mode) if not hits[point.name]]
    counted = ", ".join(f"{point.name} {hits[point.name]}" for point in points_of(world.mode))
    print(f"{world.mode}: fail-points hit: {counted}")
    if missed and runs >= ENOUGH:
        print(f"{world.mode}: NEVER HIT: {', '.join(missed)}")
        return False
    return good


def _print(outcome: Outcome) -> None:
    print(outcome.line(), flush=True)
    for line in outcome.breaches[:LINES]:
        print(f"  {line}", flush=True)
    if outcome.breaches:
        kept = Path(tempfile.mkdtemp(prefix=f"chaos-{outcome.evidence.plan.seed}-"))
        shutil.copytree(outcome.folder, kept, dirs_exist_ok=True)
        (kept / "evidence").write_bytes(pickle.dumps(outcome.evidence))
        print(f"  logs, databases and evidence are in {kept}", flush=True)


async def _bugs(world: World) -> bool:
    """Each bug breaks the promise it is about, and nothing is broken in the same run without it."""
    good = True
    for bug in bugs_of(world.mode):
        planted, sound = await with_bug(world, bug), await with_bug(world, bug, planted=False)
        seen = [line for line in planted.breaches if line.startswith(BREAKS[bug])]
        good = bool(seen) and not sound.breaches and good
        caught = f"caught: {seen[0]}" if seen else f"NOT CAUGHT: {planted.breaches[:1]}"
        print(f"{world.mode}: planted {bug}, {planted.seconds:.1f} s: {caught}", flush=True)
        if sound.breaches:
            print(f"{world.mode}: without {bug}: BROKEN ALL THE SAME: {sound.breaches[0]}", flush=True)
    return good


def bugs_of(mode: Mode) -> list[str]:
    """The bugs that a mode can have."""
    return [bug for bug in BUGS if mode == "embedded" or bug not in EMBEDDED_ONLY]


async def with_bug(world: World, bug: str, *, planted: bool = True) -> Outcome:
    """A run that shows a bug, with it planted in every process, or without."""
    around = world.around
    around.bug = bug if planted else ""
    try:
        return await carry_out(world, revealing(bug, world.mode), around.folder / f"{bug}-{planted}")
    finally:
        around.bug = ""


def main() -> None:
    asked = argparse.ArgumentParser(prog="tests.chaos")
    asked.add_argument("--runs", type=int, default=50)
    asked.add_argument("--seed", type=int, default=secrets.randbelow(10**8))
    asked.add_argument("--mode", choices=MODES)
    asked.add_argument("--bugs", action="store_true", help="planted bugs alone")
    given = asked.parse_args()
    # what it cannot reach while it is dead, aiokafka says in lines of its own
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    print(f"chaos: seed {given.seed}, {given.runs} runs; again with SEED={given.seed}", flush=True)
    modes = (given.mode,) if given.mode else MODES
    kept = given.bugs or walk.report(walk.LIVES, given.seed)
    sys.exit(0 if asyncio.run(chaos(given.seed, given.runs, modes, bugs_only=given.bugs)) and kept else 1)


if __name__ == "__main__":
    main()

"""Properties under random input: a moment each in the suite, for long by `make fuzz`.

A property is a test marked by `@fuzzed(...)`, with Hypothesis' strategies as arguments, wherever it stands:

    @fuzzed(st.binary(max_size=4096))
    def test_no_body_breaks_it(body: bytes) -> None: ...

`python -m tests.fuzzing --minutes 10` plays all of them again and again, each time from another seed,
which it prints.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings

EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "40"))
ROUND: Final = 400  # examples of a property in each round of a long run

Test = Callable[..., Any]


def fuzzed(*strategies: Any, **named: Any) -> Callable[[Test], Test]:
    """Make a test a property; a fixture that it uses is shared by all its examples."""
    bound = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

    def mark(test: Test) -> Test:
        examples: Test = bound(given(*strategies, **named)(test))  # type: ignore[no-untyped-call]
        marked: Test = pytest.mark.fuzz(examples)
        return marked

    return mark


def play(minutes: float, seed: int) -> int:
    """All properties until the time is over or one fails; 1 where one did."""
    end = time.monotonic() + 60 * minutes
    words = [sys.executable, "-m", "pytest", "-m", "fuzz", "-p", "no:cacheprovider", "--timeout=3600"]
    while time.monotonic() < end:
        print(f"seed {seed}", flush=True)
        environment = {**os.environ, "FUZZ_EXAMPLES": str(ROUND)}
        if subprocess.run([*words, f"--hypothesis-seed={seed}"], env=environment, check=False).returncode:
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    arguments = parser.parse_args()
    sys.exit(play(arguments.minutes, arguments.seed))

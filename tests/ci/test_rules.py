"""Each rule of `make check` is broken once, in a copy of the tree, and the check says so."""

import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
SQL_IN_A_HANDLER = """
from sqlalchemy import Connection, delete


def delete_everything(conn: Connection) -> None:
    conn.execute(delete(None))
"""
LONG_FUNCTION = "\n\ndef ramble() -> None:\n" + "    print()\n" * 40
TELEGRAPHIC = '''
"""It is sorted by hand: a list that was never
anew."""
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code and of what checks it."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in ("leeward", "services", ".ci"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "static", "*.lock"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def plant(tree: Path, file: str, text: str) -> None:
    with (tree / file).open("a") as code:
        code.write(text)


def run(tree: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)


def test_names_sizes_words_and_places_of_sql_are_kept(tree: Path) -> None:
    assert run(tree, sys.executable, ".ci/rules.py").returncode == 0
    plant(tree, "services/matching/inputs/answers.py", SQL_IN_A_HANDLER)
    plant(tree, "services/notify/links.py", "\n\nclass Store:\n    pass\n")
    plant(tree, "services/incident/hashing.py", LONG_FUNCTION)
    plant(tree, "services/feedback/blind.py", TELEGRAPHIC)
    for number in range(15):
        plant(tree, f"services/notify/recipients/more_{number}.py", '"""One more."""\n')
    once = "".join(f"\n\ndef _step_{number}() -> None:\n    pass\n" for number in range(2000))
    plant(tree, "services/notify/recipients/more_0.py", once)
    found = run(tree, sys.executable, ".ci/rules.py")
    assert found.returncode == 1
    faults = found.stderr.splitlines()
    for fault in (
        "answers.py:*: imports delete; SQL has its place in a repository",
        "answers.py:*: calls execute; SQL has its place in a repository",
        "class Store is also in",
        "ramble has 41 lines; 40 is the most",
        "“anew” is telegraphic English",
        "services/notify/recipients has 1? Python files; 14 is the most",
        "functions are helpers called once; 15 % is the most",
    ):
        assert any(fnmatchcase(line, f"*{fault}*") for line in faults), fault


def test_imports_keep_their_direction(tree: Path) -> None:
    plant(tree, "services/incident/roster.py", "\nfrom services.matching import site as _site\n")
    plant(tree, "services/matching/lifecycle/hours.py", "\nimport sqlite3\n")
    plant(tree, "services/feedback/box/repository.py", "\nfrom services.feedback.box import api as _api\n")
    found = run(tree, LINT_IMPORTS, "--no-cache", "--no-logo")
    assert found.returncode == 1
    broken = [line.removesuffix(" BROKEN") for line in found.stdout.splitlines() if line.endswith(" BROKEN")]
    assert len(broken) == 3
    for imports in (
        "services.incident is not allowed to import services.matching",
        "services.matching.lifecycle.hours -> sqlite3",
        "services.feedback.box.repository is not allowed to import services.feedback.box.api",
    ):
        assert imports in " ".join(found.stdout.split())  # lines are wrapped

"""The rules for names, sizes and places that no linter knows. Run by `make check`, from the root of the tree.

python .ci/rules.py            one line for each fault, exit code 1 where there is any
python .ci/rules.py --once     lists the helpers that are called once
"""

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

ROOTS: Final = ("leeward", "services")
LINES_OF_FUNCTION: Final = 40
FILES_OF_FOLDER: Final = 14
CALLED_ONCE: Final = 15  # per cent of all functions
SQL_HERE: Final = {"repository", "queries", "models"}
NO_SERVICE: Final = Path("services/demo/servers")  # what starts servers makes databases, and knows no table
# types and faults: whoever names only these does not write SQL
NO_SQL: Final = {"Connection", "Engine", "MetaData", "Row", "RowMapping", "Table", "event"}
STATEMENTS: Final = {"Insert", "Update"}
EXECUTE: Final = {"exec_driver_sql", "execute", "executemany"}
PHRASES: Final = (
    "there is nothing left that could not be done",
    "Nor does the N in spite of",
    "so long do further feeds",
    "a name that can be had is that of",
    "must not both go by what was before",
    "there at nought",
    "an attempt that nobody knows the end of",
    "when nobody sleeps and works",
    "does not wait for a word any more",
    "is not one that a list of ours gave",
)
TELEGRAPHIC: Final = re.compile(rf"{'|'.join(PHRASES)}|\b(?:anew|lest|nought|that is none)\b")

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Trees: TypeAlias = Mapping[Path, ast.Module]


def parsed() -> Trees:
    """The modules of the ground and the services, migrations apart."""
    files = (path for root in ROOTS for path in sorted(Path(root).rglob("*.py")) if "migrations" not in path.parts)
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}


def repeated_classes(trees: Trees) -> Iterator[str]:
    """Class names that stand for two things; those with a leading underscore are apart."""
    places = defaultdict(list)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{path}:{node.lineno}")
    for name, found in places.items():
        if len(found) > 1:
            yield f"{found[0]}: class {name} is also in {', '.join(found[1:])}; a name stands for one thing"


def statement_builders(node: ast.ImportFrom) -> set[str]:
    """What an import brings that makes statements."""
    module, names = node.module or "", {alias.name for alias in node.names}
    if module.startswith("leeward.store"):
        return names & STATEMENTS
    if module.startswith(("sqlalchemy", "sqlmodel")) and not module.startswith(("sqlalchemy.exc", "sqlalchemy.util")):
        return names - NO_SQL
    return set()


def misplaced_sql(trees: Trees) -> Iterator[str]:
    """Statements that a service builds or runs outside its repository, queries and models."""
    for path, tree in trees.items():
        if path.parts[0] != "services" or path.stem in SQL_HERE or NO_SERVICE in path.parents:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (names := statement_builders(node)):
                yield f"{path}:{node.lineno}: imports {', '.join(sorted(names))}; SQL has its place in a repository"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EXECUTE:
                yield f"{path}:{node.lineno}: calls {node.func.attr}; SQL has its place in a repository"


def functions(tree: ast.Module) -> Iterator[Function]:
    """Every function of a module, nested ones and methods included."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def called_once(tree: ast.Module) -> Iterator[Function]:
    """Functions with one leading underscore whose name is used at most once in their file."""
    uses = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    )
    for function in functions(tree):
        if function.name.startswith("_") and not function.name.startswith("__") and uses[function.name] <= 1:
            yield function


def oversized(trees: Trees) -> Iterator[str]:
    """Functions that are too long, folders that are too wide, and too many helpers called once."""
    for path, tree in trees.items():
        for function in functions(tree):
            lines = (function.end_lineno or 0) - function.lineno + 1
            if lines > LINES_OF_FUNCTION:
                yield f"{path}:{function.lineno}: {function.name} has {lines} lines; {LINES_OF_FUNCTION} is the most"
    for folder, count in Counter(path.parent for path in trees).items():
        if count > FILES_OF_FOLDER:
            yield f"{folder} has {count} Python files; {FILES_OF_FOLDER} is the most"
    once = sum(1 for tree in trees.values() for _ in called_once(tree))
    every = sum(1 for tree in trees.values() for _ in functions(tree))
    if once * 100 > CALLED_ONCE * every:
        yield f"{once} of {every} functions are helpers called once; {CALLED_ONCE} % is the most"


def telegraphic(trees: Trees) -> Iterator[str]:
    """Turns of phrase that have been mended and must not come back, wherever a line ends within them."""
    for path in trees:
        text = path.read_text(encoding="utf-8")
        joined = re.sub(r"[\s#]", " ", text)  # of the same length, so that a place in it is one in the text
        joined = re.sub(r" {2,}", lambda gap: " " + "\0" * (len(gap[0]) - 1), joined)
        places = [place for place, letter in enumerate(joined) if letter != "\0"]
        for match in TELEGRAPHIC.finditer(joined.replace("\0", "")):
            line = text.count("\n", 0, places[match.start()]) + 1
            yield f"{path}:{line}: “{match[0]}” is telegraphic English; write subject, verb, object"


def main(arguments: list[str]) -> int:
    """Exit code 1 where a rule is broken."""
    trees = parsed()
    if arguments == ["--once"]:
        for path, tree in trees.items():
            for function in called_once(tree):
                print(f"{path}:{function.lineno}: {function.name}")
        return 0
    faults = [fault for rule in (repeated_classes, misplaced_sql, oversized, telegraphic) for fault in rule(trees)]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

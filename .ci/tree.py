"""What no linter knows: the size of files, and addresses that must not be committed. Run by `make check`."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LINES: Final = 600
CODE: Final = {".py", ".js", ".css", ".html"}
GENERATED: Final = {"services/feedback/box/static/blindrsa.js"}


def faults() -> Iterator[str]:
    """One line for each thing wrong."""
    listed = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S607
    for name in listed:
        path = Path(name)
        if path.suffix in CODE and name not in GENERATED and path.exists():
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > LINES:
                yield f"{name} has {count} lines; {LINES} is the most"
        if path.suffix == ".lock" and "://" in path.read_text(encoding="utf-8"):
            yield f"{name} names an address; make lock leaves them out"
        if path.name == "package-lock.json" and '"resolved"' in path.read_text(encoding="utf-8"):
            yield f"{name} names a registry; set omit-lockfile-registry-resolved"


if __name__ == "__main__":
    found = list(faults())
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(1 if found else 0)

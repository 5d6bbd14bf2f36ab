"""For developers: `python -m services.commands.operate.revision MESSAGE` writes what models have and databases lack.

With `--initial` the first revisions are written again; that ends with the first release.
"""

import importlib
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from leeward.service import Service
from leeward.store.migrate import drift, migrate, revise
from leeward.store.sqlite import sqlite_engine
from services.commands import catalogue


def folder(service: Service) -> Path:
    """Where a service's revisions are."""
    module = importlib.import_module(catalogue.PACKAGES[service.name])
    return Path(str(module.__file__)).parent / "migrations"


def written(service: Service, message: str, *, initial: bool) -> bool:
    """Write one service's next revision; False where there is nothing to write."""
    versions = folder(service)
    versions.mkdir(exist_ok=True)
    if initial:
        for old in versions.glob("[0-9]*.py"):
            old.unlink()
    with tempfile.TemporaryDirectory() as scratch:
        engine = sqlite_engine(Path(scratch) / "database.db")
        with engine.begin() as conn:
            migrate(conn, service.package, service.metadata)
            there = bool(drift(conn, service.metadata))
            if there:
                number = f"{len(list(versions.glob('[0-9]*.py'))) + 1:04}"
                with redirect_stdout(StringIO()):
                    revise(conn, service.package, service.metadata, message, number)
                tidy(next(versions.glob(f"{number}_*.py")))
        engine.dispose()
    return there


def tidy(file: Path) -> None:
    """Bring a new revision into the house's form; it is to be read before it is committed."""
    lines = [line for line in file.read_text().splitlines(keepends=True) if "# ### " not in line]
    file.write_text("".join(lines))
    for order in (("check", "--quiet", "--fix", "--select", "I,F401"), ("format", "--quiet")):
        subprocess.run([sys.executable, "-m", "ruff", *order, str(file)], check=True)  # noqa: S603


def main(arguments: list[str]) -> int:
    """Exit code 2 where there is no message."""
    initial = arguments[:1] == ["--initial"]
    message = "initial" if initial else " ".join(arguments)
    if not message:
        print("say what changes: make revision MESSAGE=…", file=sys.stderr)
        return 2
    for service in catalogue.load():
        print(f"{service.name}: {'written' if written(service, message, initial=initial) else 'nothing to write'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

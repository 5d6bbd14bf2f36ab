"""A copy of the tree, changed as CONTRIBUTING says, and its own `leeward`."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from leeward.settings import SERVICES
from tests.services.commands.conftest import free_port

ROOT: Final = Path(__file__).parents[2]


def copy_into(folder: Path) -> Path:
    """What runs, compiled files too, so that a start need not compile."""
    for name in ("leeward", "services"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "leeward.toml").write_text("")
    return folder


def command(tree: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    """`leeward …` of the copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEEWARD_")}
    given = {"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tree / "data"), "PYTHONPATH": str(tree), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", "services", *words],
        cwd=tree,
        env={**environment, **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def started(tree: Path, *words: str, **variables: str) -> Iterator[dict[str, str]]:
    """All services of the copy by `leeward words…`: their addresses by name, and the MLLP port, once each listens."""
    ports = {name: free_port() for name in (*SERVICES, "mllp")}
    listening = {f"LEEWARD_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    process = command(tree, *words, **listening, **variables)
    try:
        urls: dict[str, str] = {name: f"http://127.0.0.1:{ports[name]}" for name in SERVICES}
        for url in urls.values():
            while process.poll() is None:
                try:
                    httpx.get(f"{url}/livez")
                except httpx.TransportError:
                    time.sleep(0.02)
                else:
                    break
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield {**urls, "mllp": str(ports["mllp"])}
    finally:
        process.kill()
        process.communicate()

"""The secrets and the policy file that docker-compose.yml mounts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.compose import EXAMPLE, LINES, ROOT


def make_secrets(folder: Path) -> str:
    """Run the script; gives what it printed."""
    command = [sys.executable, str(ROOT / "deploy" / "make_secrets.py"), str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of secrets that no test changes."""
    folder = tmp_path_factory.mktemp("secrets")
    make_secrets(folder)
    return folder


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """leeward.toml as somebody writes it who follows the comment in docker-compose.yml."""
    file = tmp_path_factory.mktemp("policy") / "leeward.toml"
    file.write_text(EXAMPLE + LINES, encoding="utf-8")
    return file

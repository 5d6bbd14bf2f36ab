"""The real command: in this process where it ends by itself, else in one of its own."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from leeward.store import Unit
from services.__main__ import main
from tests import nursery

Leeward = Callable[..., "subprocess.CompletedProcess[str]"]
HEADER = (
    "staff_id,identifiers,display_name,profession,unit,line_managers,languages,email,mobile,timezone,status,"
    "supporter,introduction,training_completed,training_expires,max_active\n"
)
ROSTER = HEADER + (
    "A1,ehr=P1,Ann One,nurse,ICU,,en,ann@h.example,,UTC,,no,,,,\n"
    "A2,ehr=P2;npi=2,Bo Two,nurse,ER,,en,bo@h.example,,UTC,,yes,hi,2026-01-01,2027-12-01,\n"
    "A3,ehr=P3,Cy Three,nurse,ICU,A1,en,cy@h.example,,UTC,,no,,,,\n"
)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A test installation in a folder of its own."""
    (tmp_path / "leeward.toml").write_text("")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEEWARD_")},
        "LEEWARD_ENV": "test",
        "LEEWARD_CONFIG": str(tmp_path / "leeward.toml"),
        "LEEWARD_DATA": str(tmp_path / "data"),
    }


@pytest.fixture
def leeward(environment: dict[str, str]) -> Leeward:
    """`leeward("staff", "check", path)`: what it printed and how it ended; what would stay runs in a process."""

    def run(*words: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        given = {**environment, **variables}
        if words[0] in ("up", "run"):
            return nursery.run(words, given)
        # commands have a loop of their own, and so may their caller
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(_run_here, [*map(str, words)], given).result(60)

    return run


def _run_here(words: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    handlers, code = list(logging.root.handlers), 0
    runner = CliRunner()
    with runner.isolation(env=environment) as (out, err, _), mock.patch.object(sys, "argv", ["leeward", *words]):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            logging.root.handlers[:] = handlers
        said = [stream.getvalue().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(words, code, *said)


@pytest.fixture
def leeward_process(environment: dict[str, str]) -> Leeward:
    """The same in a process of its own, forked from the nursery."""
    return lambda *words, **variables: nursery.run(words, {**environment, **variables})


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path = tmp_path / "roster.csv"
    path.write_text(ROSTER)
    return path


def newest(unit: Unit) -> None:
    """Say that the tables, made without migrations, are as the newest would make them."""
    unit.conn.execute(text("CREATE TABLE alembic_version (version_num VARCHAR)"))
    unit.conn.execute(text("INSERT INTO alembic_version VALUES ('9999')"))

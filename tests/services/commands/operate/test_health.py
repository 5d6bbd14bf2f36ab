"""What is said of a database that cannot store: by `/readyz`, by `doctor`, by a start that is refused."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from leeward.settings import SERVICES
from leeward.testing import wait_until
from tests import nursery
from tests.leeward.limits import no_room
from tests.services.commands.conftest import Leeward, free_port


@pytest.fixture
def incident(environment: dict[str, str]) -> str:
    """Where incident answers, once something runs."""
    ports = {name: free_port() for name in (*SERVICES, "mllp")}
    environment.update({f"LEEWARD_{name.upper()}_PORT": str(port) for name, port in ports.items()})
    return f"http://127.0.0.1:{ports['incident']}"


def health(base: str) -> str:
    """The reason that `/readyz` gives, "ready" without one, "" while nobody answers."""
    try:
        answer = httpx.get(f"{base}/readyz")
    except httpx.TransportError:
        return ""
    assert (answer.status_code == 200) == (answer.json()["status"] == "ready")
    return str(answer.json().get("reason", "ready"))


@pytest.fixture
def running(environment: dict[str, str], incident: str, tmp_path: Path) -> Iterator[nursery.Process]:
    with (
        (tmp_path / "up.log").open("w+") as log,
        nursery.Process(["up"], environment, stdout=log, stderr=log) as process,
    ):
        wait_until(lambda: health(incident), 60, lambda found: found == "ready")
        yield process


def red_within_five_seconds(incident: str, reason: str) -> None:
    began = time.monotonic()
    wait_until(lambda: health(incident), 10, lambda found: found == reason)
    assert time.monotonic() - began < 5


def test_a_full_disk_is_red_and_goes_by_when_there_is_room(running: nursery.Process, incident: str) -> None:
    with no_room(pid=running.pid):
        red_within_five_seconds(incident, "disk_full")
    wait_until(lambda: health(incident), 10, lambda found: found == "ready")


def zero_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(100))


@pytest.mark.usefixtures("running")
def test_a_zeroed_header_is_red_and_refuses_the_next_start(
    incident: str, leeward: Leeward, tmp_path: Path, running: nursery.Process
) -> None:
    file = tmp_path / "data" / "incident.db"
    zero_header(file)
    red_within_five_seconds(incident, "damaged")
    running.kill()
    running.wait(10)
    for words in (("up",), ("run", "incident")):
        done = leeward(*words)
        assert done.returncode == 1
        said = f"{file}: is damaged (it does not begin as a database does); stop Leeward and restore the latest backup"
        assert done.stderr.startswith(said), done.stderr
        assert done.stderr.count("\n") == 1


def errors(leeward: Leeward) -> dict[str, str]:
    found = json.loads(leeward("doctor", "--json").stdout)
    return {one["what"]: one["do"] for one in found if one["level"] == "error" and ".db" in one["what"]}


def test_doctor_says_what_is_wrong_with_a_file_and_what_to_do(leeward: Leeward, tmp_path: Path) -> None:
    assert leeward("migrate").returncode == 0
    assert errors(leeward) == {}
    data = tmp_path / "data"
    with no_room():
        assert errors(leeward) == {
            f"{data / f'{name}.db'}: the disk is full": "make room; until then nothing is accepted, and senders repeat"
            for name in SERVICES
        }
    zero_header(data / "notify.db")
    with (data / "box.db").open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096))
    restore = "stop Leeward and restore the latest backup with `leeward restore DIR`"
    assert errors(leeward) == {
        f"{data / 'notify.db'} is damaged (it does not begin as a database does)": restore,
        f"{data / 'box.db'} is damaged (its pages do not hold together)": restore,
    }


@pytest.mark.parametrize("words", [("migrate",), ("status",), ("token", "list")])
def test_a_command_on_a_damaged_file_is_one_line(leeward: Leeward, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert leeward("migrate").returncode == 0
    file = tmp_path / "data" / "matching.db"
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(file.stat().st_size - 4096))
    done = leeward(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}: it is damaged; stop Leeward and restore"), done.stderr
    assert done.stderr.count("\n") == 1

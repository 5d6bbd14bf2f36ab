"""`leeward up` as a process: it answers, takes tokens, messages and imports while it runs, and stops when told."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import httpx
import pytest

from leeward.settings import SERVICES
from services.demo.world.hospital import ICU_DEATH
from tests import nursery
from tests.services.commands.conftest import Leeward, free_port


@pytest.fixture
def ports(environment: dict[str, str]) -> dict[str, int]:
    found = {name: free_port() for name in (*SERVICES, "mllp")}
    environment.update({f"LEEWARD_{name.upper()}_PORT": str(port) for name, port in found.items()})
    return found


@pytest.fixture
def system(environment: dict[str, str], ports: dict[str, int], tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """`leeward up` as an operator starts it, ready; whatever is left of it is killed at the end."""
    command = [sys.executable, "-m", "services", "up"]
    with (
        (tmp_path / "up.log").open("w+") as log,
        subprocess.Popen(command, env=environment, stderr=log, text=True) as process,
    ):
        try:
            wait_until_ready(process, ports, log)
            yield process
        finally:
            process.kill()


@pytest.fixture
def forked(environment: dict[str, str], ports: dict[str, int], tmp_path: Path) -> Iterator[nursery.Process]:
    """The same from the nursery."""
    with (
        (tmp_path / "up.log").open("w+") as log,
        nursery.Process(["up"], environment, stdout=log, stderr=log) as process,
    ):
        wait_until_ready(process, ports, log)
        yield process


def wait_until_ready(process: "subprocess.Popen[str] | nursery.Process", ports: dict[str, int], log: TextIO) -> None:
    patience = time.monotonic() + 60
    with httpx.Client() as client:
        while True:
            assert process.poll() is None, log.seek(0) or log.read()
            with suppress(httpx.TransportError):
                answers = [client.get(f"http://127.0.0.1:{ports[name]}/readyz") for name in SERVICES]
                if all(answer.status_code == 200 for answer in answers):
                    return
            assert time.monotonic() < patience
            time.sleep(0.05)


def test_it_works_beside_commands_and_ends_with_0(
    system: "subprocess.Popen[str]", ports: dict[str, int], leeward_process: Leeward, roster: Path, tmp_path: Path
) -> None:
    leeward = leeward_process
    assert leeward("staff", "import", roster).stdout == "3 added, 0 changed, 0 left, 0 unchanged\n"

    made = leeward("token", "create", "coordinator")
    token = made.stdout.split()[-1]
    board = f"http://127.0.0.1:{ports['matching']}/v1/cases"
    assert httpx.get(board).status_code == 401
    assert httpx.get(board, headers={"Authorization": f"Bearer {token}"}).json() == {"items": [], "next": None}

    file = tmp_path / "death.hl7"
    file.write_bytes(ICU_DEATH.message().replace(b"\r", b"\n"))
    sent = leeward("hl7", "send", file)
    assert (sent.returncode, sent.stdout) == (0, "message 1: AA\n"), sent.stderr
    found = json.loads(leeward("status", "--json").stdout)
    assert found["running"] == list(SERVICES)
    assert found["services"]["incident"]["identifiers"] == 4

    (handle,) = [one["handle"] for one in json.loads(leeward("token", "list", "--json").stdout)]
    assert leeward("token", "revoke", handle).returncode == 0
    assert httpx.get(board, headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert leeward("token", "revoke", handle).returncode == 1

    began = time.monotonic()
    system.send_signal(signal.SIGTERM)
    assert system.wait(15) == 0
    assert time.monotonic() - began < 10


def test_a_sign_in_link_opens_the_board_once(forked: nursery.Process, ports: dict[str, int], leeward: Leeward) -> None:
    assert forked.poll() is None
    link = leeward("login", "coordinator").stdout.strip()
    assert link.startswith(f"http://127.0.0.1:{ports['matching']}/login/")
    with httpx.Client() as browser:
        assert browser.get(link).status_code == 200
        assert browser.post(link, follow_redirects=True).status_code == 200
        assert browser.get(f"http://127.0.0.1:{ports['matching']}/").status_code == 200
    assert httpx.post(link).status_code == 401


def test_a_message_nobody_takes_fails(leeward: Leeward, ports: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "death.hl7"
    file.write_bytes(ICU_DEATH.message())
    sent = leeward("hl7", "send", file, "--port", ports["mllp"])
    assert sent.returncode == 1
    assert sent.stderr.startswith("nothing answers at 127.0.0.1:")
    assert sent.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "policy", "said"),
    [
        ({"LEEWARD_COLOUR": "blue"}, "", "LEEWARD_COLOUR: there is no such setting"),
        ({"LEEWARD_BOX_PORT": "many"}, "", "LEEWARD_BOX_PORT: is not a port"),
        ({"LEEWARD_PEOPLE_KEY": "s3cret-but-wrong"}, "", "LEEWARD_PEOPLE_KEY: is not base64"),
        ({}, "[outreach]\nmode = 'loud'\n", "leeward.toml: outreach.mode: "),
        ({}, "[outreach]\nmoed = 'live'\n", "leeward.toml: outreach.moed: there is no such setting"),
        ({"LEEWARD_ENV": "production"}, "", "leeward.toml: emergency.en: is missing"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    leeward: Leeward, tmp_path: Path, variables: dict[str, str], policy: str, said: str
) -> None:
    (tmp_path / "leeward.toml").write_text(policy)
    done = leeward("up", **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1
    assert "s3cret" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken_is_one_line(leeward: Leeward, ports: dict[str, int]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["notify"]))
        taken.listen()
        done = leeward("up")
    assert done.returncode == 1
    faults = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert faults == [f"LEEWARD_NOTIFY_PORT: {ports['notify']} cannot be used (Address already in use)"]


def test_links_to_sign_in_are_for_loopback_alone(leeward: Leeward, tmp_path: Path) -> None:
    done = leeward("login", "coordinator", LEEWARD_PUBLIC_URL="https://pages.example.org")
    assert done.returncode == 1
    assert "loopback" in done.stderr
    assert not (tmp_path / "data").exists()


def test_words_that_are_not_there_are_wrong_usage(leeward: Leeward) -> None:
    for words in (("run", "kitchen"), ("token", "create", "manager"), ("dance",), ("login",)):
        assert leeward(*words).returncode == 2, words


def test_migrating_twice_changes_nothing(leeward: Leeward) -> None:
    assert leeward("migrate").stdout == "migrated: incident, matching, notify, issuer, box\n"
    assert leeward("migrate").stdout.startswith("nothing to do")


def test_status_of_nothing_says_what_to_do(leeward: Leeward, ports: dict[str, int], tmp_path: Path) -> None:
    assert ports
    done = leeward("status")
    assert done.returncode == 0
    assert "run `leeward migrate`" in done.stdout
    assert not (tmp_path / "data").exists()

"""The demonstration itself, as a newcomer starts it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
import pytest

LEEWARD = (sys.executable, "-m", "services", "demo")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing set, and a folder for what is temporary."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEEWARD_")}
    return {**kept, "TMPDIR": str(tmp_path)}


def test_everybody_played_and_every_step_observed(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*LEEWARD, "--once"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    for seen in (
        "47 staff imported",
        "12 people involved or on shift have one mail each",
        "no mail says anything of what happened",
        "undone: the offer is there again",
        "a second browser with the same link sees nothing of it",
        "and sees a first name and the contact that was chosen",
        "11 ratings spent",
        "a release is in GET /v1/reports",
    ):
        assert f"✓ {seen}" in done.stdout
    assert "NOT OBSERVED" not in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing of it is left"


@pytest.mark.parametrize("way", [(), ("--distributed",)], ids=["embedded", "distributed"])
def test_begun_it_stays_until_told_and_its_mails_can_be_read(
    way: Sequence[str], environment: dict[str, str], tmp_path: Path
) -> None:
    assert tempfile.gettempdir()
    with subprocess.Popen([*LEEWARD, *way], env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            told = "".join(lines)
            mailbox = re.search(r"All its mailboxes:\n\s+(\S+)", told)
            mail = re.search(r"Mail for [^\n]+:\n\s+(\S+)", told)
            assert mailbox, told
            assert mail, told
            assert "ADT^A03, PV1-36 = 20: AA" in told
            assert "You have a message" in httpx.get(mailbox[1]).text
            kill_one_of_two(told)
            shown = httpx.get(mail[1]).text
            link = re.search(r'href="(http://[^"]+/m/[^"]+)"', shown)
            assert link, shown
            # each connection is another: both replicas are asked, or what is left of them
            for _ in range(2):
                assert 'value="accept"' in httpx.get(link[1]).text
            board = httpx.get(f"{mailbox[1]}/board")
            assert board.is_redirect
            assert "/login/" in board.headers["location"]
            assert httpx.get(board.headers["location"]).is_success
            assert httpx.post(f"{mailbox[1]}/time", data={"span": "hour"}, timeout=60).status_code == 303
            every = psutil.Process(process.pid).children(recursive=True)
            assert len(every) > 7 or not way
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert not [one for one in every if one.is_running()]
    assert list(tmp_path.iterdir()) == []


def kill_one_of_two(told: str) -> None:
    """Do to one replica of each service what the demonstration says may be done."""
    for first, _second in re.findall(r"\w+ \((\d+) and (\d+)\)", told):
        replica = psutil.Process(int(first))
        replica.kill()
        # until it is gone, its port may still take a connection that nobody will answer
        replica.wait(10)

"""deploy/make_secrets.py: every secret once, closed to others on this machine, readable inside a container."""

import asyncio
import base64
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from leeward.settings.keys import assertion_key
from tests.deploy.compose import ROOT
from tests.deploy.conftest import make_secrets


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}


def test_nobody_else_gets_to_them_and_a_container_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    make_secrets(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o644}


def test_each_is_another(made: Path) -> None:
    values = [value for value in contents(made).values() if value]
    assert len(set(values)) == len(values)
    assert all(len(base64.b64decode(value)) == 32 for name, value in contents(made).items() if name.endswith("_key"))


def test_what_is_there_stays_and_what_is_missing_comes(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "smtp_url").write_text("smtp://mail.example.org:25", encoding="utf-8")
    (tmp_path / "box_key").unlink()
    said = make_secrets(tmp_path)
    after = contents(tmp_path)
    assert said.splitlines() == [f"made {tmp_path / 'box_key'}"]
    assert {name for name in after if after[name] != before[name]} == {"smtp_url", "box_key"}


def test_none_is_printed(tmp_path: Path) -> None:
    said = make_secrets(tmp_path)
    assert "smtp_url is empty" in said
    assert not [value for value in contents(tmp_path).values() if value and value in said]


def test_issuer_gets_the_public_half_of_what_notify_signs_with(made: Path) -> None:
    values = contents(made)
    public = assertion_key(base64.b64decode(values["notify_key"])).public_key().public_bytes_raw()
    assert base64.b64decode(values["assertion_public_key"]) == public


def test_a_public_half_that_no_longer_fits_is_told(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "notify_key").unlink()
    with pytest.raises(subprocess.CalledProcessError) as fault:
        make_secrets(tmp_path)
    assert "assertion_public_key is not that of notify_key" in fault.value.stdout


async def test_two_at_once_make_one_set(tmp_path: Path) -> None:
    said = await asyncio.gather(*(asyncio.to_thread(make_secrets, tmp_path) for _ in range(3)))
    made = [line for one in said for line in one.splitlines() if line.startswith("made ")]
    assert len(made) == len(set(made)) == len(contents(tmp_path))


def test_by_itself_it_fills_the_folder_that_compose_reads(tmp_path: Path) -> None:
    script = tmp_path / "make_secrets.py"
    script.write_bytes((ROOT / "deploy" / "make_secrets.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True, cwd=ROOT)
    assert (tmp_path / "secrets" / "box_key").exists()

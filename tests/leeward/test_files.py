"""A file of somebody else's is refused with one line: which setting, which file, whose it is, what to do."""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from leeward.adapters import store_of
from leeward.clock import SystemClock
from leeward.settings import SettingsError, load_settings
from leeward.settings.keys import service_key
from services.feedback.box.models import METADATA

KEY = base64.b64encode(bytes(32)).decode()
NOBODY = 65534
WHOSE = r"is closed to user \d+, as whom this runs: it belongs to user \d+ with mode 0[06]00; give it to that user"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody may pass through."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def closed(*paths: Path) -> Iterator[None]:
    """Files and folders that are another user's alone; who is not root takes away their own right instead."""
    root = os.geteuid() == 0
    for path in paths:
        path.chmod((0o700 if path.is_dir() else 0o600) if root else 0)
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in paths:
            path.chmod(0o755)


def test_a_policy_of_somebody_else(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shared / "leeward.toml"
    file.write_text("")
    monkeypatch.chdir(shared)
    for environ, name in (({"LEEWARD_CONFIG": str(file)}, f"{file}"), ({}, "leeward.toml")):
        with closed(file), pytest.raises(SettingsError, match=rf"^LEEWARD_CONFIG: {name} {WHOSE}"):
            load_settings({"LEEWARD_ENV": "test", **environ})
    with closed(shared), pytest.raises(SettingsError, match=rf"as whom this runs: {shared} belongs to user"):
        load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": str(file)})


def test_a_secret_of_somebody_else(shared: Path) -> None:
    file = shared / "key"
    file.write_text(KEY)
    with closed(file), pytest.raises(SettingsError, match=rf"^LEEWARD_BOX_KEY_FILE: {file} {WHOSE}"):
        load_settings({"LEEWARD_ENV": "test", "LEEWARD_BOX_KEY_FILE": str(file)})


def test_a_key_of_somebody_else_is_not_made_again(shared: Path) -> None:
    settings = load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(shared / "data")})
    kept = service_key(settings, "box")
    folder = shared / "data" / "keys"
    for path in (shared / "data", folder):
        path.chmod(0o755)
    for path in (folder / "box.key", folder):
        with closed(path), pytest.raises(SettingsError, match=r"is closed to user"):
            service_key(settings, "box")
    assert service_key(settings, "box") == kept


def test_a_data_folder_that_cannot_be_made(shared: Path) -> None:
    folder = shared / "closed"
    folder.mkdir()
    settings = load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(folder / "data")})
    with closed(folder):
        with pytest.raises(SettingsError, match=rf"is closed to user .*: {folder} belongs to user"):
            service_key(settings, "box")
        with pytest.raises(SettingsError, match=r"LEEWARD_DATA: .* is closed to user"):
            store_of(settings, "box", METADATA, SystemClock())

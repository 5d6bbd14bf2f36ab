"""What a backup is: a folder with a copy of each database, and a manifest that is written last and names them all."""

import hashlib
import os
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from leeward import __version__
from leeward.settings import SERVICES, ServiceName
from leeward.settings.keys import KeyName
from leeward.store.copies import Mode
from leeward.store.copies.erasures import sync_folder

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_PIECE: Final = 1024 * 1024


class NoBackup(Exception):
    """A folder that cannot be restored: one line that says why, and what to do."""


class CopyRecord(BaseModel):
    """One copy: its file, its size in bytes and SHA-256, the schema's revision, and the identity of the log in it.

    left_out: the tables that are there without their rows. keys: check values of the keys that have made its content.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    size: int
    sha256: str
    revision: str
    log: str
    copied_at: AwareDatetime
    left_out: tuple[str, ...] = ()
    keys: dict[KeyName, str] = {}


class Manifest(BaseModel):
    """A whole backup. `ends` are the places in Kafka's partitions that matching's events had reached, by partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = FORMAT
    release: str = __version__
    mode: Mode
    made_at: AwareDatetime
    databases: dict[ServiceName, CopyRecord]
    ends: dict[int, int] = {}
    window_left_out: bool = False

    @property
    def size(self) -> int:
        return sum(record.size for record in self.databases.values())


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it as the last thing: a backup is whole when it is there."""
    draft = folder / f"{MANIFEST}.part"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / MANIFEST)
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a backup made by this release.

    Raises:
        NoBackup: where there is none, or it is of another release.
    """
    if not folder.is_dir():
        raise NoBackup(f"{folder}: is no folder; give the one that `leeward backup` has made")
    path = folder / MANIFEST
    if not path.is_file():
        raise NoBackup(f"{folder}: is no whole backup, it has no {MANIFEST}; take one that was finished")
    try:
        text = path.read_text(encoding="utf-8")
        made_by = _Release.model_validate_json(text)
        if (made_by.format, made_by.release) != (FORMAT, __version__):
            raise NoBackup(
                f"{folder}: was made by release {made_by.release}, and this is {__version__}; "
                f"restore it with release {made_by.release}, then upgrade"
            )
        found = Manifest.model_validate_json(text)
    except (OSError, ValueError, ValidationError) as fault:
        raise NoBackup(f"{folder}: its {MANIFEST} is damaged; take another backup") from fault
    if missing := [name for name in SERVICES if name not in found.databases]:
        raise NoBackup(f"{folder}: has no copy of {', '.join(missing)}; take a backup of all five")
    return found


class _Release(BaseModel):
    """What stands in the manifest of every release."""

    format: int
    release: str


def check_files(folder: Path, manifest: Manifest) -> None:
    """See that every copy is as it was made.

    Raises:
        NoBackup: where one is missing or was changed.
    """
    for record in manifest.databases.values():
        path = folder / record.file
        if Path(record.file).name != record.file or not path.is_file():
            raise NoBackup(f"{folder}: {record.file} is missing; half a backup cannot be restored, take a whole one")
        if path.stat().st_size != record.size or checksum(path) != record.sha256:
            raise NoBackup(f"{folder}: {record.file} is not as it was made; take another backup")


def checksum(path: Path) -> str:
    """SHA-256 in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()

"""Files that settings name: one that cannot be read is a line that says whose it is and what to do."""

import os
import stat
from pathlib import Path


def describe_fault(fault: OSError, path: Path) -> str:
    """What is wrong with a file or folder, and what to do about it; never what is in it."""
    if isinstance(fault, FileNotFoundError):
        return f"{path} is not there; allowed is the path of a file"
    if isinstance(fault, IsADirectoryError):
        # what a container's engine makes where a file to be mounted is missing
        return f"{path} is a folder; allowed is the path of a file"
    if not isinstance(fault, PermissionError):
        return f"{path} cannot be used ({fault.strerror}); allowed is a file on a disk that is well"
    whose = _owner_of(path)
    return f"{path} is closed to user {os.geteuid()}, as whom this runs: {whose}; give it to that user (chown)"


def _owner_of(path: Path) -> str:
    """Whose the first thing is that stands in the way, and its mode."""
    for one in (path, *path.parents):
        try:
            found = one.stat()
        except OSError:
            continue
        what = "it" if one == path else f"{one}"
        return f"{what} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}"
    return "nothing of its path can be seen"

"""Keeps one server for the process that started it: `supervisor.py SIGNAL SECONDS USER COMMAND…`, with words on input.

"s": ask the server with SIGNAL to stop, and kill it when it is still there after SECONDS. "k", or the end of the input
or of the starter: kill -9. It ends when the server and all its children have ended, with STAYED when one of them stays.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

STAYED: Final = 3
ADOPT: Final = 36  # PR_SET_CHILD_SUBREAPER: a process that loses its parent becomes our child
DYING: Final = 30.0  # seconds: a killed process ends at once, unless the machine is stuck


def identity(user: str) -> dict[str, Any]:
    """What `subprocess` needs to run as `user` with no group of ours; nothing for ""."""
    if not user:
        return {}
    import pwd

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def start(user: str, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server, and a pipe whose end comes when no process of it is left: each holds the other side."""
    if sys.platform == "linux":  # elsewhere what a dead server leaves is left to the system, and ends by itself
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
    alive, held = os.pipe()
    os.set_inheritable(held, True)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, **identity(user))  # noqa: S603
    os.close(held)
    return server, alive


def read_word(server: subprocess.Popen[bytes], starter: int) -> bytes:
    """Wait for the starter's word; "" when the starter or the server has ended."""
    while server.poll() is None:
        if select.select([0], [], [], 0.5)[0]:
            return os.read(0, 1)
        if os.getppid() != starter:  # killed, and a fork of it still holds our input open
            break
    return b""


def wait_for_end(alive: int, seconds: float) -> bool:
    """Wait until no process of the server is left; False when one is left after these seconds."""
    return bool(select.select([alive], [], [], seconds)[0])


def kill_all(server: subprocess.Popen[bytes]) -> None:
    """End the server and its children: stopped first, so that none is born unseen."""
    import psutil

    server.send_signal(signal.SIGSTOP)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def reap_children() -> None:
    """Take the dead out of the table of processes: where we run, nobody else may."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


def free_memory(server: subprocess.Popen[bytes]) -> None:
    """A killed PostgreSQL leaves a System V segment to the machine; a file in its folder, where we are, names it."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        said = Path("postmaster.pid").read_text(encoding="ascii").splitlines()
        if int(said[0]) == server.pid:  # else it is of an earlier life, and the number may be somebody else's by now
            ctypes.CDLL(None).shmctl(int(said[6].split()[1]), 0, None)


def main() -> int:
    stop, seconds, user, *command = sys.argv[1:]
    starter = os.getppid()
    server, alive = start(user, command)
    if read_word(server, starter) == b"s":
        server.send_signal(signal.Signals[stop])
        wait_for_end(alive, float(seconds))
    kill_all(server)
    if not wait_for_end(alive, DYING):
        return STAYED
    reap_children()
    free_memory(server)
    return 0


if __name__ == "__main__":
    sys.exit(main())

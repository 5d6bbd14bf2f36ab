"""Keeps one server for the process that started it: `python keeper.py SIGNAL USER COMMAND…`, with a pipe as its input.

"s" on the pipe: ask the server with SIGNAL to stop. The pipe's end, which also comes when the starter is killed:
kill -9. Ends when the server and all it started are gone, or with 1 when something of it would not go.
"""

import os
import select
import signal
import subprocess
import sys
from typing import Any, Final

PATIENCE: Final = 10.0  # seconds for an orderly stop, and then for the dead to be gone


def identity(user: str) -> dict[str, Any]:
    """What `subprocess` needs to run as `user` with no group of ours; nothing for ""."""
    if not user:
        return {}
    import pwd

    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def start(user: str, command: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server, and a pipe whose end comes when no process of it is left: each holds the other side."""
    alive, held = os.pipe()
    os.set_inheritable(held, True)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False, **identity(user))  # noqa: S603
    os.close(held)
    return server, alive


def kill(server: subprocess.Popen[bytes]) -> None:
    """End the server and its children: stopped first, so that none is born unseen."""
    import psutil

    if server.poll() is None:
        server.send_signal(signal.SIGSTOP)
        children = psutil.Process(server.pid).children(recursive=True)
        server.kill()
        for child in children:
            child.kill()


def keep(server: subprocess.Popen[bytes], alive: int, stop: signal.Signals) -> bool:
    """Wait for the server's end or the starter's word; True when nothing of the server is left."""
    ready, _, _ = select.select([0, alive], [], [])
    if alive not in ready and os.read(0, 1):
        server.send_signal(stop)
        ready, _, _ = select.select([alive], [], [], PATIENCE)
    if alive not in ready:
        kill(server)
    ready, _, _ = select.select([alive], [], [], PATIENCE)
    if alive in ready:
        server.wait()  # left unwaited it would stay in the table of processes wherever nobody adopts it
    return alive in ready


def main() -> int:
    stop, user, *command = sys.argv[1:]
    server, alive = start(user, command)
    return 0 if keep(server, alive, signal.Signals[stop]) else 1


if __name__ == "__main__":
    sys.exit(main())

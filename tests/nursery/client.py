"""The side of whoever wants a process: like `subprocess`, and as real as its processes, but born in a hundredth."""

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from tests.nursery.server import PROGRAM

ROOT: Final = Path(__file__).parents[2]
SHARED: Final = "TESTS_SHARED"
_START: Final = 120.0  # seconds until the parent listens, on a busy machine


@cache
def shared() -> Path:
    """The folder that all test processes of a run share; one of this process's own where nobody has named any."""
    if given := os.environ.get(SHARED):
        return Path(given)
    return Path(tempfile.mkdtemp(prefix="leeward-tests-"))


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Only one test process of a run at a time."""
    with (shared() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Process:
    """One process, with the interface of `subprocess.Popen` as far as it is used.

    It ends with whoever asked for it; one that `stays` ends with the last test process of the run.
    """

    def __init__(
        self,
        words: Sequence[object],
        environment: Mapping[str, str],
        *,
        stdin: int | None = None,
        stdout: IO[Any],
        stderr: IO[Any],
        folder: Path | None = None,
        main: str = PROGRAM,
        stays: bool = False,
    ) -> None:
        parent()
        self.returncode: int | None = None
        self._rest = b""
        request = {
            "main": main,
            "words": [str(word) for word in words],
            "environment": dict(environment),
            "folder": str(folder or Path.cwd()),
            "stays": stays,
        }
        self.connection = _connect()
        with open(os.devnull) as nothing:
            handed = [nothing.fileno() if stdin is None else stdin, stdout.fileno(), stderr.fileno()]
            _ask(self.connection, request, handed)
            self.pid = int(self._word(None)["pid"])

    def _word(self, seconds: float | None) -> dict[str, int]:
        """The next thing that the parent says; {} when it says nothing within that time."""
        until = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._rest:
            patience = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self.connection], [], [], patience)[0]:
                return {}
            some = self.connection.recv(4096)
            if not some:
                raise RuntimeError("the parent of the processes has ended")
            self._rest += some
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, int] = json.loads(line)
        return found

    def poll(self) -> int | None:
        """How it ended: its exit code, or minus the signal that killed it; None as long as it runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended.

        Raises:
            subprocess.TimeoutExpired: when it has not within that many seconds.
        """
        found = self._wait(timeout)
        if found is None:
            raise subprocess.TimeoutExpired("leeward", timeout or 0)
        return found

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None and (word := self._word(timeout)):
            self.returncode = word["status"]
            self.connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            self.connection.send(bytes([number]))

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """`kill -9` if it still runs, and wait until it is gone."""
        self.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()


def run(
    words: Sequence[object],
    environment: Mapping[str, str],
    *,
    stdin: int | None = None,
    folder: Path | None = None,
    timeout: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Run `leeward WORDS` to its end; gives what it printed and how it ended."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with Process(words, environment, stdin=stdin, stdout=out, stderr=err, folder=folder) as process:
            code = process.wait(timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*map(str, words)], code, out.read(), err.read())


def _place() -> str:
    return str(shared() / "nursery")


def _connect() -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(_place())
    except OSError:
        made.close()
        raise
    return made


def _ask(connection: socket.socket, request: Mapping[str, Any], handed: Sequence[int] = ()) -> None:
    data = json.dumps(request).encode() + b"\n"
    sent = socket.send_fds(connection, [data], handed) if handed else connection.send(data)
    connection.sendall(data[sent:])


@cache
def parent() -> object:
    """What keeps the parent alive as long as this process lives; starts it where nobody has yet."""
    with lock("nursery"):
        with contextlib.suppress(OSError):
            return _keep_alive()
        Path(_place()).unlink(missing_ok=True)
        given = {name: value for name, value in os.environ.items() if not name.startswith("LEEWARD_")}
        command = [sys.executable, "-m", "tests.nursery.server", _place()]
        with (shared() / "nursery.log").open("ab") as log:
            # in a session of its own, it outlives a Ctrl-C as long as somebody needs it
            started = subprocess.Popen(
                command, cwd=ROOT, env=given, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + _START
        while True:
            with contextlib.suppress(OSError):
                return _keep_alive(), started
            assert started.poll() is None, (shared() / "nursery.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.01)


def _keep_alive() -> socket.socket:
    connection = _connect()
    try:
        _ask(connection, {})
        if not connection.recv(4096):
            raise ConnectionResetError
    except OSError:
        connection.close()
        raise
    return connection

"""What all servers share: a port that stays theirs, a keeper that outlives nobody, and waiting until one answers."""

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

T = TypeVar("T")
KEEPER: Final = Path(__file__).with_name("keeper.py")
# below what systems give out for outgoing connections: a client that tries again and again must not take a dead
# server's port, or connect to itself on it
PORTS: Final = range(15000, 30000)


class ServerError(Exception):
    """A server does not start or does not go; the text is one line."""


class Port:
    """A free port of loopback, kept from other servers of this module on this machine until it is closed."""

    def __init__(self) -> None:
        for number in random.sample(PORTS, 100):
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", number))
                # nothing listens on this: the kernel gives the number of a UDP socket to one process only
                self._claim = socket.socket(type=socket.SOCK_DGRAM)
                self._claim.bind(("127.0.0.1", number))
                self.number = number
                return
        raise ServerError("no free port was found on 127.0.0.1")

    def close(self) -> None:
        self._claim.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end, in a thread of its own: the caller may have a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Server:
    """One server in a folder of its own: `start`, `kill`, `stop`, again and again on the same port and data."""

    NAME: ClassVar[str]
    STOP: ClassVar[str]  # the signal that asks for a quick, orderly end
    PATIENCE: ClassVar[float] = 60.0  # seconds until it must answer, on a busy machine

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self._port: Port | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """Chosen when first asked for, kept until the object goes."""
        if self._port is None:
            self._port = Port()
        return self._port.number

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServerError with what was said last when it does not."""
        if self._keeper is not None and self._keeper.poll() is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._launch()
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """`kill -9` to every process of it, and wait until they are gone."""
        self._end(b"")

    def stop(self) -> None:
        """Ask it to stop, kill it after ten seconds. Nothing of it is left; the data stays."""
        self._end(b"s")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        self.stop()

    def _launch(self) -> None:
        """Prepare the folder where that is needed and call `_keep`."""
        raise NotImplementedError

    async def _answers(self) -> bool:
        """Whether it does what it is for; OSError as long as nobody listens."""
        raise NotImplementedError

    def _keep(self, command: list[str], *, cwd: Path, user: str = "", **options: Any) -> None:
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", str(KEEPER), self.STOP, user, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=cwd,
                # out of reach of a Ctrl-C that is meant for the starter, which then stops it in good order
                start_new_session=True,
                **options,
            )

    def _wait(self) -> None:
        assert self._keeper
        until = time.monotonic() + self.PATIENCE
        while time.monotonic() < until and self._keeper.poll() is None:
            with contextlib.suppress(OSError):
                if run(self._answers()):
                    return
            time.sleep(0.05)
        raise ServerError(f"{self.NAME} does not start on port {self.port}; it said: {self._last_words()}")

    def _last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def _end(self, word: bytes) -> None:
        if self._keeper is None:
            return
        assert self._keeper.stdin
        with contextlib.suppress(BrokenPipeError), self._keeper.stdin as pipe:
            pipe.write(word)
        code, self._keeper = self._keeper.wait(), None
        if code:
            raise ServerError(f"a process of {self.NAME} on port {self.port} does not go")

"""What all servers share: a port that stays theirs, a keeper that outlives nobody, and waiting until one answers."""

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from services.demo.servers.supervisor import STAYED

T = TypeVar("T")
KEEPER: Final = Path(__file__).with_name("supervisor.py")
# below what systems give out for outgoing connections: a client that tries again and again must not take a dead
# server's port, or connect to itself on it
PORTS: Final = range(15000, 30000)


class ServerError(Exception):
    """A server does not start or does not go; the text is one line."""


class Port:
    """A free port of loopback, kept from others of this class on this machine as long as the object lives.

    It is the wanted one where that is free.
    """

    def __init__(self, wanted: int | None = None) -> None:
        first = [] if wanted is None else [wanted]
        for number in (*first, *random.sample(PORTS, 100)):
            # nothing listens on this: the kernel gives the number of a UDP socket to one process only
            claim = socket.socket(type=socket.SOCK_DGRAM)
            try:
                claim.bind(("127.0.0.1", number))
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", number))
            except OSError:
                claim.close()
                continue
            weakref.finalize(self, claim.close)
            self.number = number
            return
        raise ServerError("no free port was found on 127.0.0.1")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end, in a thread of its own: the caller may have a running loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class LocalServer:
    """One server in a folder of its own: `start`, `kill`, `stop`, again and again on the same port and data."""

    NAME: ClassVar[str]
    STOP: ClassVar[str]  # the signal that asks for a quick, orderly end
    grace: int = 10  # seconds for that end
    patience: int = 60  # seconds until it must answer, on a busy machine

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self._port: Port | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """On 127.0.0.1, chosen when first asked for and then the same as long as the object lives."""
        if self._port is None:
            self._port = Port()
        return self._port.number

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self.folder / "log"

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServerError with what it printed last when it does not."""
        if self._keeper is not None and self._keeper.poll() is None:
            return
        self.kill()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._launch()
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """`kill -9` to every process of it, and wait until they are gone."""
        self._end(b"k")

    def stop(self) -> None:
        """Ask it to stop, kill it when it takes too long. Nothing of it is left; the data stays."""
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

    def _keep(self, command: list[str], *, cwd: Path, user: str = "", pass_fds: tuple[int, ...] = ()) -> None:
        with self.log.open("ab") as log:
            self._keeper = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", str(KEEPER), self.STOP, str(self.grace), user, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=cwd,
                pass_fds=pass_fds,
                # out of reach of a Ctrl-C that is meant for the starter, which then stops it in good order
                start_new_session=True,
            )

    def _wait(self) -> None:
        until = time.monotonic() + self.patience
        while time.monotonic() < until and self._keeper is not None and self._keeper.poll() is None:
            with contextlib.suppress(OSError):
                if run(asyncio.wait_for(self._answers(), 5)):
                    return
            time.sleep(0.05)
        lines = self.log.read_text(errors="replace").splitlines()
        said = " | ".join([line for line in lines if not line[:1].isspace()][-5:])  # without where in Java it was
        raise ServerError(f"{self.NAME} does not answer on port {self.port}; it said: {said}")

    def _end(self, word: bytes) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin
        with contextlib.suppress(BrokenPipeError), keeper.stdin as pipe:
            pipe.write(word)
        if keeper.wait() == STAYED:
            raise ServerError(f"a process of {self.NAME} on port {self.port} does not go")

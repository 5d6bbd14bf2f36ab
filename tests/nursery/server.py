"""The parent: `python -m tests.nursery.server SOCKET`, with one connection for each process it is asked for.

Loading the program takes more than a second of a core, forking it a hundredth.

A request is a line of JSON and three file descriptors: {"main": "module:function", "words", "environment", "folder"}.
The answer is {"pid": number}, and when the process has ended {"status": exit code or minus the signal}. Each byte that
follows a request is a signal for the process, and the end of the connection its `kill -9`, unless the request says
{"stays": true}: such a process ends with the parent. A request without words is answered and keeps the parent alive,
which ends with its last connection.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final

PRELOADED: Final = (
    "aiokafka.admin",
    "alembic.command",
    "alembic.runtime.migration",
    "leeward.bus.kafka",
    "leeward.bus.topics",
    "leeward.runtime",
    "leeward.store.postgresql",
    "services.__main__",
    "services.commands.operate.access",
    "services.commands.operate.running",
    "services.commands.operate.status",
    "services.commands.people.rota",
    "services.commands.people.staff",
    "services.commands.sources.fhir",
    "services.demo.command",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
PROGRAM: Final = "services.__main__:main"
_DIE_WITH_PARENT: Final = 1  # prctl(2), PR_SET_PDEATHSIG
_PATIENCE: Final = 10.0  # seconds for a request to be whole


def preload() -> None:
    """Import everything that a process may need."""
    from services.commands import catalogue

    gc.disable()
    for module in PRELOADED:
        importlib.import_module(module)
    catalogue.load()
    gc.collect()
    gc.freeze()
    gc.enable()


class Nursery:
    """Listens, forks and buries."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._asking: dict[socket.socket, int] = {}  # 0: none of its own, or one that has ended
        self._staying: set[int] = set()
        self._woken, wake = os.pipe()
        for end in (self._woken, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def run(self) -> None:
        """Until the last of those who asked has gone."""
        assert threading.active_count() == 1, "a fork takes only one thread along"
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._greet()
                elif key.fileobj == self._woken:
                    os.read(self._woken, 4096)
                    self._bury()
                elif isinstance(key.fileobj, socket.socket):
                    self._hear(key.fileobj)
            if not self._asking:
                return

    def _greet(self) -> None:
        asking, _ = self._listener.accept()
        asking.settimeout(_PATIENCE)
        try:
            request, handed = _read_request(asking)
        except (OSError, ValueError):
            asking.close()
            return
        pid = 0
        if "words" in request:
            main = _function(request["main"])  # loaded here, once for all who ask for it
            pid = os.fork()
            if pid == 0:
                live(request, handed, main)
            for one in handed:
                os.close(one)
        if request.get("stays"):
            self._staying.add(pid)
        self._asking[asking] = pid
        self._selector.register(asking, selectors.EVENT_READ)
        self._say(asking, pid=pid)

    def _hear(self, asking: socket.socket) -> None:
        try:
            numbers = asking.recv(64)
        except OSError:
            numbers = b""
        pid = self._asking[asking]
        for number in numbers or bytes([signal.SIGKILL]):
            if pid and (numbers or pid not in self._staying):
                os.kill(pid, number)
        if not numbers:
            self._selector.unregister(asking)
            asking.close()
            del self._asking[asking]

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for asking, child in self._asking.items():
                if child == pid:
                    self._asking[asking] = 0
                    self._say(asking, status=os.waitstatus_to_exitcode(status))

    def _say(self, asking: socket.socket, **word: int) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone; the end of the connection says so too
            asking.sendall(json.dumps(word).encode() + b"\n")


def _read_request(asking: socket.socket) -> tuple[Mapping[str, Any], list[int]]:
    data, handed, _, _ = socket.recv_fds(asking, 1 << 16, 3)
    while not data.endswith(b"\n"):
        more = asking.recv(1 << 16)
        if not more:
            raise ValueError("a request that is not whole")
        data += more
    return json.loads(data), handed


def live(request: Mapping[str, Any], handed: list[int], main: Callable[[], object]) -> None:
    """The child's whole life; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for given, wanted in zip(handed, (0, 1, 2), strict=True):
            os.dup2(given, wanted)
        os.closerange(3, 1024)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["leeward", *request["words"]]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _function(place: str) -> Callable[[], object]:
    module, _, name = place.partition(":")
    found: Callable[[], object] = getattr(importlib.import_module(module), name)
    return found


def listen(place: str) -> socket.socket:
    """The socket, with room for everybody who asks at once."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen(128)
    return listener


if __name__ == "__main__":
    preload()
    Nursery(listen(sys.argv[1])).run()

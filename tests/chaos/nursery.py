"""Processes born ready: a parent that has imported everything forks each process of the chaos run.

Loading the program takes two seconds of a core, forking it a hundredth; what runs is `tests.chaos.process` all the
same.

Lines of JSON on the input: {"words", "environment", "log"} to start one, {"pid", "signal"} to send it a signal; on the
output {"born": pid} in the order of the starts, and {"gone": pid, "status": exit code or minus the signal}. The end of
the input is the end of all.
"""

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, Final

from services.commands import catalogue

PRELOADED: Final = (
    "aiokafka.admin",
    "alembic.command",
    "alembic.runtime.migration",
    "leeward.bus.kafka",
    "leeward.bus.topics",
    "leeward.runtime",
    "leeward.store.postgresql",
    "services.commands.people.rota",
    "services.commands.operate.running",
    "services.commands.people.staff",
    "tests.chaos.process",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
_DIE_WITH_PARENT: Final = 1  # prctl(2), PR_SET_PDEATHSIG


def preload() -> None:
    """Everything that a process may need, so that it need not load it."""
    for module in PRELOADED:
        importlib.import_module(module)
    catalogue.load()
    gc.collect()
    gc.freeze()


class Nursery:
    """The parent's side."""

    def __init__(self) -> None:
        self._children: set[int] = set()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the input ends."""
        assert threading.active_count() == 1, "a fork takes only one thread along"
        say(ready=True)
        rest = b""
        while True:
            ready = select.select([0, self._woken], [], [])[0]
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._bury()
            if 0 in ready:
                some = os.read(0, 1 << 20)
                if not some:
                    break
                *lines, rest = (rest + some).split(b"\n")
                for line in lines:
                    self._do(json.loads(line))
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _do(self, order: Mapping[str, Any]) -> None:
        if "words" in order:
            self._bear(order)
        elif order["pid"] in self._children:
            os.kill(order["pid"], order["signal"])

    def _bear(self, order: Mapping[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            live(order)
        self._children.add(pid)
        say(born=pid)

    def _bury(self) -> None:
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self._children.discard(pid)
                say(gone=pid, status=os.waitstatus_to_exitcode(status))


def say(**word: Any) -> None:
    os.write(1, json.dumps(word).encode() + b"\n")


def live(order: Mapping[str, Any]) -> None:
    """The child's whole life; never returns."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _connect(order["log"])
        os.environ.clear()
        os.environ.update(order["environment"])
        code = _run(order["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(words: list[str]) -> int:
    from tests.chaos import process

    try:
        process.main(words)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _connect(log: str) -> None:
    nothing, written = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for given, wanted in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(given, wanted)


if __name__ == "__main__":
    preload()
    Nursery().run()

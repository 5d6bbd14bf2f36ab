"""Ports: taken before anything starts to serve, so that one that is not ours stops the start with one line."""

import contextlib
import resource
import socket
from typing import Final

from leeward.settings import SettingsError

BACKLOG: Final = 2048
FILES: Final = 65536


def listening(host: str, port: int, variable: str) -> socket.socket:
    """A listening TCP socket; `variable` is the LEEWARD_ setting, without its prefix, that names the port.

    Raises:
        SettingsError: when the port is taken or not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # taken from now on: two that are only bound would both go on to fail later
        bound.listen(BACKLOG)
    except OSError as fault:
        bound.close()
        if isinstance(fault, socket.gaierror):
            raise SettingsError("LEEWARD_HOST: is no address of this machine; allowed is an IP address") from None
        raise SettingsError(f"LEEWARD_{variable}: {port} cannot be used ({fault.strerror})") from None
    bound.setblocking(False)
    return bound


def allow_files() -> int:
    """Let this process have as many open files as the system grants it; gives how many.

    A login shell's 1,024 would be all that thousands of connections get.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

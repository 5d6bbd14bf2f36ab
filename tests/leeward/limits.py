"""A disk that takes no more, for this process or another: no file may grow beyond a size."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room(size: int = 1024 * 1024, pid: int = 0) -> Iterator[None]:
    """No file of the process may grow beyond so many bytes; writing more is EFBIG, as a quota that is used up."""
    before = resource.prlimit(pid or os.getpid(), resource.RLIMIT_FSIZE)
    resource.prlimit(pid or os.getpid(), resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid or os.getpid(), resource.RLIMIT_FSIZE, before)

"""Copies of the databases: taken while the system runs, put back whole, and never what was erased since."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Literal, Protocol

from sqlalchemy import Connection

from leeward.settings import ServiceName, Settings

# a table that says so of a database
RESTORE_UNFINISHED: Final = "restore_unfinished"
Mode = Literal["embedded", "postgresql"]
Connect = Callable[[ServiceName], AbstractContextManager[Connection]]


class CopyFailed(Exception):
    """A copy could not be made or put back: one line that says why, and what to do."""


class DatabaseInUse(Exception):
    """Somebody has this database open; the text is the service's name."""


class Snapshot(Protocol):
    """What one database holds at one moment, however long it is looked at. Nobody waits for it.

    `conn` reads as of that moment.
    """

    conn: Connection

    def copy(self, left_out: Collection[str]) -> None:
        """Write the copy; of the tables left out the definition alone.

        Raises:
            CopyFailed: when it cannot be written.
        """
        ...


class Copies(Protocol):
    """How databases of one kind are copied and put back. `suffix` is that of a copy's file.

    Between `begin` and `finish` no service starts; what is put back is reached by the settings `staged`.
    """

    mode: Mode
    suffix: str
    staged: Settings

    def snapshot(self, service: ServiceName, target: Path) -> AbstractContextManager[Snapshot]:
        """The moment of one database, to be copied to a file that is not there yet."""
        ...

    def check_idle(self) -> None:
        """See that no service uses its database.

        Raises:
            DatabaseInUse: when one does.
        """
        ...

    def begin(self) -> None:
        """Let no service start from here on."""
        ...

    def put_back(self, service: ServiceName, copy: Path) -> None:
        """Bring a copy to where `staged` finds it.

        Raises:
            CopyFailed: when it cannot be read, or not be written there.
        """
        ...

    def finish(self) -> None:
        """Let services start on what was put back."""
        ...

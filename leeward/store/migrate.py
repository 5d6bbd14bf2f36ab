"""Migrations: each service's own, under `services/<name>/migrations`, run by Alembic on one connection.

A revision's file begins with its number (`0001_initial.py`), and a database that is at the highest one is left alone
before Alembic is loaded: a start must not wait for it.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, MetaData, inspect, text

if TYPE_CHECKING:
    from alembic.config import Config


def migrate(conn: Connection, package: str, metadata: MetaData) -> bool:
    """Bring a database to the newest revision of `package` (such as `services.incident`), inside the transaction given.

    Returns:
        Whether anything had to change.
    """
    if up_to_date(conn, package):
        return False
    from alembic import command

    command.upgrade(alembic_config(package, metadata, conn), "head")
    return True


def up_to_date(conn: Connection, package: str) -> bool:
    """Whether a database is at the newest revision of `package`, or at a later one of a newer release."""
    return stored_revision(conn) >= newest_revision(package)


def newest_revision(package: str) -> str:
    """The number of the newest revision of `package`."""
    return max((path.name.partition("_")[0] for path in _folder(package).glob("[0-9]*.py")), default="")


def stored_revision(conn: Connection) -> str:
    """The revision that a database is at, empty where it has none."""
    if not inspect(conn).has_table("alembic_version"):
        return ""
    return conn.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def _folder(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent / "migrations"


def drift(conn: Connection, metadata: MetaData) -> list[Any]:
    """What the models say and the database does not, as Alembic's operations; empty when they agree."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(conn, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def revise(conn: Connection, package: str, metadata: MetaData, message: str, revision: str) -> None:
    """Write a new revision from the difference between models and database; for developers (`make revision`)."""
    from alembic import command

    command.revision(alembic_config(package, metadata, conn), message, autogenerate=True, rev_id=revision)


def alembic_config(package: str, metadata: MetaData, conn: Connection) -> "Config":
    """Alembic's configuration for one service; there is no alembic.ini."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("version_locations", str(_folder(package)))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(connection=conn, metadata=metadata)
    return config

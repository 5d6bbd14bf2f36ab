"""Migrations: each service's own, under `services/<name>/migrations`, run by Alembic on one connection."""

import importlib
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData


def migrate(engine: Engine, package: str, metadata: MetaData) -> bool:
    """Bring a database to the newest revision of `package` (such as `services.incident`).

    Returns:
        Whether anything had to change.
    """
    with engine.connect() as conn:
        config = alembic_config(package, metadata, conn)
        newest = ScriptDirectory.from_config(config).get_current_head()
        if MigrationContext.configure(conn).get_current_revision() == newest:
            return False
        command.upgrade(config, "head")
        conn.commit()
    return True


def drift(engine: Engine, metadata: MetaData) -> list[Any]:
    """What the models say and the database does not, as Alembic's operations; empty when they agree."""
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def revise(engine: Engine, package: str, metadata: MetaData, message: str, revision: str) -> None:
    """Write a new revision from the difference between models and database; for developers (`make revision`)."""
    with engine.connect() as conn:
        config = alembic_config(package, metadata, conn)
        command.revision(config, message, autogenerate=True, rev_id=revision)


def alembic_config(package: str, metadata: MetaData, conn: Connection) -> Config:
    """Alembic's configuration for one service; there is no alembic.ini."""
    module = importlib.import_module(package)
    versions = Path(str(module.__file__)).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("version_locations", str(versions))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(connection=conn, metadata=metadata)
    return config

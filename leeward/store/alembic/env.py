"""Alembic's entry: runs the migrations of the service whose connection and metadata were handed over."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlmodel import AutoString

from leeward.store.types import UtcTime


def rendered(kind: str, value: Any, autogen: AutogenContext) -> str | Literal[False]:
    """How a new revision writes column types that are not SQLAlchemy's own."""
    if kind == "type" and isinstance(value, UtcTime):
        autogen.imports.add("from leeward.store import UtcTime")
        return "UtcTime()"
    if kind == "type" and isinstance(value, AutoString):
        return f"sa.String(length={value.length})" if value.length else "sa.String()"
    return False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    render_as_batch=True,
    compare_type=True,
    render_item=rendered,
)
with context.begin_transaction():
    context.run_migrations()

"""A service's own database: one transaction a batch, an outbox written last, an inbox read first, timers as rows."""

from leeward.store.bulk import Insert, Update
from leeward.store.engine import Store
from leeward.store.group import Group, StoreUnavailable
from leeward.store.sqlite import SqliteStore
from leeward.store.tables import GroundTables, ground_tables, table_of
from leeward.store.timers import Timer
from leeward.store.types import UtcTime
from leeward.store.unit import Unit

__all__ = [
    "GroundTables",
    "Group",
    "Insert",
    "SqliteStore",
    "Store",
    "StoreUnavailable",
    "Timer",
    "Unit",
    "Update",
    "UtcTime",
    "ground_tables",
    "table_of",
]

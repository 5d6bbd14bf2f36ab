"""Key checks: each database keeps a value of every key that has made something in it, and takes no other key."""

from collections.abc import Iterator

from sqlalchemy import Connection, Table, select

from leeward.settings import SERVICES, ServiceName, Settings, SettingsError
from leeward.settings.keys import KeyName, check_value, foreign_key, found_key, lost_key
from leeward.store import Unit
from leeward.store.sqlite import holds_rows


def kept_value(conn: Connection, table: Table, name: KeyName) -> str | None:
    """The check value of a key that a database keeps; None where it has not seen one."""
    found: str | None = conn.execute(select(table.c.value).where(table.c.name == name)).scalar()
    return found


def kept_values(conn: Connection, table: Table) -> dict[KeyName, str]:
    """The check values that a database keeps, by the name of the key."""
    return {row.name: row.value for row in conn.execute(select(table.c.name, table.c.value))}


def compare_key(conn: Connection, table: Table, settings: Settings, name: KeyName, key: bytes) -> bool:
    """Whether a database knows this key; False where it has not seen one of that name.

    Args:
        table: its `key_check`.

    Raises:
        SettingsError: where it was made with another key.
    """
    kept = kept_value(conn, table, name)
    if kept is not None and kept != check_value(key, name):
        raise SettingsError(foreign_key(settings, name))
    return kept is not None


def hold_key(unit: Unit, settings: Settings, name: KeyName, key: bytes) -> None:
    """Compare a key with the one that a database was made with; the first one it sees is that one.

    Raises:
        SettingsError: see `compare_key`.
    """
    table = unit.tables.key_check
    if not compare_key(unit.conn, table, settings, name, key):
        unit.writes.key_check.run(unit.conn, [(name, check_value(key, name))])
        # of two that are first at once one has stored its own
        compare_key(unit.conn, table, settings, name, key)


def key_faults(settings: Settings, service: ServiceName, conn: Connection, table: Table) -> Iterator[str]:
    """What is wrong with the keys of one database, a line each; keys that are not given here are left out."""
    names: tuple[KeyName, ...] = (service, "people")
    for name in names:
        try:
            key = found_key(settings, name)
            if key is not None:
                compare_key(conn, table, settings, name, key)
            elif settings.embedded and _is_needed(settings, service, conn, table, name):
                raise SettingsError(lost_key(settings, name))
        except SettingsError as fault:
            yield str(fault)


def _is_needed(settings: Settings, service: ServiceName, conn: Connection, table: Table, name: KeyName) -> bool:
    if name in SERVICES:
        return holds_rows(settings.database_file(service), name)
    return kept_value(conn, table, name) is not None

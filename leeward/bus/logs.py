"""A log's identity: random, kept in the database that holds the log, and another one after every restore."""

from sqlalchemy import Connection, MetaData, select

from leeward.refs import new_ref
from leeward.store import ground_tables


def log_identity(conn: Connection, metadata: MetaData) -> str:
    """Who the log in this database is."""
    return str(conn.execute(select(ground_tables(metadata).log.c.identity)).scalar_one())


def renew_log(conn: Connection, metadata: MetaData) -> str:
    """Make the log in this database another one, inside the transaction given, and give its new identity.

    To be called for every database that was put back from a copy: whoever reads it begins again and raises an alarm.
    """
    made = new_ref()
    conn.execute(ground_tables(metadata).log.update().values(identity=made))
    return made

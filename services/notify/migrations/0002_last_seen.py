"""The last time that the clock was trusted, and when each timer was set."""

from leeward.store.ground_changes.last_seen import downgrade, upgrade

__all__ = ["downgrade", "upgrade"]

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

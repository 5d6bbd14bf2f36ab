"""Which keys have made what is stored."""

from leeward.store.ground_changes.key_check import downgrade, upgrade

__all__ = ["downgrade", "upgrade"]

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

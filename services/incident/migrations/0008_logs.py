"""Identities of logs, positions that name them, and leases."""

from leeward.store.ground_changes.logs import downgrade, upgrade

__all__ = ["downgrade", "upgrade"]

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

"""The people that matching knows, their shifts, and how both are imported."""

"""The hospital that does not exist, and what it runs on."""

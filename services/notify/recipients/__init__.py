"""Who can be written to, under which name and address."""

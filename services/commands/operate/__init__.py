"""Commands that run the system and look after it."""

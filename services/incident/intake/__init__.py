"""One group commit for all that sources say: looked up, decided, written with its events."""

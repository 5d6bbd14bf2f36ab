"""The life of a case: pure transitions, and the hours they count in. No I/O."""

"""From a request to a hand-off: when it may leave, who takes it up, what became of it."""

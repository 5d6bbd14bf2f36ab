"""Chaos: a stream of incidents while processes, the broker and the database are killed, and what must hold after it."""

"""Cases in the database: read, carried through a transition, written with its effects."""

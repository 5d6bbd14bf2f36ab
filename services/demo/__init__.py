"""The demonstration: a hospital that does not exist, on the real system, with time that can be let pass."""

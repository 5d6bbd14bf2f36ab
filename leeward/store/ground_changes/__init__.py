"""Changes of the tables that every service has: each is one step, which a revision of every service takes."""

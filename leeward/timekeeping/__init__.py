"""What keeps a wrong clock from doing harm: a guarded clock, the last time it was trusted, and putting times right."""

"""The story, and who plays it."""

"""What the coordinator sees and does."""

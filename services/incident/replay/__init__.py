"""Stored messages decided again after a rule was mended; tried without effect first."""

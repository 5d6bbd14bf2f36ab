"""Processes that are forked from a parent which has imported the services, instead of being started from nothing."""

from tests.nursery.client import Process, lock, run, shared

__all__ = ["Process", "lock", "run", "shared"]

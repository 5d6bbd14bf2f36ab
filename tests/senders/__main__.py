"""Fetch the packages, so that no test waits for the registry."""

from tests.senders import packages

if __name__ == "__main__":
    packages()

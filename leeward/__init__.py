"""The ground the services stand on."""

__version__ = "0.1.0"

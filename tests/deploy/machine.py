"""The containers of docker-compose.yml as processes here: the same commands, settings, secrets and networks."""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from leeward.settings import PORTS
from services.demo.servers import Kafka, PostgreSQL
from services.demo.servers.server import Port
from tests import nursery
from tests.deploy.clusters import prepare
from tests.deploy.compose import SERVICES, environment, meet, on_this_machine, runs_leeward

ALIASES = {"issuer.localhost": "issuer"}


class Broker(Kafka):
    """Kafka with the variables that Compose gives it, put into a file by the program that does so in the image."""

    def _run(self, program: list[str], *options: str) -> None:
        configuration = self.folder / "config"
        if not configuration.exists():
            configuration.mkdir()
            kinds = ("default", "mounted", "final")
            places = [part for kind in kinds for part in (f"--{kind}-configs-dir", str(configuration))]
            command = [*program, "kafka.docker.KafkaDockerWrapper", "setup", *places]
            done = subprocess.run(command, env=self.variables(), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr + done.stdout
        self._keep([*program, *options, "kafka.Kafka", str(configuration / "server.properties")], cwd=self.folder)

    def variables(self) -> dict[str, str]:
        """What Compose gives the container, with the places of this machine."""
        there = {"//:9092": "//kafka:9092", "kafka:9092": f"127.0.0.1:{self.port}", "/var/lib/kafka": str(self.folder)}
        there["localhost:9093"] = f"127.0.0.1:{self._controller.number}"
        found = {"CLUSTER_ID": "bGVld2FyZC1kZW1vLTAwMA", **environment("kafka")}
        for place, here in there.items():
            found = {key: value.replace(place, here) for key, value in found.items()}
        return found


class Machine:
    """What Compose would run, in folders of its own. A name leads where the networks let it, else to a closed port."""

    def __init__(self, folder: Path, secrets: Path, policy: Path) -> None:
        self.folder = folder
        self._secrets = secrets
        self._policy = policy
        self.kafka = Broker(folder / "kafka")
        self._clusters = {name: PostgreSQL(folder / name) for name in ("postgres", "postgres-box")}
        self._ports = {name: Port() for name in (*PORTS, "closed", "mllp")}
        self._running: dict[str, nursery.Process] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.kafka)
            for name, cluster in self._clusters.items():
                stack.enter_context(cluster)
                given = tuple(one for one in SERVICES[name]["secrets"] if one.endswith("_url"))
                prepare(cluster, self._secrets, self.folder / f"{name}-secrets", given)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_fault: object) -> None:
        for running in self._running.values():
            running.close()
        self._held.close()

    def url(self, name: str, path: str = "") -> str:
        """Where a service is published."""
        return f"http://127.0.0.1:{self._ports[name].number}{path}"

    @property
    def mllp(self) -> int:
        return self._ports["mllp"].number

    def _port(self, caller: str, host: str) -> int:
        """The port that stands for a host, as this caller sees it."""
        if not meet(caller, host):
            return self._ports["closed"].number
        servers = {"kafka": self.kafka, **self._clusters}
        return servers[host].port if host in servers else self._ports[host].number

    def _here(self, caller: str, text: str) -> str:
        """A text with every host and port of Compose replaced by those of this machine."""
        published = {str(port): name for name, port in PORTS.items()}

        def place(found: re.Match[str]) -> str:
            host, port = ALIASES.get(found[1], found[1]), found[2]
            if host == "127.0.0.1":
                return f"127.0.0.1:{self._ports[published[port]].number}"
            return f"127.0.0.1:{self._port(caller, host)}"

        return re.sub(r"(?<=[/@])([a-z][\w.-]*|127\.0\.0\.1):(\d+)(?![\w@])", place, text)

    def environment(self, name: str) -> dict[str, str]:
        """What a service's process is given: its variables, and a folder with its secrets alone."""
        given = self.folder / "given" / name
        given.mkdir(parents=True, exist_ok=True)
        for secret in SERVICES[name]["secrets"]:
            text = (self._secrets / secret).read_text(encoding="utf-8")
            (given / secret).write_text(self._here(name, text) if "_database_" in secret else text, encoding="utf-8")
        found = {key: self._here(name, value) for key, value in on_this_machine(name, given, self._policy).items()}
        ports = {f"LEEWARD_{one.upper()}_PORT": str(self._ports[one].number) for one in PORTS if one == name}
        return {"PATH": os.environ["PATH"], **found, **ports, "LEEWARD_MLLP_PORT": str(self.mllp)}

    def command(self, name: str, *words: str) -> str:
        """Run a service that ends: `docker compose run --rm NAME WORDS`; gives what it printed."""
        assert runs_leeward(name)
        words = words or tuple(SERVICES[name]["command"])
        done = nursery.run(words, self.environment(name), folder=self.work, timeout=200)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        return done.stdout

    @property
    def work(self) -> Path:
        """Where everything runs; containers cannot write, so nothing may be written here."""
        folder = self.folder / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def start(self, name: str) -> None:
        """Start a service that stays."""
        command = SERVICES[name]["command"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = nursery.Process(
                command, self.environment(name), stdout=log, stderr=log, folder=self.work
            )

    def healthy(self, name: str) -> bool:
        """What Compose would hear from the service's health check."""
        assert self._running[name].poll() is None, self.said(name)
        program, *words = SERVICES[name]["healthcheck"]["test"][1:]
        assert program == "python"
        words = [word.replace(f", {PORTS[name]})", f", {self._ports[name].number})") for word in words]
        return subprocess.run([sys.executable, *words], capture_output=True).returncode == 0

    def said(self, name: str) -> str:
        """What a service logged."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")

    def stop(self) -> dict[str, int]:
        """SIGTERM to all at once; gives their exit codes."""
        for running in self._running.values():
            running.terminate()
        return {name: running.wait(40) for name, running in self._running.items()}

    def get(self, name: str, path: str, token: str = "") -> httpx.Response:
        """Ask a service, as whoever has this token."""
        return httpx.get(self.url(name, path), headers={"Authorization": f"Bearer {token}"} if token else {})

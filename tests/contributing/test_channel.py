"""CONTRIBUTING, "A channel": followed step by step in a copy of the tree, somebody is reached by it."""

import json
from pathlib import Path
from typing import Final

import pytest

from leeward.testing import wait_until
from tests.contributing.copies import command, copy_into, started
from tests.e2e.harness import Member, death, write_roster

SPOOL: Final = '''"""A file for each letter, in a folder from which a pager's gateway takes them."""

import os
from pathlib import Path
from typing import Final

from leeward.settings import Settings
from services.notify.channels import ChannelEntry, ChannelFinding, Letter, Now, Result
from services.notify.channels.wording import wording


class Spool:
    """Hands letters over by renaming them into the folder; the same letter again is the same file."""

    def __init__(self, folder: Path, public_url: str) -> None:
        self._folder = folder
        self._public_url = public_url

    async def send(self, letter: Letter[str], lane: int) -> Result:
        words = wording(letter.kind, letter.locale)
        text = words.body.format(link=letter.link(self._public_url), code=letter.token)
        draft = self._folder / f".{lane}"
        draft.write_text(f"{letter.address}\\n{text}")
        os.replace(draft, self._folder / f"{letter.key}.txt")
        return Result.TAKEN

    async def close(self) -> None:
        """Nothing is kept open."""


def _make(settings: Settings, _now: Now, _lanes: int) -> Spool:
    assert settings.channels.spool is not None  # it is on
    return Spool(Path(settings.channels.spool.folder), settings.public_url)


async def _check(settings: Settings) -> list[ChannelFinding]:
    assert settings.channels.spool is not None
    if Path(settings.channels.spool.folder).is_dir():
        return []
    return [ChannelFinding("error", "channels.spool.folder is not a folder", "make it")]


SPOOL: Final[ChannelEntry[str]] = ChannelEntry(
    name="spool",
    turned_on_by="channels.spool",
    is_on=lambda settings: settings.channels.spool is not None,
    required={"SPOOL_SECRET": "channels.spool opens the gateway with it"},
    address=lambda contact: contact.mobile,
    lanes=1,
    repeats_in_doubt=3,
    make=_make,
    check=_check,
)
'''
SECTION: Final = '''class SpoolChannel(ChannelSection):
    """[channels.spool]: a folder of letters."""

    secrets: ClassVar[Mapping[str, SecretForm]] = {"SPOOL_SECRET": "whsec"}
    folder: str


class Channels(Section):'''
SECRET: Final = "whsec_" + "A" * 43 + "="


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} no longer reads as CONTRIBUTING says"
    path.write_text(text.replace(old, new))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy with one channel more: a file, a line of the registry, a section of the policy."""
    tree = copy_into(tmp_path)
    (tree / "services/notify/channels/spool.py").write_text(SPOOL)
    registry, policy = tree / "services/notify/channels/registry.py", tree / "leeward/settings/policy.py"
    replace_once(registry, "= (EMAIL, WEBHOOK)", "= (EMAIL, WEBHOOK, SPOOL)")
    replace_once(
        registry,
        "from services.notify.channels.webhook import WEBHOOK\n",
        "from services.notify.channels.spool import SPOOL\nfrom services.notify.channels.webhook import WEBHOOK\n",
    )
    replace_once(policy, "class Channels(Section):", SECTION)
    replace_once(
        policy,
        "    webhook: WebhookChannel | None = None\n",
        "    webhook: WebhookChannel | None = None\n    spool: SpoolChannel | None = None\n",
    )
    (tree / "spool").mkdir()
    (tree / "leeward.toml").write_text(
        f'[outreach]\nmode = "live"\nquiet_hours = ""\njitter = "0s"\n[channels.spool]\nfolder = "{tree / "spool"}"\n'
    )
    return tree


def run(tree: Path, *words: str, **variables: str) -> tuple[int, str]:
    process = command(tree, *words, **variables)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def test_a_channel_is_a_file_a_line_and_a_section(tree: Path) -> None:
    variables = {"LEEWARD_SPOOL_SECRET": SECRET, "LEEWARD_CLOCK": "2026-11-21T09:00:00Z"}
    write_roster(tree / "roster.csv", [Member("S1"), Member("S2", unit="ED", supporter=True)])
    (tree / "death.hl7").write_text(death("C1", "S1"))
    with started(tree, "up", **variables) as at:
        assert run(tree, "staff", "import", "roster.csv", **variables)[0] == 0
        sent, said = run(tree, "hl7", "send", "death.hl7", "--port", at["mllp"], **variables)
        assert sent == 0, said
        letters = wait_until(lambda: list((tree / "spool").glob("*.txt")), 20)
    [letter] = letters
    number, text = letter.read_text().split("\n", 1)
    assert number == "+44 20 7946 0000"
    assert "You have a message. Open it when it suits you." in text
    assert "/m/" in text


def test_the_doctor_and_the_start_know_it_by_its_entry(tree: Path) -> None:
    (tree / "spool").rmdir()
    _, said = run(tree, "doctor", "--json", LEEWARD_SPOOL_SECRET=SECRET)
    assert "channels.spool.folder is not a folder" in json.dumps(json.loads(said))
    code, said = run(tree, "up")
    assert code == 1
    assert said == "LEEWARD_SPOOL_SECRET: is missing; channels.spool opens the gateway with it\n"
    assert not (tree / "data").exists()

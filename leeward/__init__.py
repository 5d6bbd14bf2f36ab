"""The ground the services stand on."""

import sys

# httpx loads rich, click and pygments for a command line of its own: a twelfth of the time that a start takes
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # None is how Python is told so

__version__ = "0.1.0"

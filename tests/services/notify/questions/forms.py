"""Forms as they are sent, and what a page as served offers."""

import re
from typing import Final

ACCEPT: Final = {"answer": "accept", "when": "hours", "how": "mobile"}
CODED: Final = {"channel": "phone", "duration": "15_45", "contacts": "2", "referral": "none", "strain": "4"}
CLOSE: Final = {"answer": "close", **CODED}


def answers_on(page: str) -> list[str]:
    """The answers that the page has buttons for, in their order."""
    return re.findall(r'<button[^>]*name="answer" value="([a-z_]+)"', page)

"""The words of the messages themselves, one catalogue a locale. DESIGN §6 lists what they never hold."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from leeward.web.look.catalogues import catalogue
from leeward.web.look.languages import negotiated
from services.notify.channels import Wording

TEMPLATES: Final = Path(__file__).parents[1] / "templates"


@cache
def wording(kind: str, locale: str) -> Wording:
    """Subject and body of a letter: of a `message` (also a new link), a `code`, or a `call` for the professional."""
    texts = catalogue(TEMPLATES, locale)
    return Wording(str(texts[f"mail.{kind}.subject"]), str(texts[f"mail.{kind}.body"]))


@lru_cache(maxsize=1024)
def locale_for(languages: str, locales: tuple[str, ...]) -> str:
    """The first enabled locale among somebody's languages (BCP 47, by their first part as well), else the default."""
    return negotiated(languages.split(), locales)

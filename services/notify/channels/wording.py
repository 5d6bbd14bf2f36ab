"""The words of the messages themselves, one catalogue a locale. DESIGN §6 lists what they never hold."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from leeward.web.look import catalogue
from services.notify.channels import Wording

TEMPLATES: Final = Path(__file__).parents[1] / "templates"


@cache
def wording(kind: str, locale: str) -> Wording:
    """Subject and body of a letter: of a `message` (also a new link), a `code`, or a `call` for the professional."""
    texts = catalogue(TEMPLATES, locale)
    return Wording(str(texts[f"mail.{kind}.subject"]), str(texts[f"mail.{kind}.body"]))


def locale_for(languages: str, locales: Sequence[str]) -> str:
    """The first enabled locale among somebody's languages (BCP 47, by their first part as well), else the default."""
    for language in languages.split():
        for tag in (language, language.split("-", maxsplit=1)[0]):
            if tag in locales:
                return tag
    return locales[0]

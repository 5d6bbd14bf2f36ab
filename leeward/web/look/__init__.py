"""The common look of every page a person, supporter or coordinator meets (VOICE §Look).

A service keeps its templates in a folder, with one ``<locale>.toml`` of texts beside them::

    PAGES = pages(Path(__file__).parent / "templates", context.settings)
    return PAGES.render(request, "offer.html", greeting="...")

Templates extend ``base.html`` (a person's page: *Leave this page* on top, *I need somebody now* last) or ``work.html``
(coordinator and trainer), import ``parts.html`` and find in their context:

* ``t("group.key", name=...)``: a text of the locale; the service's catalogue adds to the one of the look
* ``dated(day)``: a date as the locale writes it
* ``locale``, ``dir``, ``public_url``, ``box_url``
* ``emergency``, ``crisis_lines``, ``on_call``, ``referrals``, ``concerns``: from the policy file, for the locale

No script, style or address stands in the markup itself, so a content policy without ``unsafe-inline`` holds.
"""

from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leeward.settings import Settings
from leeward.web.look.catalogues import ENGLISH, catalogue
from leeward.web.look.languages import dated, direction, plural_form, preferred

LOOK = Path(__file__).parent


def dialled(number: str) -> str:
    """A phone number as it stands in a ``tel:`` address (RFC 3966): digits, with a leading plus if it has one."""
    digits = "".join(character for character in number if character.isdigit() or character in "*#")
    return f"+{digits}" if number.strip().startswith("+") else digits


@cache
def _environment(folder: Path) -> Environment:
    """The templates of a folder and those of the look, each compiled once a process."""
    made = Environment(
        loader=FileSystemLoader([folder, LOOK / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["dialled"] = dialled
    return made


class Pages:
    """Renders one service's templates in the common look."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        folders = [LOOK, *([folder] if (folder / f"{ENGLISH}.toml").exists() else [])]
        self.texts = {
            locale: {key: text for source in folders for key, text in catalogue(source, locale).items()}
            for locale in settings.locales
        }
        self.environment = _environment(folder)

    def text(self, key: str, locale: str | None = None, **values: Any) -> str:
        """One text of the catalogue, in the form that suits ``n`` where it has several.

        Raises:
            KeyError: when there is none, so that a test finds it before a person does.
        """
        locale = locale or self.settings.locales[0]
        text = self.texts[locale][key]
        if not isinstance(text, str):
            text = text[plural_form(locale, values["n"])]
        return text.format_map(values)

    def dated(self, value: date | str, locale: str, pattern: str = "look.day") -> str:
        """A day, also in ISO 8601, or a moment (in UTC) by the pattern that the catalogue has under ``pattern``."""
        day = date.fromisoformat(value) if isinstance(value, str) else value
        return dated(day, self.text(pattern, locale), locale)

    def html(self, name: str, locale: str, **context: Any) -> str:
        settings = self.settings
        return self.environment.get_template(name).render(
            t=lambda key, **values: self.text(key, locale, **values),
            dated=lambda value, pattern="look.day": self.dated(value, locale, pattern),
            locale=locale,
            dir=direction(locale),
            public_url=settings.public_url,
            box_url=settings.box_url,
            emergency=settings.emergency.get(locale),
            crisis_lines=settings.crisis_lines.get(locale, ()),
            referrals=settings.referrals.get(locale, ()),
            on_call=settings.on_call,
            concerns=settings.concerns,
            **context,
        )

    def render(
        self,
        request: Request,
        name: str,
        status: int = 200,
        *,
        locale: str | None = None,
        headers: Mapping[str, str] | None = None,
        **context: Any,
    ) -> HTMLResponse:
        """A page in ``locale``, else in the browser's language if the site has it. Never stored, tells no referrer."""
        chosen = locale if locale in self.texts else self.locale_of(request)
        private = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        body = self.html(name, str(chosen), **context)
        return HTMLResponse(body, status_code=status, headers={**private, **(headers or {})})

    def locale_of(self, request: Request) -> str:
        return preferred(request.headers.get("accept-language", ""), self.settings.locales)


def pages(folder: Path, settings: Settings) -> Pages:
    """The pages of one service, whose templates and texts are in ``folder``."""
    return Pages(folder, settings)

"""The common look of every page a person, supporter or coordinator meets (VOICE §Look).

A service keeps its templates in a folder, with one ``<locale>.toml`` of texts beside them::

    PAGES = pages(Path(__file__).parent / "templates", context.settings)
    return PAGES.render(request, "offer.html", greeting="...")

Templates extend ``base.html`` (a person's page: *Leave this page* on top, *I need somebody now* last) or ``work.html``
(coordinator and trainer), import ``parts.html`` and find in their context:

* ``t("group.key", name=...)``: a text of the locale; the service's catalogue adds to the one of the look
* ``locale``, ``dir``, ``public_url``, ``box_url``
* ``emergency``, ``crisis_lines``, ``on_call``, ``referrals``, ``concerns``: from the policy file, for the locale

No script, style or address stands in the markup itself, so a content policy without ``unsafe-inline`` holds.
"""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leeward.settings import Settings

LOOK = Path(__file__).parent
RIGHT_TO_LEFT = frozenset({"ar", "ckb", "dv", "fa", "he", "ps", "sd", "ug", "ur", "yi"})

Catalogue = Mapping[str, Any]


@cache
def catalogue(folder: Path, locale: str) -> Catalogue:
    """The texts of ``folder`` in ``locale`` as ``{"group.key": text}``. Raises FileNotFoundError if there are none."""
    with (folder / f"{locale}.toml").open("rb") as file:
        return dict(flattened(tomllib.load(file)))


def flattened(tree: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """``{"a": {"b": "text"}}`` as ``[("a.b", "text")]``."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        found += flattened(value, f"{path}{key}.") if isinstance(value, dict) else [(f"{path}{key}", value)]
    return found


def dialled(number: str) -> str:
    """A phone number as it stands in a ``tel:`` address (RFC 3966): digits, with a leading plus if it has one."""
    digits = "".join(character for character in number if character.isdigit() or character in "*#")
    return f"+{digits}" if number.strip().startswith("+") else digits


def direction(locale: str) -> str:
    return "rtl" if locale.split("-", maxsplit=1)[0] in RIGHT_TO_LEFT else "ltr"


def preferred(accepted: str, offered: Sequence[str]) -> str:
    """The first of ``offered`` that an Accept-Language header asks for (RFC 9110, 12.5.4), else the first at all."""
    for wanted in sorted(accepted.split(","), key=_weight, reverse=True):
        tag = wanted.split(";")[0].strip().lower()
        for locale in offered:
            if tag and (tag == locale.lower() or tag.split("-")[0] == locale.lower()):
                return locale
    return offered[0]


def _weight(wanted: str) -> float:
    _, _, weight = wanted.partition(";q=")
    try:
        return float(weight) if weight else 1.0
    except ValueError:
        return 0.0


class Pages:
    """Renders one service's templates in the common look."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.texts = {locale: {**catalogue(LOOK, locale), **_own_texts(folder, locale)} for locale in settings.locales}
        self.environment = Environment(
            loader=FileSystemLoader([folder, LOOK / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters["dialled"] = dialled

    def text(self, key: str, locale: str | None = None, **values: object) -> str:
        """One text of the catalogue; KeyError when there is none, so that a test finds it before a person does."""
        return str(self.texts[locale or self.settings.locales[0]][key]).format_map(values)

    def html(self, name: str, locale: str, **context: Any) -> str:
        return self.environment.get_template(name).render(**self._common(locale), **context)

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

    def _common(self, locale: str) -> dict[str, Any]:
        settings = self.settings
        return {
            "t": lambda key, **values: self.text(key, locale, **values),
            "locale": locale,
            "dir": direction(locale),
            "public_url": str(settings.public_url).rstrip("/"),
            "box_url": str(settings.box_url).rstrip("/"),
            "emergency": settings.emergency.get(locale),
            "crisis_lines": settings.crisis_lines.get(locale, ()),
            "referrals": settings.referrals.get(locale, ()),
            "on_call": settings.on_call,
            "concerns": settings.concerns,
        }


def _own_texts(folder: Path, locale: str) -> Catalogue:
    return catalogue(folder, locale) if (folder / f"{locale}.toml").exists() else {}


def pages(folder: Path, settings: Settings) -> Pages:
    """The pages of one service, whose templates and texts are in ``folder``."""
    return Pages(folder, settings)

"""The texts of a folder, one TOML file a language, and the check at start that each enabled language has them all.

English is what the others are held against. A table of the forms that CLDR names (``one``, ``other``, …) is one text:
its form goes by the value ``n``.
"""

import importlib
import string
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

from leeward.settings import SettingsError
from leeward.web.look.languages import direction, plural_forms

ENGLISH: Final = "en"
WEB: Final = Path(__file__).parents[1]
FORMS: Final = frozenset({"zero", "one", "two", "few", "many", "other"})

Text = str | Mapping[str, str]
Catalogue = Mapping[str, Text]
Place = tuple[str, str | None, str | None]
NUMBER: Final[frozenset[Place]] = frozenset({("n", "", None)})


class Named(Protocol):
    """A service, as far as it is needed here."""

    @property
    def name(self) -> str: ...

    @property
    def package(self) -> str: ...


@cache
def catalogue(folder: Path, locale: str) -> Catalogue:
    """The texts of ``folder`` in ``locale`` as ``{"group.key": text}``. Raises FileNotFoundError if there are none."""
    with (folder / f"{locale}.toml").open("rb") as file:
        return dict(flattened(tomllib.load(file)))


def flattened(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": "text"}}`` as ``("a.b", "text")``."""
    for key, value in tree.items():
        if isinstance(value, dict) and not ("other" in value and value.keys() <= FORMS):
            yield from flattened(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def catalogue_folders(root: Path) -> list[Path]:
    """The folders below ``root`` that have texts."""
    return sorted(path.parent for path in root.rglob(f"{ENGLISH}.toml"))


def check_catalogues(locales: Sequence[str], services: Iterable[Named]) -> None:
    """See that each language has every text of these services, and of what all pages share, with the same places.

    Raises:
        SettingsError: naming the language, the service (``web`` for what all share) and the first key at fault.
    """
    modules = {service.name: importlib.import_module(service.package) for service in services}
    roots = [(name, Path(str(module.__file__)).parent) for name, module in modules.items()]
    for locale in locales:
        for name, root in [*roots, ("web", WEB)]:
            for folder in catalogue_folders(root):
                if fault := find_fault(folder, locale):
                    raise SettingsError(f"leeward.toml: channels.email.locales: {locale}: {name} {fault}")
        try:
            # its data is loaded here, so that the first page does not wait for it
            direction(locale)
        except LookupError:
            raise SettingsError(
                f"leeward.toml: channels.email.locales: {locale}: is not in CLDR; allowed are languages that are"
            ) from None


def find_fault(folder: Path, locale: str) -> str:
    """What is wrong with the texts of ``folder`` in ``locale``, as the end of a sentence; "" where nothing is."""
    path = folder / f"{locale}.toml"
    try:
        texts = catalogue(folder, locale) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        return f"has no texts; allowed is TOML in UTF-8, and {path} is not ({fault})"
    for key, english in catalogue(folder, ENGLISH).items():
        for name, text, places in _expected(key, english, texts.get(key, ""), locale):
            if not text or not isinstance(text, str):
                return f"has no text {name}; allowed are languages that have every text, this one in {path}"
            if not _fits(text, places, spared=NUMBER if name != key else frozenset()):
                allowed = ", ".join(sorted(f"{{{place[0]}}}" for place in places)) or "none"
                return f"has other places in {name} than English; allowed are {allowed}, see {path}"
    return ""


def _expected(key: str, english: Text, text: Text, locale: str) -> Iterator[tuple[str, object, frozenset[Place]]]:
    """The texts that ``key`` stands for, by name, each with what is given and the places it must have."""
    if isinstance(english, str):
        yield key, text, places_of(english)
        return
    forms = text if isinstance(text, Mapping) else {}
    for form in sorted(plural_forms(locale)) if forms else ("other",):
        yield f"{key}.{form}", forms.get(form), places_of(english["other"])


def places_of(text: str) -> frozenset[Place]:
    """Name, format and conversion of each place (``{name}``) of a text. Raises ValueError for a lone brace."""
    return frozenset(
        (name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text) if name is not None
    )


def _fits(text: str, places: frozenset[Place], spared: frozenset[Place]) -> bool:
    """Whether a text has these places; ``spared`` may be missing, since "one answer" is right without its number."""
    try:
        return places_of(text) | spared == places | spared
    except ValueError:
        return False

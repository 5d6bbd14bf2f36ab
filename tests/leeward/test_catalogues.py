"""Catalogues are whole, or the start stops with one line that names the language, the service and the text."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.requests import Request

from leeward.settings import PORTS, Settings, SettingsError
from leeward.web import look
from leeward.web.look import LOOK, Pages, catalogues
from leeward.web.look.catalogues import catalogue, catalogue_folders, check_catalogues, find_fault

ROOT = Path(__file__).parents[2]
FOLDERS = [*catalogue_folders(ROOT / "leeward"), *catalogue_folders(ROOT / "services")]
FILES = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted(folder.glob("*.toml"))]
ENGLISH = """
[note]
title = "A note"
greeting = "Hello {name}"
count = { one = "{n} note for {name}", other = "{n} notes for {name}" }
"""
GERMAN = """
[note]
title = "Eine Nachricht"
greeting = "Guten Tag, {name}"
count = { one = "eine Nachricht für {name}", other = "{n} Nachrichten für {name}" }
"""


@dataclass(frozen=True)
class Fake:
    """A service with texts of its own."""

    package: str
    folder: Path
    name: str = "notify"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A service in a package of this test's own, in English, and the shared texts in English and German."""
    package = re.sub(r"\W", "_", tmp_path.name)
    templates = tmp_path / package / "templates"
    templates.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (templates / "en.toml").write_text(ENGLISH)
    (tmp_path / "web").mkdir()
    for locale in ("en", "de"):
        shutil.copy(LOOK / "en.toml", tmp_path / "web" / f"{locale}.toml")
    monkeypatch.setattr(catalogues, "WEB", tmp_path / "web")
    monkeypatch.syspath_prepend(tmp_path)
    return Fake(package, templates)


def refusal(service: Fake, *locales: str) -> str:
    with pytest.raises(SettingsError) as refused:
        check_catalogues(locales, [service])
    line = str(refused.value)
    assert "\n" not in line
    assert line.startswith("leeward.toml: channels.email.locales: ")
    return line.removeprefix("leeward.toml: channels.email.locales: ")


def test_a_language_without_words_stops_the_start(service: Fake) -> None:
    assert refusal(service, "en", "de").startswith("de: notify has no text note.title; ")


@pytest.mark.parametrize("key", ["title", "greeting", "count"])
def test_a_missing_text_is_named(service: Fake, key: str) -> None:
    lines = [line for line in GERMAN.splitlines() if not line.startswith(key)]
    (service.folder / "de.toml").write_text("\n".join(lines))
    assert refusal(service, "en", "de").startswith(f"de: notify has no text note.{key}")


def test_a_blank_text_is_a_missing_one(service: Fake) -> None:
    (service.folder / "de.toml").write_text(GERMAN.replace('"Eine Nachricht"', '""'))
    assert refusal(service, "en", "de").startswith("de: notify has no text note.title; ")


@pytest.mark.parametrize(
    "greeting", ["Guten Tag", "Guten Tag, {nam}", "{name} {when}", "{name.upper}", "{name!r}", "{name:>9}", "{", "{}"]
)
def test_a_text_with_other_places_is_named(service: Fake, greeting: str) -> None:
    (service.folder / "de.toml").write_text(GERMAN.replace("Guten Tag, {name}", greeting))
    line = refusal(service, "en", "de")
    assert line.startswith("de: notify has other places in note.greeting than English; allowed are {name}, ")


def test_a_plural_form_that_the_language_needs_is_asked_for(service: Fake) -> None:
    shutil.copy(catalogues.WEB / "de.toml", catalogues.WEB / "pl.toml")
    (service.folder / "pl.toml").write_text(GERMAN)
    assert refusal(service, "en", "pl").startswith("pl: notify has no text note.count.few; ")


def test_a_plural_text_must_not_lose_its_other_places(service: Fake) -> None:
    (service.folder / "de.toml").write_text(GERMAN.replace("eine Nachricht für {name}", "eine Nachricht"))
    line = refusal(service, "en", "de")
    assert line.startswith("de: notify has other places in note.count.one than English; allowed are {name}, {n}, ")


def test_a_file_that_is_not_toml_is_one_line_too(service: Fake) -> None:
    (service.folder / "de.toml").write_text("[note\n")
    assert refusal(service, "en", "de").startswith("de: notify has no texts; allowed is TOML in UTF-8, ")


def test_what_all_pages_share_is_checked_for_every_service(service: Fake) -> None:
    (service.folder / "de.toml").write_text(GERMAN)
    (catalogues.WEB / "de.toml").unlink()
    assert refusal(service, "en", "de").startswith("de: web has no text look.day; ")


def test_a_language_that_nobody_speaks_is_refused_even_with_words(service: Fake) -> None:
    for folder in (service.folder, catalogues.WEB):
        shutil.copy(folder / "en.toml", folder / "xx.toml")
    (service.folder / "en.toml").write_text(ENGLISH.replace("count", "# count"))
    catalogue.cache_clear()
    assert refusal(service, "en", "xx").startswith("xx: is not in CLDR; ")


def test_whole_catalogues_start_and_speak(service: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "LOOK", catalogues.WEB)
    (service.folder / "de.toml").write_text(GERMAN)
    check_catalogues(["en", "de"], [service])
    (service.folder / "note.html").write_text(
        '{{ locale }} {{ t("note.greeting", name="Anna") }}, {{ t("note.count", n=1, name="x") }},'
        ' {{ t("note.count", n=30, name="x") }}'
    )
    email = {"locales": ["en", "de"]}
    pages = Pages(service.folder, Settings.model_validate({"ports": dict(PORTS), "channels": {"email": email}}))
    request = Request({"type": "http", "headers": [(b"accept-language", b"de-AT, en;q=0.5")]})
    page = bytes(pages.render(request, "note.html").body).decode()
    assert page == "de Guten Tag, Anna, eine Nachricht für x, 30 Nachrichten für x"


@pytest.mark.parametrize("file", FILES)
def test_every_language_in_this_tree_is_whole_and_has_nothing_else(file: str) -> None:
    folder, locale = (ROOT / file).parent, Path(file).stem
    assert find_fault(folder, locale) == ""
    assert catalogue(folder, locale).keys() == catalogue(folder, "en").keys()


def test_every_folder_of_texts_is_found() -> None:
    names = {str(folder.relative_to(ROOT)) for folder in FOLDERS}
    services = {f"services/{name}/templates" for name in ("incident", "matching", "notify", "feedback/box", "demo")}
    assert names == {"leeward/web/look", "leeward/web/sign_in", *services}

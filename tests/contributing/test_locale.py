"""CONTRIBUTING, "A language": followed step by step in a copy of the tree, the language is there on every page."""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from leeward.settings import SERVICES
from leeward.web.look.catalogues import FORMS
from leeward.web.look.languages import plural_forms
from tests.contributing.copies import command, copy_into, started

LOCALE: Final = "ar"  # written from right to left, with six forms of the plural
PATTERNS: Final = {"look.day", "mailbox.moment", "mailbox.short"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_into(tmp_path)


def translated(texts: dict[str, Any], place: str = "") -> dict[str, Any]:
    """A stand-in for a translator: each text between guillemets, and each form that the language has of a plural."""
    if "other" in texts and texts.keys() <= FORMS:
        return dict.fromkeys(plural_forms(LOCALE), f"«{texts['other']}»")
    found: dict[str, Any] = {}
    for key, text in texts.items():
        name = f"{place}{key}"
        if isinstance(text, dict):
            found[key] = translated(text, f"{name}.")
        else:
            found[key] = text if name in PATTERNS else f"«{text}»"
    return found


def toml(texts: dict[str, Any]) -> str:
    """Nested texts as TOML: what JSON quotes, TOML reads as well."""
    lines = []
    for group, inner in texts.items():
        lines.append(f"[{group}]")
        for key, text in inner.items():
            value = json.dumps(text)
            if isinstance(text, dict):
                value = "{ " + ", ".join(f"{form} = {json.dumps(words)}" for form, words in text.items()) + " }"
            lines.append(f"{key} = {value}")
    return "\n".join(lines)


def add_language(tree: Path) -> None:
    """Step 1: beside every `en.toml`, the same texts in the language. Step 2: enable it."""
    for english in [*tree.rglob("en.toml")]:
        english.with_stem(LOCALE).write_text(toml(translated(tomllib.loads(english.read_text()))))
    (tree / "leeward.toml").write_text(f'[channels.email]\nlocales = ["en", "{LOCALE}"]\n')


def test_a_language_is_added_by_its_texts_and_one_line_of_the_policy(tree: Path) -> None:
    add_language(tree)
    with started(tree, "run", *SERVICES) as urls:
        reader = {"Accept-Language": "ar-EG, en;q=0.5"}
        pages = {
            path: httpx.get(f"{urls[name]}{path}", headers=reader).text
            for name, path in (("notify", "/resources"), ("box", "/keep"), ("issuer", "/look/calendar"))
        }
        english = httpx.get(f"{urls['notify']}/resources").text
    for page in pages.values():
        assert f'<html lang="{LOCALE}" dir="rtl">' in page
    assert "<h1>«What helps»</h1>" in pages["/resources"]
    assert "«A code, if you want to say later how it was»" in pages["/keep"]
    assert "<title>«Calendar»</title>" in pages["/look/calendar"]
    assert "«" not in english
    assert '<html lang="en" dir="ltr">' in english


def test_a_language_with_a_text_missing_stops_the_start_with_one_line(tree: Path) -> None:
    add_language(tree)
    texts = tree / "services" / "feedback" / "box" / "templates" / f"{LOCALE}.toml"
    texts.write_text("\n".join(line for line in texts.read_text().splitlines() if not line.startswith("limit_few")))
    process = command(tree, "up")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith(f"leeward.toml: channels.email.locales: {LOCALE}: box has no text index.limit_few; ")
    assert not (tree / "data").exists()

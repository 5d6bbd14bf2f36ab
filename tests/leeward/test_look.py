"""The common look: it can be read, needs nothing from elsewhere, and says the same in every language."""

import re
import string
from itertools import pairwise, product
from pathlib import Path

import pytest

from leeward.settings import PORTS, Settings
from leeward.settings.policy import Emergency
from leeward.web.look import LOOK, dialled, pages
from leeward.web.look.catalogues import catalogue
from leeward.web.look.languages import direction, preferred

CSS = (LOOK / "look.css").read_text()
TEMPLATES = sorted((LOOK / "templates").glob("*.html"))
LOCALES = sorted(path.stem for path in LOOK.glob("*.toml"))
TEXT = ("ink", "quiet", "calm", "care", "danger")
SURFACES = ("paper", "raised")


def tokens() -> dict[str, dict[str, str]]:
    light, dark = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]
    read = [dict(re.findall(r"--([a-z-]+):\s*(#[0-9a-f]{6})", block)) for block in (light, dark)]
    return {"light": read[0], "dark": {**read[0], **read[1]}}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_keeps_seven_to_one_and_edges_of_controls_three_to_one(scheme: str) -> None:
    token = tokens()[scheme]
    pairs = [
        *product(TEXT, SURFACES),
        ("ink", "calm-wash"),
        ("care", "care-wash"),
        ("on-calm", "calm"),
        ("paper", "ink"),
    ]
    poor = {pair: round(contrast(token[pair[0]], token[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 7} == {}
    for edge, surface in [*product(("edge",), SURFACES), ("care-edge", "care-wash"), ("care-edge", "paper")]:
        assert contrast(token[edge], token[surface]) >= 3, (edge, surface)


def test_colours_stand_in_the_tokens_and_nowhere_else() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules) == []


def test_nothing_comes_from_another_host_and_nothing_is_inline() -> None:
    for path in [*TEMPLATES, LOOK / "look.css", LOOK / "leave.js", LOOK / "now.js"]:
        text = path.read_text()
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text), path.name
        assert "@import" not in text, path.name
        assert "url(" not in text, path.name
    for path in TEMPLATES:
        text = path.read_text()
        assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", text), path.name


@pytest.mark.parametrize("locale", LOCALES)
def test_every_language_has_the_same_texts_with_the_same_places(locale: str) -> None:
    english, other = catalogue(LOOK, "en"), catalogue(LOOK, locale)
    assert other.keys() == english.keys()
    for key, text in english.items():
        assert places(str(other[key])) == places(str(text)), key


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def settings(**policy: object) -> Settings:
    return Settings.model_validate({"ports": dict(PORTS), **policy})


def test_the_way_out_comes_first_and_somebody_to_call_last(tmp_path: Path) -> None:
    (tmp_path / "hello.html").write_text('{% extends "base.html" %}{% block main %}<h1>Hello</h1>{% endblock %}')
    emergency = {"en": Emergency(phone="112")}
    html = pages(tmp_path, settings(emergency=emergency)).html("hello.html", "en")
    order = [html.index(part) for part in ("Leave this page", "<h1>Hello</h1>", "What we store", 'class="now"')]
    assert all(earlier < later for earlier, later in pairwise(order))
    assert 'href="tel:112"' in html
    assert '<html lang="en" dir="ltr">' in html
    assert "<title>Page</title>" in html


def test_a_text_that_is_missing_is_an_error_and_not_a_blank(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        pages(tmp_path, settings()).text("look.nonesuch")


def test_small_things() -> None:
    assert dialled("+44 (0)20 7946-0000") == "+4402079460000"
    assert dialled(" 116 123 ") == "116123"
    assert [direction(locale) for locale in ("ar", "he-IL", "en")] == ["rtl", "rtl", "ltr"]
    assert preferred("fr;q=0.9, de-AT, en;q=0.5", ("en", "de")) == "de"
    assert preferred("fr; q=0.1, de;q=0, en-GB ; q=0.2", ("fr", "de", "en")) == "en"
    assert preferred("", ("en", "de")) == "en"
    assert preferred("xx;q=rubbish", ("en",)) == "en"

"""Staff read the board and the review page in their own language, as everybody reads theirs."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from leeward.service import Service
from leeward.settings import ServiceName, Settings, load_settings
from leeward.web import look
from leeward.web.access import COOKIE, AccessControl
from leeward.web.app import create_app
from leeward.web.look.catalogues import Text, catalogue
from services.commands.catalogue import load
from tests.conftest import MakeContext

PATTERNS = ("look.day",)


def translated(folder: Path, locale: str) -> Mapping[str, Text]:
    """English in English, and between guillemets in every other language."""
    texts = catalogue(folder, "en")
    if locale == "en":
        return texts
    return {key: text if key in PATTERNS else f"«{text}»" for key, text in texts.items()}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    policy = tmp_path / "leeward.toml"
    policy.write_text('[channels.email]\nlocales = ["en", "ar"]\n')
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_DATA": str(tmp_path / "data"), "LEEWARD_CONFIG": str(policy)})


@pytest.mark.parametrize("name", ["matching", "incident"])
async def test_no_word_of_a_staff_page_is_outside_the_catalogue(
    name: ServiceName, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "catalogue", translated)
    service: Service = load([name])[0]
    context = make_context(name, service.metadata)
    app = create_app(context, service.build(context).router)
    cookies = {COOKIE: AccessControl(context).open_session("coordinator")}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url=context.settings.url(name), cookies=cookies
    ) as client:
        page = await client.get("/", headers={"Accept-Language": "ar-EG"})
    assert page.status_code == 200
    assert '<html lang="ar" dir="rtl">' in page.text
    visible = html.unescape(re.sub(r"<[^>]+>", " ", page.text))
    assert "«" in visible
    assert re.findall(r"[A-Za-z]{2,}", re.sub(r"«[^»]*»", " ", visible)) == []

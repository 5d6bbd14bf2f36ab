"""The coordinator's review page in Chromium: on a phone and a desk, light and dark, by keyboard, without a script."""

import json
import os
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import pytest_asyncio
from playwright.async_api import Browser, Page

from leeward.web.access import COOKIE, AccessControl
from leeward.web.app import create_app
from services.incident import SERVICE
from tests.browser import DESK, PHONE, axe_faults, served, small_targets, too_wide
from tests.services.incident.conftest import Desk
from tests.services.incident.review.test_review import WORDS, doubt, unknown
from tests.services.incident.sources.test_api import REPORT, SAFETY

SHOTS = os.environ.get("SHOTS")
Scheme = Literal["light", "dark"]
SEEN: Final[tuple[tuple[dict[str, int], Scheme], ...]] = (
    (PHONE, "light"),
    (PHONE, "dark"),
    (DESK, "light"),
    (DESK, "dark"),
)


@pytest_asyncio.fixture
async def busy(desk: Desk, web: httpx.AsyncClient) -> str:
    """A day with work, told with the longest words there are; gives the coordinator's session."""
    await doubt(desk, "1", PV1_36="01")
    await doubt(desk, "2")
    body = {**REPORT, "category": "an_outcome_of_a_kind_with_a_name_as_long_as_any_site_may_give_one"[:64]}
    old = {**body, "occurred_at": "2026-10-01T08:40:00Z"}
    await web.post("/v1/incidents", headers=SAFETY, content=json.dumps(old))
    await unknown(desk, "ZZ9", "W" * 200, "ZZ8^^^^^^^^OTHER")
    return AccessControl(desk.context).open_session("coordinator")


async def opened(
    browser: Browser, base: str, session: str, size: dict[str, int], scheme: Scheme, **options: Any
) -> Page:
    """The review page in a coordinator's browser."""
    context = await browser.new_context(viewport=size, color_scheme=scheme, **options)  # type: ignore[arg-type]
    await context.add_cookies([{"name": COOKIE, "value": session, "url": base}])
    page = await context.new_page()
    await page.goto(base)
    return page


async def assert_fit(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)
    assert await axe_faults(page) == []
    assert await too_wide(page) == 0
    assert await small_targets(page) == []


async def tab_to(page: Page, label: str) -> None:
    """Press Tab until what is focused has this label."""
    script = "(document.activeElement.ariaLabel || document.activeElement.innerText || '').startsWith(%s)"
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate(script % json.dumps(label)):
            return
    raise AssertionError(f"Tab never comes to {label}")


async def test_it_fits_and_can_be_read(desk: Desk, browser: Browser, busy: str) -> None:
    async with served(create_app(desk.context, SERVICE.build(desk.context).router)) as base:
        for size, scheme in SEEN:
            page = await opened(browser, base, busy, size, scheme)
            name = f"review-{size['width']}-{scheme}"
            await assert_fit(page, name)
            await page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
            await assert_fit(page, f"{name}-open")
            target = await page.locator("form[action*=signals]").first.get_attribute("action")
            await page.goto(base + str(target).removesuffix("/confirm"))
            await assert_fit(page, f"{name}-one")


async def test_by_keyboard_alone(desk: Desk, browser: Browser, busy: str) -> None:
    async with served(create_app(desk.context, SERVICE.build(desk.context).router)) as base:
        page = await opened(browser, base, busy, PHONE, "light")
        await tab_to(page, "Dismiss, ")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(f"text={WORDS['said']['dismissed']}")
        await tab_to(page, WORDS["queue"]["same_as"])
        await page.keyboard.press("Enter")
        for typed in ("ehr", "B3"):
            await page.keyboard.press("Tab")
            await page.keyboard.type(typed)
        await page.keyboard.press("Enter")
        await page.wait_for_selector(f"text={WORDS['problem']['not_on_roster']}")
        await assert_fit(page, "review-problem")
        assert await page.evaluate("document.activeElement.value") == "B3", "what must be corrected has the focus"
        await page.keyboard.press("Control+a")
        await page.keyboard.type("B2")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(f"text={WORDS['said']['resolved']}")
        await assert_fit(page, "review-said")
    assert sorted(await desk.states()) == ["dismissed", *["recorded"] * 3, *["review"] * 2]
    assert len(await desk.rows("unmatched")) == 2


async def test_without_a_script_until_nothing_waits(desk: Desk, browser: Browser, busy: str) -> None:
    async with served(create_app(desk.context, SERVICE.build(desk.context).router)) as base:
        page = await opened(browser, base, busy, PHONE, "dark", java_script_enabled=False)
        for action in ("confirm", "confirm", "dismiss", "ignore", "ignore"):
            await page.click(f"form[action$={action}] button >> nth=0")
        await page.click(f"text={WORDS['queue']['same_as']}")
        await page.fill("input[name=system]", "ehr")
        await page.fill("input[name=value]", "B2")
        await page.click(f"text={WORDS['queue']['save']}")
        for said in (WORDS["said"]["resolved"], WORDS["review"]["nothing"], WORDS["queue"]["nothing"]):
            await page.wait_for_selector(f"text={said}")
        if SHOTS:
            await page.screenshot(path=Path(SHOTS) / "review-empty.png", full_page=True)
    assert [row.state for row in await desk.rows("unmatched")] == ["ignored", "ignored"]

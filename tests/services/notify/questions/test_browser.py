"""The pages in Chromium: at 320 px and on a desk, light and dark, by keyboard, without scripts, and leaving them."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from services.notify.questions.question import ANSWERS
from tests.browser import DESK, PHONE, axe_faults, served, small_targets, too_wide
from tests.services.notify.conftest import PEOPLE_TO_CALL, POLICY, MakeWorld
from tests.services.notify.world import ANNA, SAM, World

SHOTS = os.environ.get("SHOTS")
Scheme = Literal["light", "dark"]


@pytest_asyncio.fixture
async def site(make_world: MakeWorld) -> AsyncIterator[tuple[World, str]]:
    """notify on a real port, with professionals on duty."""
    world = await make_world(POLICY + PEOPLE_TO_CALL)
    async with served(world.app) as base:
        yield world, base


async def opened(world: World, base: str, template: str = "offer") -> str:
    world.mail.received.clear()
    to = SAM if template == "supporter_request" else ANNA
    await world.asks(to, template, step=template, **({"options": {"when": "hours"}} if to is SAM else {}))
    [link] = await world.mailed(1)
    return base + link


async def shot(page: Page, name: str) -> None:
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


async def look(browser: Browser, url: str, size: dict[str, int], scheme: Scheme, **options: Any) -> Page:
    context = await browser.new_context(viewport=size, color_scheme=scheme, **options)  # type: ignore[arg-type]
    page = await context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    await page.goto(url)
    assert faults == []
    return page


async def assert_fit(page: Page) -> None:
    assert await axe_faults(page) == []
    assert await too_wide(page) == 0
    assert await small_targets(page) == []


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESK, "dark")])
async def test_every_first_page_fits_and_can_be_read(
    browser: Browser, site: tuple[World, str], size: dict[str, int], scheme: Scheme
) -> None:
    world, base = site
    urls = {template: await opened(world, base, template) for template in ANSWERS}
    urls |= {name: f"{base}/{name}" for name in ("resources", "privacy", "ask")} | {"ended": f"{base}/m/none"}
    context = await browser.new_context(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page = await context.new_page()
    for name, url in urls.items():
        await page.goto(url)
        await assert_fit(page)
        await shot(page, f"{name}-{size['width']}-{scheme}")


async def test_an_answer_by_keyboard_alone_and_every_page_after_it(browser: Browser, site: tuple[World, str]) -> None:
    world, base = site
    page = await look(browser, await opened(world, base), PHONE, "light")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        if await page.evaluate("document.activeElement.value") == "now":
            break
        await page.keyboard.press("Tab")
    await page.keyboard.press("ArrowDown")
    assert await page.locator("input[value=hours]").is_checked()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=In some hours, someone reaches you by e-mail.")
    await assert_fit(page)
    await shot(page, "accepted")
    for answer, said in (("check_ins", "We write a short note"), ("withdraw", "It has stopped.")):
        await page.click(f"button[value={answer}]")
        await page.wait_for_selector(f"text={said}")
        await assert_fit(page)
        await shot(page, answer)
    await page.click("button[value=undo]")
    await page.click("button[value=no_thanks]")
    await page.wait_for_selector("text=That's fine.")
    await assert_fit(page)
    await shot(page, "declined")
    assert [answer for answer, _ in world.answers()] == ["accept", "check_ins", "ended", "ended"]


async def test_without_a_script_everything_works(browser: Browser, site: tuple[World, str]) -> None:
    world, base = site
    page = await look(browser, await opened(world, base), PHONE, "light", java_script_enabled=False)
    await page.click("button[value=talk_now]")
    await page.wait_for_selector("text=You can call right now.")
    await shot(page, "talk-now")
    await page.check("input[value=week] >> nth=0")
    await page.check("input[value=email]")
    await page.click("button[value=accept]")
    await page.wait_for_selector("text=Next week, someone reaches you")
    await page.click("a.leave")
    await page.wait_for_url("**/look/calendar")
    await shot(page, "calendar")
    assert [answer for answer, _ in world.answers()] == ["talk_now", "accept"]


async def test_the_supporter_confirms_sees_and_closes(browser: Browser, site: tuple[World, str]) -> None:
    world, base = site
    page = await look(browser, await opened(world, base, "supporter_request"), PHONE, "dark")
    world.http.introduced = {SAM.recipient_ref: ANNA.recipient_ref}
    await page.click("button[value=confirm]")
    await page.wait_for_selector("text=Anna")
    await assert_fit(page)
    await shot(page, "confirmed")
    for name in ("channel", "duration", "contacts", "referral", "strain"):
        await page.check(f"input[name={name}] >> nth=1")
    await page.click("button[value=close]")
    await page.wait_for_selector("text=It is finished.")
    await assert_fit(page)
    await shot(page, "closed")


async def test_now_shows_the_numbers_at_once_even_when_the_line_is_dead(
    browser: Browser, site: tuple[World, str]
) -> None:
    world, base = site
    page = await look(browser, await opened(world, base), PHONE, "light")
    await page.context.set_offline(True)
    await page.click("button[value=talk_now]")
    await page.wait_for_selector("text=Please call one of these numbers.")
    assert await page.locator(".now a[href='tel:112']").is_visible()
    await shot(page, "now-offline")
    await page.context.set_offline(False)
    await page.reload()
    await page.click("button[value=talk_now]")
    await page.wait_for_selector(".now >> text=We have also asked the duty professional")
    assert await page.locator(".now a[href='tel:112']").is_visible()
    await shot(page, "now")
    assert [answer for answer, _ in world.answers()] == ["talk_now"]


async def test_escape_three_times_leaves_and_going_back_shows_nothing(
    browser: Browser, site: tuple[World, str]
) -> None:
    world, base = site
    url = await opened(world, base)
    page = await look(browser, f"{base}/resources", DESK, "light")
    await page.goto(url)
    await page.click("button[value=no_thanks]")
    await page.wait_for_selector("text=That's fine.")
    for _ in range(3):
        await page.keyboard.press("Escape")
    await page.wait_for_url("**/look/calendar")
    for _ in range(2):
        await page.go_back()
        if page.url == "about:blank":
            break
        await page.wait_for_url("**/look/calendar")
        assert await page.locator("text=That's fine.").count() == 0
    await page.goto(url)
    assert await page.locator("text=That's fine.").is_visible()


async def test_with_no_motion_wanted_nothing_moves(browser: Browser, site: tuple[World, str]) -> None:
    world, base = site
    page = await look(browser, await opened(world, base), PHONE, "light", reduced_motion="reduce")
    moving = "getComputedStyle(document.querySelector('button')).transitionDuration"
    assert await page.evaluate(moving) == "0s"


async def test_a_mistyped_address_is_said_to_screen_readers_too(browser: Browser, site: tuple[World, str]) -> None:
    _, base = site
    page = await look(browser, f"{base}/ask", PHONE, "light", java_script_enabled=True)
    await page.evaluate("document.querySelector('main form').noValidate = true")
    await page.fill("input[name=address]", "anna at home")
    await page.click("main form button")
    await page.wait_for_selector("[role=alert]")
    assert await page.get_attribute("input[name=address]", "aria-invalid") == "true"
    await assert_fit(page)
    await shot(page, "ask-problem")

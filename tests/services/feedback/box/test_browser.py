"""The two touches in Chromium: keep a code, and later spend it. Then what it is like without script, small or dark."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, expect

from services.feedback.reports import ITEMS
from tests.services.feedback.conftest import ENOUGH, EPOCH, TOKENS, Feedback

WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}


@pytest_asyncio.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """A page on which any fault of a script, or a request that a content policy stops, fails the test."""
    context = await browser.new_context(accept_downloads=True)
    opened = await context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda fault: faults.append(str(fault)))
    opened.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
    yield opened
    assert faults == []
    await context.close()


async def arrive(feedback: Feedback, page: Page) -> None:
    """From notify's follow-up page to the box, by the address that leads there."""
    case = await feedback.close_case()
    await feedback.known(case)
    await page.goto(f"{feedback.box}/keep#{feedback.assertion(case)}")


async def test_a_person_keeps_a_code_and_later_spends_it(feedback: Feedback, page: Page, tmp_path: Path) -> None:
    others = await feedback.codes(ENOUGH - 1)
    await arrive(feedback, page)
    assert page.url == f"{feedback.box}/keep", "the assertion has left the address bar"
    await page.get_by_role("button", name="Make my code").click()
    await expect(page.get_by_role("status").first).to_have_text("Your code is ready. Please keep it now.")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="Save it as a file").click()
    kept = tmp_path / (await download.value).suggested_filename
    await (await download.value).save_as(kept)
    assert await page.evaluate("localStorage.length") == 0, "nothing stays in a browser unless asked"
    await page.get_by_role("button", name="I have it. Clear this page").click()
    assert await page.evaluate("sessionStorage.length") == 0

    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    assert await feedback.spend(others) == ["kept"] * (ENOUGH - 1)

    await page.goto(feedback.box)
    await page.get_by_role("link", name="Answer with a code").click()
    await page.get_by_label("Or the file with your code").set_input_files(kept)
    for item in ITEMS:
        await page.locator(f"input[name={item}][value='4']").check()
    await page.get_by_label("It helped that somebody just listened").check()
    await page.get_by_role("button", name="Seal and send").click()
    await expect(page.locator("#done")).to_be_visible()
    await expect(page.locator("#rate")).to_be_hidden()

    await feedback.window_ends()
    (release,) = await feedback.reports()
    assert release["n"] == ENOUGH
    await page.goto(feedback.box)
    await expect(page.get_by_text("10 answers, from 2026-11-21 to 2026-11-23")).to_be_visible()
    await expect(page.get_by_role("listitem").filter(has_text="I felt listened to.")).to_contain_text("≥ 90 %")


async def test_a_reload_in_the_middle_loses_nothing(feedback: Feedback, page: Page) -> None:
    await arrive(feedback, page)
    answers: list[str] = []

    async def lose_the_answer(route: object) -> None:
        """The issuer signs, and its answer never arrives."""
        request = route.request  # type: ignore[attr-defined]
        if not answers and request.method == "POST":
            got = await feedback.http.post(request.url, content=request.post_data_buffer)
            answers.append(got.json()["signature"])
            await route.abort()  # type: ignore[attr-defined]
        else:
            await route.continue_()  # type: ignore[attr-defined]

    await page.route("**/v1/claims/mint", lose_the_answer)
    await page.get_by_role("button", name="Make my code").click()
    await expect(page.get_by_role("status").first).to_contain_text("nothing is lost")
    assert len(answers) == 1
    await page.reload()
    await page.get_by_role("button", name="Make my code").click()
    await expect(page.locator("#code")).not_to_be_empty()
    await page.reload()
    await expect(page.locator("#code")).not_to_be_empty()


async def test_on_an_own_device_the_code_can_stay(feedback: Feedback, page: Page) -> None:
    others = await feedback.codes(TOKENS - 1)
    await arrive(feedback, page)
    await page.get_by_role("button", name="Make my code").click()
    await page.get_by_role("button", name="Keep it in this browser").click()
    await expect(page.get_by_role("status").first).to_have_text("Kept in this browser.")
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    await page.goto(f"{feedback.box}/rate")
    await page.get_by_role("button", name="Use it").click()
    await page.get_by_role("button", name="Seal and send").click()
    await expect(page.locator("#done")).to_be_visible()
    assert await page.evaluate("localStorage.length") == 0, "a spent code does not stay"

    await page.goto(f"{feedback.box}/rate")
    send = page.get_by_role("button", name="Seal and send")
    for typed, said in (("hello", "does not look like a whole code"), (others[0][:-8], "whole code")):
        await page.get_by_label("Your code", exact=True).fill(typed)
        await send.click()
        await expect(page.locator("#said")).to_contain_text(said)
    assert await page.get_by_label("Your code", exact=True).input_value() == others[0][:-8], "what was typed stays"


@pytest.mark.parametrize("stale", [True, False])
async def test_a_way_in_that_ended_says_so_kindly(feedback: Feedback, page: Page, stale: bool) -> None:
    if not stale:
        await page.goto(f"{feedback.box}/keep")
        await expect(page.get_by_role("status").first).to_contain_text("open this page from your own message")
        return
    await arrive(feedback, page)
    await feedback.clock.advance(minutes=16)
    await page.get_by_role("button", name="Make my code").click()
    await expect(page.get_by_role("status").first).to_contain_text("Nothing is lost")


async def visit(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    return page


async def test_without_javascript_the_pages_say_why_they_need_it(feedback: Feedback, browser: Browser) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await visit(context, f"{feedback.box}/keep")
    await expect(page.get_by_text("makes the code on your own device and needs JavaScript")).to_be_visible()
    await expect(page.get_by_role("button", name="Make my code")).to_be_hidden()
    await context.close()


async def test_every_page_fits_a_small_screen_and_a_screen_reader(feedback: Feedback, browser: Browser) -> None:
    await feedback.codes(TOKENS)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    context = await browser.new_context(viewport={"width": 320, "height": 640}, bypass_csp=True)
    page = await context.new_page()
    await check_page(page, f"{feedback.box}/")
    await check_page(page, f"{feedback.box}/rate")
    await arrive(feedback, page)
    await page.get_by_role("button", name="Make my code").click()
    await expect(page.locator("#code")).not_to_be_empty()
    await check_page(page)
    await context.close()


async def check_page(page: Page, url: str = "") -> None:
    if url:
        await page.goto(url)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320, page.url
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    dark = await Axe().run(page, options=WCAG)
    await page.emulate_media(color_scheme="light", reduced_motion="reduce")
    light = await Axe().run(page, options=WCAG)
    for found in (dark, light):
        assert found.violations_count == 0, f"{page.url}: {found.generate_report()}"


async def test_a_rating_can_be_given_by_keyboard_alone(feedback: Feedback, page: Page) -> None:
    (code, *_) = await feedback.codes(TOKENS)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    await page.goto(f"{feedback.box}/rate")
    await page.get_by_label("Your code", exact=True).focus()
    await page.keyboard.insert_text(code)
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    assert await page.locator("input[name=easy]:checked").input_value() == "5"
    await page.get_by_role("button", name="Seal and send").press("Enter")
    await expect(page.locator("#done")).to_be_focused()

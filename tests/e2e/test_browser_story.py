"""In Chromium: accepted, confirmed, only then introduced, closed, a token kept; and declined, and taken back."""

from playwright.async_api import Browser, Page, expect

from leeward.testing import wait_until
from tests.e2e.harness import Mailbox, System, death, link_in

SUPPORTERS = ("max@hospital.example", "sue@hospital.example", "tom@hospital.example")


async def open_link(browser: Browser, link: str) -> Page:
    """The link in a browser of its own, with nobody else's cookies."""
    page = await (await browser.new_context()).new_page()
    await page.goto(link)
    return page


async def answer(page: Page, name: str) -> None:
    button = page.locator(f"button[name=answer][value={name}]")
    assert await button.count() == 1, await page.inner_text("main")
    await button.click()


def asked_supporter(mailbox: Mailbox) -> str:
    """The address of the supporter who has been asked by now."""
    return wait_until(lambda: next((who for who in SUPPORTERS if mailbox.to(who)), ""))


async def test_from_the_message_to_a_kept_token(live: System, mailbox: Mailbox, browser: Browser) -> None:
    live.send(death("M1", "AMY"))
    wait_until(lambda: mailbox.to("amy@hospital.example"))
    link = link_in(mailbox.to("amy@hospital.example")[0])
    person = await open_link(browser, link)
    await person.locator("label", has_text="In some hours").click()
    await person.locator("label", has_text="By phone").click()
    await answer(person, "accept")
    await expect(person.get_by_text("they don't know who you are")).to_be_visible()

    stranger = await open_link(browser, link)
    assert "In some hours" not in await stranger.content()
    await expect(stranger.get_by_text("This link has ended")).to_be_visible()
    assert await stranger.locator("[name=answer]:not([value=new_link])").count() == 0

    supporter = await open_link(browser, link_in(mailbox.to(asked_supporter(mailbox))[0]))
    assert "NameAMY" not in await supporter.content()
    await answer(supporter, "confirm")
    await expect(supporter.get_by_text("NameAMY").first).to_be_visible()
    await expect(supporter.get_by_text("+44 20 7946 0000").first).to_be_visible()
    assert "amy@hospital.example" not in await supporter.content()

    for field, choice in (
        ("channel", "phone"),
        ("duration", "15_45"),
        ("contacts", "1"),
        ("referral", "none"),
        ("strain", "2"),
    ):
        await supporter.locator(f"label:has(input[name={field}][value='{choice}'])").click()
    await answer(supporter, "close")
    assert "NameAMY" not in await supporter.content()

    wait_until(lambda: len(mailbox.to("amy@hospital.example")), until=lambda count: count == 2)
    person = await open_link(browser, link_in(mailbox.to("amy@hospital.example")[1]))
    await answer(person, "keep")
    await person.get_by_role("button", name="Make my code").click()
    await expect(person.get_by_text("Your code is ready")).to_be_visible(timeout=30_000)


async def test_no_thanks_is_one_click_and_can_be_taken_back(live: System, mailbox: Mailbox, browser: Browser) -> None:
    live.send(death("M1", "AMY"))
    wait_until(lambda: mailbox.to("amy@hospital.example"))
    page = await open_link(browser, link_in(mailbox.to("amy@hospital.example")[0]))
    await answer(page, "no_thanks")
    await expect(page.get_by_text("We won't write about this again")).to_be_visible()
    await answer(page, "undo")
    await page.locator("label", has_text="In some hours").click()
    await page.locator("label", has_text="By phone").click()
    await answer(page, "accept")
    await expect(page.get_by_text("they don't know who you are")).to_be_visible()
    assert asked_supporter(mailbox)


async def test_after_no_thanks_nobody_asks_again(live: System, mailbox: Mailbox, browser: Browser) -> None:
    live.send(death("M1", "AMY"))
    wait_until(lambda: mailbox.to("amy@hospital.example"))
    page = await open_link(browser, link_in(mailbox.to("amy@hospital.example")[0]))
    await answer(page, "no_thanks")
    token = live.token()
    wait_until(lambda: [case["state"] for case in live.cases(token)], until=lambda states: states == ["ended"])
    assert live.stop() == 0
    # an hour of this clock a second: the reminder's three days and the offer's fourteen go by
    live.environment["LEEWARD_CLOCK"] = "2026-11-24T08:30:00Z*36000"
    live.command("doctor", "--clock-is-right", check=False)
    live.start()
    live.send(death("M2", "BEN", patient="other", at="20261124083000"))
    wait_until(lambda: mailbox.to("ben@hospital.example"))
    wait_until(lambda: len(mailbox.to("ben@hospital.example")), 30, lambda count: count == 2)
    assert len(mailbox.to("amy@hospital.example")) == 1

"""The story, with every person played through the real pages' forms; each step is seen to happen before the next."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import cycle
from typing import Any, Final

from services.demo.play import node
from services.demo.play.browser import Browser, Page
from services.demo.play.narrator import Narrator, NotObserved
from services.demo.world import hospital
from services.demo.world.hospital import EMERGENCY_DEATH, ICU_DEATH, StaffMember
from services.demo.world.mailbox import Mail
from services.demo.world.running import EPOCH, TOKENS, WINDOW, World

HELD: Final = timedelta(minutes=50)  # half an hour after the shift ends, jitter, and a little more
JITTER: Final = timedelta(minutes=40)  # twice the longest, for a wall clock that is behind
PATIENT: Final = ("Fictitious", "Quentin", ICU_DEATH.control_id, EMERGENCY_DEATH.control_id)
DENIED: Final = (*PATIENT, "Leeward", "support", "peer", "incident", "trauma", "patient", "ICU", "Emergency")
WHEN: Final = ("days", "hours", "week")
HOW: Final = ("email", "mobile")
CLOSED: Final = {"channel": "phone", "duration": "15_45", "contacts": "1", "referral": "none", "strain": "2"}
LOOKS: Final = 200  # reloads of a page until what another service must know first is there
ITEMS: Final = ("easy", "soon", "heard", "helped", "again")


@dataclass
class Play:
    """Everybody of the story, and what they hold in their hands."""

    world: World
    narrator: Narrator
    browsers: dict[str, Browser] = field(default_factory=dict)
    mails_before_answers: int = 0
    accepted: list[StaffMember] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Play it all.

        Raises:
            NotObserved: at the first step that does not happen.
        """
        try:
            for title, play_chapter in CHAPTERS:
                self.narrator.chapter(title)
                await play_chapter(self)
        finally:
            for browser in self.browsers.values():
                await browser.close()

    # --- the hospital and the two deaths ---

    async def import_staff(self) -> None:
        narrator = self.narrator
        changes = await self.world.import_roster()
        fit = [person for person in hospital.people() if person.fit]
        units = {person.unit for person in fit}
        narrator.check(
            f"{changes.added} staff imported, {len(fit)} trained supporters in {len(units)} units", changes.added > 40
        )
        again = await self.world.import_roster()
        narrator.check("importing the file again changes nothing", again.unchanged == changes.added)
        narrator.check("the rota is imported", await self.world.import_rota())

    async def report_deaths(self) -> None:
        for death in (ICU_DEATH, EMERGENCY_DEATH):
            answer = await self.world.send(death)
            self.narrator.check(f"ADT^A03, discharged as expired, {death.unit}: {answer}", answer.code == "AA")
        again = await self.world.send(ICU_DEATH)
        self.narrator.check(f"the first one sent again: {again}, and nothing more comes of it", again.code == "AA")

    async def wait_for_messages(self) -> None:
        narrator, world = self.narrator, self.world
        narrator.say("It is a quarter to two. Half an hour after the shift, and a few minutes more, messages leave.")
        await world.clock.skip(timedelta(minutes=20))
        at_work = {person.email for person in self._asked() if "1" in person.marks}
        early = [mail for mail in world.mailbox.mails if mail.to in at_work]
        narrator.check("no mail yet for those who are at work", not early)
        reachable = [person for person in self._asked() if person.email]
        addresses = {person.email for person in reachable}
        await world.clock.skip_to(hospital.EARLY_ENDS + HELD)
        await self._mailed(
            f"{len(reachable)} people involved or on shift have one mail each",
            lambda: sorted(mail.to for mail in world.mailbox.mails) == sorted(addresses),
        )
        referring = {"o01@hospital.example", "p01@hospital.example"}
        narrator.check("the referring doctors have none", not referring & addresses)
        raw = b"".join(mail.raw for mail in world.mailbox.mails).decode()
        said = re.sub(r"/m/[\w-]+", "/m/", raw)  # a token is random, and any letters may stand in it
        denied = "|".join(map(re.escape, DENIED))
        narrator.check("no mail says anything of what happened", not re.search(denied, said, re.IGNORECASE))
        narrator.link("All mailboxes can be read while the demonstration runs:", world.mail_url)

    def _asked(self) -> list[StaffMember]:
        return [*ICU_DEATH.asked(), *EMERGENCY_DEATH.asked()]

    # --- the people who were there ---

    async def answer_offers(self) -> None:
        # on a slow machine the first supporter is asked before the last person has answered
        self.mails_before_answers = len(self.world.mailbox.mails)
        reachable = {person.staff_id: person for person in self._asked() if person.email}
        first, undoing, declining = (reachable[staff_id] for staff_id in ("I03", "I04", "I05"))
        await self._accept_first(first)
        browser, page = await self._open_message(undoing)
        page = await browser.choose(page, "no_thanks")
        self.narrator.check(
            f"{undoing.first_name} says no, thank you; the same page takes it back", "undo" in page.answers()
        )
        page = await browser.choose(page, "undo")
        self.narrator.check("undone: the offer is there again", "accept" in page.answers())
        browser, page = await self._open_message(declining)
        page = await browser.choose(page, "no_thanks")
        self.narrator.check(f"{declining.first_name} says no and leaves it at that", "undo" in page.answers())
        choices = cycle([(when, how) for when in WHEN for how in HOW])
        for person in reachable.values():
            if person not in (first, declining):
                when, how = next(choices)
                await self._accept(person, when, how)
        self.narrator.seen(f"{len(self.accepted)} people have said yes, each with a time and a kind of contact")

    async def _accept_first(self, person: StaffMember) -> None:
        """Accept as the first one, who looks twice, and once from a second browser."""
        narrator = self.narrator
        link = self._last(person.email).link
        narrator.link(f"{person.name} follows the link:", link)
        _, page = await self._open_message(person)
        offered = ["accept", "another", "not_now", "no_thanks", "talk_now"]
        narrator.check(f"the page offers {', '.join(offered)}", page.answers() == offered)
        _, again = await self._open_message(person)
        narrator.check("looking at it twice changes nothing", again.answers() == offered)
        thanked = await self._accept(person, "days", "mobile")
        narrator.check(f"{person.first_name} says yes: in a couple of days, by phone", "withdraw" in thanked.answers())
        stranger = await self._browser("a second browser").open(link)
        narrator.check("a second browser with the same link sees nothing of it", "withdraw" not in stranger.answers())

    async def _accept(self, person: StaffMember, when: str, how: str) -> Page:
        browser, page = await self._open_message(person)
        page = await browser.choose(page, "accept", when=when, how=how)
        if "withdraw" not in page.answers():
            raise NotObserved(f"{person.name} says yes")
        self.accepted.append(person)
        return page

    # --- the supporters ---

    async def ask_supporters(self) -> None:
        narrator, mails = self.narrator, self.world.mailbox.mails
        requests = await self._requests(self.mails_before_answers, len(self.accepted))
        there = {person.email for person in self._asked()}
        narrator.check("each is another unit's, none was there", not [mail for mail in requests if mail.to in there])
        passing, *confirming = requests
        since = len(mails)
        browser = self._browser(passing.to)
        page = await browser.open(passing.link)
        known = [name for name in self._first_names() if name in page.text]
        narrator.check(
            "before they confirm the page names nobody", page.answers()[:2] == ["confirm", "pass"] and not known
        )
        await browser.choose(page, "pass")
        narrator.say(f"{self._by_email(passing.to).name} passes; nobody asks why. The next best is asked.")
        confirming += await self._requests(since, 1)
        confirmed = [await self._confirm(mail, aloud=not number) for number, mail in enumerate(confirming)]
        narrator.check(f"{len(confirmed)} supporters have confirmed and seen whom, each one person", all(confirmed))
        narrator.check("everybody who said yes is introduced", sorted(confirmed) == sorted(self._first_names()))

    async def _requests(self, since: int, count: int) -> list[Mail]:
        """The requests to supporters after a place in the mailbox."""
        fit = {person.email for person in hospital.people() if person.fit}
        mails = self.world.mailbox.mails
        what = f"{count} supporter{'s have' if count > 1 else ' has'} a message"
        await self._mailed(what, lambda: len([mail for mail in mails[since:] if mail.to in fit]) >= count)
        return [mail for mail in mails[since:] if mail.to in fit]

    async def _confirm(self, mail: Mail, *, aloud: bool) -> str:
        """Confirm one request; gives the first name that the page then shows."""
        browser = self._browser(mail.to)
        page = await browser.choose(await browser.open(mail.link), "confirm")
        for _ in range(LOOKS):
            introduced = [
                person
                for person in self.accepted
                if person.first_name in page.text
                and person.name.split()[-1] not in page.text
                and (person.email in page.text or hospital.mobile(person) in page.text)
            ]
            if introduced:
                break
            await asyncio.sleep(0.05)
            page = await browser.open(mail.link)
        if len(introduced) != 1:
            raise NotObserved(f"one person is introduced after the confirm, not {len(introduced)}")
        if aloud:
            self.narrator.link(f"{self._by_email(mail.to).name} confirms here:", mail.link)
            self.narrator.seen(f"and sees a first name and the contact that was chosen: {introduced[0].first_name}")
        return introduced[0].first_name

    def _first_names(self) -> list[str]:
        return [person.first_name for person in self.accepted]

    # --- what the coordinator sees ---

    async def open_board(self) -> None:
        narrator, world = self.narrator, self.world
        url = world.settings.url("matching")
        token = {"Authorization": f"Bearer {await world.token('coordinator')}"}
        stranger = await world.http.get(f"{url}/v1/cases")
        narrator.check("without a token: 401", stranger.status_code == 401)
        board = (await world.http.get(f"{url}/", headers=token)).text
        cases = (await world.http.get(f"{url}/v1/cases?limit=200", headers=token)).json()["items"]
        names = [person.name for person in self._asked() if person.name in board or person.name in str(cases)]
        narrator.check(f"{len(cases)} cases by code, and no name of anybody they are about", cases and not names)
        reasons = [reason for case in cases for reason in case["reasons"]]
        narrator.check("whom no channel reaches is there, with the reason", "unreachable" in reasons)
        browser = self._browser("the coordinator")
        await browser.press(await browser.open(f"{world.mail_url}/board"))
        signed_in = await browser.open(f"{url}/")
        narrator.check("the one-time link opens the same board in a browser", signed_in.status == 200)
        narrator.link("The board:", f"{world.mail_url}/board")

    # --- after the talks ---

    async def close_cases(self) -> None:
        mailbox = self.world.mailbox
        await self.world.clock.skip(timedelta(days=2))
        before = len(mailbox.mails)
        closed = 0
        for address in dict.fromkeys(mail.to for mail in mailbox.mails):
            browser = self._browser(address)
            for mail in mailbox.to(address):
                page = await browser.open(mail.link)
                if "close" in page.answers():
                    page = await browser.choose(page, "close", **CLOSED)
                    closed += "close" not in page.answers()
        self.narrator.check(
            f"{closed} cases are closed: how, how long, how often, how it was; no word of prose", closed
        )
        people = {person.email for person in self.accepted}
        await self._mailed(
            "each person has a message that asks how it was",
            lambda: {mail.to for mail in mailbox.mails[before:]} >= people,
        )

    # --- tokens, ratings, the report ---

    async def keep_codes(self) -> None:
        settings = self.world.settings
        given = []
        for person in self.accepted:
            browser, page = await self._open_message(person)
            led = await browser.choose(page, "keep")
            where, _, assertion = led.location.partition("#")
            if where != f"{settings.box_url}/keep" or not assertion:
                raise NotObserved("the follow-up page leads to the box")
            given.append({"issuer": settings.url("issuer"), "box": settings.box_url, "assertion": assertion})
        self.narrator.link("The follow-up leads to", f"{settings.box_url}/keep")
        self.codes = [answer["code"] for answer in await node.steps("keep", given)]
        self.narrator.check(
            f"{len(self.codes)} codes, blinded when they were signed: the issuer has seen none of them",
            len(set(self.codes)) == len(self.accepted) >= TOKENS,
        )

    async def spend_codes(self) -> None:
        narrator, world = self.narrator, self.world
        await world.clock.skip_to(hospital.START + EPOCH)
        await self._until(
            "the epoch has closed and the box takes ratings",
            "/v1/epochs",
            lambda body: any(epoch["state"] == "rating" for epoch in body["epochs"]),
        )
        box = world.settings.box_url
        given = [{"box": box, "code": code, "rating": rating(n)} for n, code in enumerate(self.codes)]
        kept = await node.steps("spend", given)
        sealed = all(answer["result"] == "kept" for answer in kept)
        narrator.check(f"{len(kept)} ratings spent, sealed before they left", sealed)
        early = (await world.http.get(f"{box}/v1/reports")).json()["items"]
        narrator.check("nothing is published while the window is open", not early)

    async def read_report(self) -> None:
        narrator, world = self.narrator, self.world
        await world.clock.skip(WINDOW)
        url = "/v1/reports"
        release = (await self._until("a release is in GET /v1/reports", url, lambda body: body["items"]))[0]
        narrator.check(f"it stands on {release['n']} ratings and tells nobody's", release["n"] == len(self.codes))
        for item, shares in release["items"].items():
            published = ", ".join(f"{group}: {share}" for group, share in shares.items() if share) or "withheld"
            narrator.say(f"{item:<8}{published}")
        narrator.link("Anybody can read it:", f"{world.settings.box_url}/")

    async def _mailed(self, what: str, look: Callable[[], object], *, within: timedelta = JITTER) -> None:
        """Let time pass in small steps until mails are there; another service may only just have been told."""
        clock = self.world.clock
        last = clock.now() + within
        while not look() and clock.now() < last:
            await clock.skip(within / 40)
        await self.narrator.wait(what, look)

    async def _until(self, what: str, path: str, look: Callable[[Any], Any]) -> Any:
        """Ask the box until it says so."""
        found: Any = None
        for _ in range(200):
            answer = await self.world.http.get(f"{self.world.settings.box_url}{path}")
            if found := look(answer.json()):
                self.narrator.seen(what)
                return found
            await self.world.clock.skip(timedelta(minutes=1))
        raise NotObserved(what)

    # --- who is who ---

    def _browser(self, whose: str) -> Browser:
        return self.browsers.setdefault(whose, Browser())

    async def _open_message(self, person: StaffMember) -> tuple[Browser, Page]:
        """Follow the link of somebody's last mail in their own browser."""
        browser = self._browser(person.email)
        return browser, await browser.open(self._last(person.email).link)

    def _last(self, address: str) -> Mail:
        return self.world.mailbox.to(address)[-1]

    def _by_email(self, email: str) -> StaffMember:
        return next(person for person in hospital.people() if person.email == email)


CHAPTERS: Final[Sequence[tuple[str, Callable[[Play], Awaitable[None]]]]] = (
    ("The hospital", Play.import_staff),
    ("Two patients die; the hospital's system says so by HL7 v2", Play.report_deaths),
    ("Nobody is disturbed on their shift", Play.wait_for_messages),
    ("They open the message when it suits them", Play.answer_offers),
    ("Supporters are asked", Play.ask_supporters),
    ("What the coordinator sees", Play.open_board),
    ("They talk; two days later supporters close with a coded form", Play.close_cases),
    ("Each may keep a code for an anonymous rating; the page's own script makes it", Play.keep_codes),
    (
        "Months pass (days, here) until enough codes are out; then everybody may rate, wherever they are",
        Play.spend_codes,
    ),
    ("The window closes; what was given is opened in one shuffled batch", Play.read_report),
)


def rating(number: int) -> dict[str, Any]:
    """What the n-th person answers: mostly content, not all, and not the same."""
    items = {item: (4, 5, 5, 3, 2)[(number + place) % 5] for place, item in enumerate(ITEMS)}
    return {"items": items, "tags": ["listening"] if number % 2 else ["practical"]}

"""The story, with every person played through the real pages' forms; each step is seen to happen before the next."""

import asyncio
from collections.abc import Callable, Sequence
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
    tell: Narrator
    browsers: dict[str, Browser] = field(default_factory=dict)
    accepted: list[StaffMember] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Play it all.

        Raises:
            NotObserved: at the first step that does not happen.
        """
        try:
            await self._prepare()
            await self._deaths()
            await self._messages()
            # on a slow machine the first supporter is asked before the last person has answered
            before = len(self.world.mailbox.mails)
            await self._answers()
            await self._supporters(before)
            await self._board()
            await self._closing()
            await self._tokens()
            await self._ratings()
            await self._report()
        finally:
            for browser in self.browsers.values():
                await browser.close()

    # --- the hospital and the two deaths ---

    async def _prepare(self) -> None:
        everybody, tell = hospital.people(), self.tell
        tell.chapter("The hospital")
        changes = await self.world.import_roster()
        units = {person.unit for person in everybody if person.fit}
        fit = sum(person.fit for person in everybody)
        tell.check(
            f"{changes.added} staff imported, {fit} trained supporters in {len(units)} units", changes.added > 40
        )
        again = await self.world.import_roster()
        tell.check("importing the file again changes nothing", again.unchanged == changes.added)
        tell.check("the rota is imported", await self.world.import_rota())

    async def _deaths(self) -> None:
        tell = self.tell
        tell.chapter("Two patients die; the hospital's system says so by HL7 v2")
        for death in (ICU_DEATH, EMERGENCY_DEATH):
            answer = await self.world.send(death)
            tell.check(f"ADT^A03, discharged as expired, {death.unit}: {answer}", answer.code == "AA")
        again = await self.world.send(ICU_DEATH)
        tell.check(f"the first one sent again: {again}, and nothing more comes of it", again.code == "AA")

    async def _messages(self) -> None:
        tell, world = self.tell, self.world
        early = [person for person in self._asked() if "1" in person.marks]
        tell.chapter("Nobody is disturbed on their shift")
        tell.say("It is a quarter to two. Half an hour after the shift, and a few minutes more, messages leave.")
        await world.clock.skip(timedelta(minutes=20))
        tell.check("no mail yet for those who are at work", not self._mails(early))
        reachable = [person for person in self._asked() if person.email]
        addresses = {person.email for person in reachable}
        await world.clock.skip_to(hospital.EARLY_ENDS + HELD)
        await self._mailed(
            f"{len(reachable)} people involved or on shift have one mail each",
            lambda: sorted(mail.to for mail in world.mailbox.mails) == sorted(addresses),
        )
        tell.check("the referring doctors have none", not {"o01@hospital.example", "p01@hospital.example"} & addresses)
        raw = b"".join(mail.raw for mail in world.mailbox.mails).decode().lower()
        tell.check("no mail says anything of what happened", not [word for word in DENIED if word.lower() in raw])
        tell.link("All mailboxes can be read while the demonstration runs:", world.mail_url)

    def _asked(self) -> list[StaffMember]:
        return [*ICU_DEATH.asked(), *EMERGENCY_DEATH.asked()]

    def _mails(self, people: Sequence[StaffMember]) -> list[Mail]:
        addresses = {person.email for person in people}
        return [mail for mail in self.world.mailbox.mails if mail.to in addresses]

    # --- the people who were there ---

    async def _answers(self) -> None:
        reachable = [person for person in self._asked() if person.email]
        first, undoing, declining = (self._by_id(one) for one in ("I03", "I04", "I05"))
        self.tell.chapter("They open the message when it suits them")
        await self._accept_first(first)
        await self._decline_and_undo(undoing)
        await self._decline(declining)
        choices = cycle([(when, how) for when in WHEN for how in HOW])
        for person in reachable:
            if person not in (first, declining):
                when, how = next(choices)
                await self._accept(person, when, how)
        self.tell.seen(f"{len(self.accepted)} people have said yes, each with a time and a kind of contact")

    async def _accept_first(self, person: StaffMember) -> None:
        tell = self.tell
        mail = self._last(person.email)
        tell.link(f"{person.name} follows the link:", mail.link)
        page = await self._browser(person.email).open(mail.link)
        wanted = ["accept", "another", "not_now", "no_thanks", "talk_now"]
        tell.check(f"the page offers {', '.join(wanted)}", page.answers() == wanted)
        again = await self._browser(person.email).open(mail.link)
        tell.check("looking at it twice changes nothing", again.answers() == wanted)
        thanked = await self._accept(person, "days", "mobile")
        tell.check(f"{person.first_name} says yes: in a couple of days, by phone", "withdraw" in thanked.answers())
        stranger = await self._browser("a second browser").open(mail.link)
        tell.check("a second browser with the same link sees nothing of it", "withdraw" not in stranger.answers())

    async def _accept(self, person: StaffMember, when: str, how: str) -> Page:
        browser = self._browser(person.email)
        page = await browser.open(self._last(person.email).link)
        page = await browser.choose(page, "accept", when=when, how=how)
        if "withdraw" not in page.answers():
            raise NotObserved(f"{person.name} says yes")
        self.accepted.append(person)
        return page

    async def _decline_and_undo(self, person: StaffMember) -> None:
        browser = self._browser(person.email)
        page = await browser.open(self._last(person.email).link)
        page = await browser.choose(page, "no_thanks")
        self.tell.check(
            f"{person.first_name} says no, thank you; the same page takes it back", "undo" in page.answers()
        )
        page = await browser.choose(page, "undo")
        self.tell.check("undone: the offer is there again", "accept" in page.answers())

    async def _decline(self, person: StaffMember) -> None:
        browser = self._browser(person.email)
        page = await browser.open(self._last(person.email).link)
        page = await browser.choose(page, "no_thanks")
        self.tell.check(f"{person.first_name} says no and leaves it at that", "undo" in page.answers())

    # --- the supporters ---

    async def _supporters(self, since: int) -> None:
        tell, world = self.tell, self.world
        tell.chapter("Supporters are asked")
        asked = await self._requests(since, len(self.accepted))
        tell.check("each is another unit's, none was there", not self._wrong_supporters(asked))
        passing, *confirming = asked
        since = len(world.mailbox.mails)
        await self._pass(passing)
        confirming += await self._requests(since, 1)
        confirmed = [await self._confirm(mail, told=not number) for number, mail in enumerate(confirming)]
        tell.check(f"{len(confirmed)} supporters have confirmed and seen whom, each one person", all(confirmed))
        tell.check("everybody who said yes is introduced", sorted(confirmed) == sorted(self._first_names()))

    async def _requests(self, since: int, count: int) -> list[Mail]:
        """The requests to supporters after a place in the mailbox."""
        fit = {person.email for person in hospital.people() if person.fit}
        mails = self.world.mailbox.mails
        what = f"{count} supporter{'s have' if count > 1 else ' has'} a message"
        await self._mailed(what, lambda: len([mail for mail in mails[since:] if mail.to in fit]) >= count)
        return [mail for mail in mails[since:] if mail.to in fit]

    def _wrong_supporters(self, asked: Sequence[Mail]) -> list[Mail]:
        there = {person.email for person in self._asked()}
        return [mail for mail in asked if mail.to in there]

    async def _pass(self, mail: Mail) -> None:
        browser = self._browser(mail.to)
        page = await browser.open(mail.link)
        known = [name for name in self._first_names() if name in page.text]
        self.tell.check(
            "before they confirm the page names nobody", page.answers()[:2] == ["confirm", "pass"] and not known
        )
        await browser.choose(page, "pass")
        self.tell.say(f"{self._by_email(mail.to).name} passes; nobody asks why. The next best is asked.")

    async def _confirm(self, mail: Mail, *, told: bool) -> str:
        """Confirm one request; gives the first name that the page then shows."""
        browser = self._browser(mail.to)
        page = await browser.choose(await browser.open(mail.link), "confirm")
        for _ in range(LOOKS):
            if shown := [person for person in self.accepted if self._introduced(person, page)]:
                break
            await asyncio.sleep(0.05)
            page = await browser.open(mail.link)
        if len(shown) != 1:
            raise NotObserved(f"one person is introduced after the confirm, not {len(shown)}")
        if told:
            self.tell.link(f"{self._by_email(mail.to).name} confirms here:", mail.link)
            self.tell.seen(f"and sees a first name and the contact that was chosen: {shown[0].first_name}")
        return shown[0].first_name

    def _introduced(self, person: StaffMember, page: Page) -> bool:
        family = person.name.split()[-1]
        contact = person.email in page.text or hospital.mobile(person) in page.text
        return person.first_name in page.text and contact and family not in page.text

    def _first_names(self) -> list[str]:
        return [person.first_name for person in self.accepted]

    async def _closing(self) -> None:
        tell, world = self.tell, self.world
        tell.chapter("They talk; two days later supporters close with a coded form")
        await world.clock.skip(timedelta(days=2))
        before = len(world.mailbox.mails)
        closed = 0
        for address in dict.fromkeys(mail.to for mail in world.mailbox.mails):
            for mail in world.mailbox.to(address):
                closed += await self._close(address, mail)
        tell.check(f"{closed} cases are closed: how, how long, how often, how it was; no word of prose", closed)
        people = {person.email for person in self.accepted}
        await self._mailed(
            "each person has a message that asks how it was",
            lambda: {mail.to for mail in world.mailbox.mails[before:]} >= people,
        )

    async def _close(self, address: str, mail: Mail) -> int:
        browser = self._browser(address)
        page = await browser.open(mail.link)
        if "close" not in page.answers():
            return 0
        page = await browser.choose(page, "close", **CLOSED)
        return int("close" not in page.answers())

    # --- what the coordinator sees ---

    async def _board(self) -> None:
        tell, world = self.tell, self.world
        tell.chapter("What the coordinator sees")
        url = world.settings.url("matching")
        token = {"Authorization": f"Bearer {await world.token('coordinator')}"}
        stranger = await world.http.get(f"{url}/v1/cases")
        tell.check("without a token: 401", stranger.status_code == 401)
        board = (await world.http.get(f"{url}/", headers=token)).text
        cases = (await world.http.get(f"{url}/v1/cases?limit=200", headers=token)).json()["items"]
        names = [person.name for person in self._asked() if person.name in board or person.name in str(cases)]
        tell.check(f"{len(cases)} cases by code, and no name of anybody they are about", cases and not names)
        reasons = [reason for case in cases for reason in case["reasons"]]
        tell.check("whom no channel reaches is there, with the reason", "unreachable" in reasons)
        browser = self._browser("the coordinator")
        await browser.press(await browser.open(f"{world.mail_url}/board"))
        signed_in = await browser.open(f"{url}/")
        tell.check("the one-time link opens the same board in a browser", signed_in.status == 200)
        tell.link("The board:", f"{world.mail_url}/board")

    # --- tokens, ratings, the report ---

    async def _tokens(self) -> None:
        tell, settings = self.tell, self.world.settings
        tell.chapter("Each may keep a code for an anonymous rating; the page's own script makes it")
        given = []
        for person in self.accepted:
            browser = self._browser(person.email)
            page = await browser.open(self._last(person.email).link)
            led = await browser.choose(page, "keep")
            where, _, assertion = led.location.partition("#")
            if where != f"{settings.box_url}/keep" or not assertion:
                raise NotObserved("the follow-up page leads to the box")
            given.append({"issuer": settings.url("issuer"), "box": settings.box_url, "assertion": assertion})
        tell.link("The follow-up leads to", f"{settings.box_url}/keep")
        self.codes = [answer["code"] for answer in await node.steps("keep", given)]
        tell.check(
            f"{len(self.codes)} codes, blinded when they were signed: the issuer has seen none of them",
            len(set(self.codes)) == len(self.accepted) >= TOKENS,
        )

    async def _ratings(self) -> None:
        tell, world = self.tell, self.world
        tell.chapter("Months pass (days, here) until enough codes are out; then everybody may rate, wherever they are")
        await world.clock.skip_to(hospital.START + EPOCH)
        await self._until("the epoch has closed and the box takes ratings", "/v1/epochs", _open_window)
        box = world.settings.box_url
        given = [{"box": box, "code": code, "rating": rating(n)} for n, code in enumerate(self.codes)]
        kept = await node.steps("spend", given)
        tell.check(f"{len(kept)} ratings spent, sealed before they left", all(one["result"] == "kept" for one in kept))
        early = (await world.http.get(f"{box}/v1/reports")).json()["items"]
        tell.check("nothing is published while the window is open", not early)

    async def _report(self) -> None:
        tell, world = self.tell, self.world
        tell.chapter("The window closes; what was given is opened in one shuffled batch")
        await world.clock.skip(WINDOW)
        url = "/v1/reports"
        release = (await self._until("a release is in GET /v1/reports", url, lambda body: body["items"]))[0]
        tell.check(f"it stands on {release['n']} ratings and tells nobody's", release["n"] == len(self.codes))
        for item, shares in release["items"].items():
            told = ", ".join(f"{group}: {share}" for group, share in shares.items() if share) or "withheld"
            tell.say(f"{item:<8}{told}")
        tell.link("Anybody can read it:", f"{world.settings.box_url}/")

    async def _mailed(self, what: str, look: Callable[[], object], *, within: timedelta = JITTER) -> None:
        """Let time pass in small steps until mails are there; another service may only just have been told."""
        clock = self.world.clock
        last = clock.now() + within
        while not look() and clock.now() < last:
            await clock.skip(within / 40)
        await self.tell.wait(what, look)

    async def _until(self, what: str, path: str, look: Callable[[Any], Any]) -> Any:
        """Ask the box until it says so."""
        found: Any = None
        for _ in range(200):
            answer = await self.world.http.get(f"{self.world.settings.box_url}{path}")
            if found := look(answer.json()):
                self.tell.seen(what)
                return found
            await self.world.clock.skip(timedelta(minutes=1))
        raise NotObserved(what)

    # --- who is who ---

    def _browser(self, whose: str) -> Browser:
        return self.browsers.setdefault(whose, Browser())

    def _last(self, address: str) -> Mail:
        return self.world.mailbox.to(address)[-1]

    def _by_id(self, staff_id: str) -> StaffMember:
        return next(person for person in hospital.people() if person.staff_id == staff_id)

    def _by_email(self, email: str) -> StaffMember:
        return next(person for person in hospital.people() if person.email == email)


def _open_window(body: dict[str, Any]) -> bool:
    return any(epoch["state"] == "rating" for epoch in body["epochs"])


def rating(number: int) -> dict[str, Any]:
    """What the n-th person answers: mostly content, not all, and not the same."""
    items = {item: (4, 5, 5, 3, 2)[(number + place) % 5] for place, item in enumerate(ITEMS)}
    return {"items": items, "tags": ["listening"] if number % 2 else ["practical"]}

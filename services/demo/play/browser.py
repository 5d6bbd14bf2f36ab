"""A browser without a screen: reads the forms of a served page and posts them as a person's browser would."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx

UNREAD: frozenset[str] = frozenset({"script", "style", "head"})


@dataclass
class Form:
    """One form: where it goes, what it carries by itself, and the choices it leaves open."""

    action: str
    method: str
    hidden: list[tuple[str, str]] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)

    def offers(self, name: str, value: str) -> bool:
        return value in self.choices.get(name, ())


class Reader(HTMLParser):
    """Collects the forms and the words of a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self.words: list[str] = []
        self._form: Form | None = None
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._unread += tag in UNREAD
        if tag == "form":
            self._form = Form(given.get("action", ""), given.get("method", "get").lower())
            self.forms.append(self._form)
        elif tag in ("input", "button", "select", "textarea") and self._form and (name := given.get("name")):
            value = given.get("value", "")
            if tag == "input" and given.get("type") == "hidden":
                self._form.hidden.append((name, value))
            else:
                self._form.choices.setdefault(name, []).append(value)

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in UNREAD
        if tag == "form":
            self._form = None

    def handle_data(self, data: str) -> None:
        if not self._unread and data.strip():
            self.words.append(data.strip())


@dataclass(frozen=True)
class Page:
    """A page as it was served: address, status, its words, its forms, and where it leads on."""

    url: str
    status: int
    text: str
    forms: list[Form]
    location: str = ""

    def answers(self) -> list[str]:
        """Every answer that a form of the page offers, in its order."""
        return [value for form in self.forms for value in form.choices.get("answer", ())]


class NoSuchForm(Exception):
    """The page has no form that offers this answer."""


class Browser:
    """One person's browser with its cookies."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=10.0)

    async def close(self) -> None:
        await self._client.aclose()

    async def open(self, url: str) -> Page:
        """Follow a link."""
        return read_page(await self._client.get(url, follow_redirects=True))

    async def choose(self, page: Page, answer: str, **fields: str) -> Page:
        """Press the button that gives this answer, with these choices beside it.

        Raises:
            NoSuchForm: when the page does not offer it.
        """
        form = next((one for one in page.forms if one.offers("answer", answer)), None)
        if form is None or form.method != "post":
            raise NoSuchForm(answer)
        missing = [name for name, value in fields.items() if not form.offers(name, value)]
        if missing:
            raise NoSuchForm(f"{answer}: {', '.join(missing)}")
        return await self._post(page, form, dict([*form.hidden, *fields.items(), ("answer", answer)]))

    async def press(self, page: Page) -> Page:
        """Press the one button of a page that has no more than that.

        Raises:
            NoSuchForm: when it has more forms, or none.
        """
        if len(page.forms) != 1:
            raise NoSuchForm("a single button")
        return await self._post(page, page.forms[0], dict(page.forms[0].hidden))

    async def _post(self, page: Page, form: Form, given: Mapping[str, str]) -> Page:
        response = await self._client.post(urljoin(page.url, form.action), data=dict(given))
        if response.is_redirect:
            target = urljoin(str(response.url), response.headers["location"])
            if "#" in target:  # leads to another service's page: nothing of the fragment may be sent anywhere
                return Page(str(response.url), response.status_code, "", [], target)
            return await self.open(target)
        return read_page(response)


def read_page(response: httpx.Response) -> Page:
    """A served page's words and forms."""
    reader = Reader()
    reader.feed(response.text)
    return Page(str(response.url), response.status_code, " ".join(reader.words), reader.forms)

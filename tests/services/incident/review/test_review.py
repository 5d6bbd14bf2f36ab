"""The coordinator's review page through the real app: who may see it, what it says, what its forms do."""

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter

import services.incident
from leeward.service import Context
from leeward.settings.policy import IncidentPolicy
from leeward.web.access import COOKIE, AccessControl, issue
from leeward.web.app import create_app
from leeward.web.login import login_router
from services.incident.decisions.claims import DEATH, State
from services.matching.models import METADATA as MATCHING
from tests.services.incident.conftest import BEN, STAFF, Desk, death, hl7
from tests.services.incident.sources.test_api import REPORT, SAFETY

SOURCES = Path(str(services.incident.__file__)).parent
WORDS = tomllib.loads((SOURCES / "templates" / "en.toml").read_text())


def forms(page: str) -> list[str]:
    """Where the page's forms lead, in their order."""
    return re.findall(r'action="(/review/[^"]+)"', page)


def told(page: str) -> str:
    """What the page says to eye and ear, without the random values in its forms."""
    return re.sub(r'\b(?:value|action|id|for|aria-describedby)="[^"]*"', "", page)


async def doubt(desk: Desk, ident: str = "1", **fields: str) -> str:
    """A signal that waits; gives its reference."""
    known = {row.incident_ref for row in await desk.rows("incident")}
    await desk.send(hl7("A08", ident=ident, PID_30="Y", **{"PID_3": f"{ident}^^^HOSP", **fields}))
    [ref] = [row.incident_ref for row in await desk.rows("incident") if row.incident_ref not in known]
    return str(ref)


async def unknown(desk: Desk, *names: str) -> None:
    """Deaths whose messages name people nobody knows."""
    for name in names:
        await desk.send(death(ident=f"names {name}", PID_3=f"{name[:9]}^^^NAMES", PV1_7=name))


@pytest_asyncio.fixture
async def signed_in(desk: Desk, web: httpx.AsyncClient) -> httpx.AsyncClient:
    """A coordinator's browser."""
    web.cookies.set(COOKIE, AccessControl(desk.context).open_session("coordinator"))
    return web


async def send(web: httpx.AsyncClient, action: str, **fields: str) -> httpx.Response:
    """Fill in the form with that action as it stands on the page, and press its button."""
    return await web.post(action, data={"csrf": csrf_of((await web.get("/")).text), **fields})


def csrf_of(page: str) -> str:
    """The hidden field of the page's forms."""
    return str(re.findall(r'name="csrf" value="([^"]+)"', page)[0])


class TestWhoMaySee:
    PATHS = (
        ("GET", "/"),
        ("GET", "/review/signals/x"),
        ("POST", "/review/signals/x/confirm"),
        ("POST", "/review/identifiers/x/same-as"),
        ("POST", "/review/identifiers/x/ignore"),
    )

    @pytest.mark.parametrize(("method", "path"), PATHS)
    async def test_a_stranger_is_told_nothing(self, web: httpx.AsyncClient, method: str, path: str) -> None:
        assert (await web.request(method, path)).status_code == 401

    @pytest.mark.parametrize(("method", "path"), PATHS)
    async def test_nor_is_another_role(self, desk: Desk, web: httpx.AsyncClient, method: str, path: str) -> None:
        await desk.context.store.write(lambda unit: issue(unit, "reporter", "token", "word"))
        assert (await web.request(method, path, headers={"Authorization": "Bearer word"})).status_code == 403

    async def test_who_signed_in_at_the_board_is_signed_in_here(
        self, make_context: Callable[..., Context], web: httpx.AsyncClient
    ) -> None:
        matching = make_context("matching", MATCHING)
        await matching.store.write(lambda unit: issue(unit, "coordinator", "login", "code"))
        router = APIRouter()
        router.include_router(login_router(matching))
        door = httpx.ASGITransport(create_app(matching, router))
        async with httpx.AsyncClient(transport=door, base_url="http://matching") as browser:
            session = (await browser.post("/login/code")).cookies[COOKIE]
        web.cookies.set(COOKIE, session)
        assert (await web.get("/")).status_code == 200

    async def test_a_bearer_may_press_the_buttons_too(self, desk: Desk, coordinator: httpx.AsyncClient) -> None:
        ref = await doubt(desk)
        assert (await coordinator.post(f"/review/signals/{ref}/confirm")).status_code == 303
        assert await desk.states() == ["recorded"]

    async def test_a_form_without_its_own_field_does_nothing(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        await doubt(desk, PV1_7="ZZ9")
        for action in forms((await signed_in.get("/")).text):
            assert (await signed_in.post(action, data={"system": "ehr", "value": "B2"})).status_code == 403
        assert await desk.states() == ["review"]
        assert [row.state for row in await desk.rows("unmatched")] == ["open"]


class TestSignals:
    async def test_a_signal_is_a_sentence_with_two_buttons(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        ref = await doubt(desk, PID_3="QX4711^^^HOSP^MR", PV1_36="01", PV1_7="A1^Anna")
        page = (await signed_in.get("/")).text
        assert "A death. One field says that somebody died. Another says that they left alive." in page
        assert re.search(rf"<code>{ref[:8]}</code> · today", page)
        assert forms(page) == [f"/review/signals/{ref}/confirm", f"/review/signals/{ref}/dismiss"]
        for word in ("QX4711", "Anna", "A1", "ICU", "EHR", "08:", "09:", "Leeward", "victim", "atient"):
            assert word not in told(page)

    async def test_confirmed_it_is_published_and_gone_from_the_page(
        self, desk: Desk, signed_in: httpx.AsyncClient
    ) -> None:
        ref = await doubt(desk)
        answer = await send(signed_in, f"/review/signals/{ref}/confirm")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?said=confirmed")
        assert await desk.kinds() == ["recorded"]
        page = (await signed_in.get(answer.headers["location"])).text
        assert WORDS["said"]["confirmed"] in page
        assert WORDS["review"]["nothing"] in page
        assert ref[:8] not in page

    async def test_dismissed_nothing_is_published(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        ref = await doubt(desk)
        answer = await send(signed_in, f"/review/signals/{ref}/dismiss")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?said=dismissed")
        assert (await desk.kinds(), await desk.states()) == ([], ["dismissed"])

    async def test_a_feed_that_always_says_no_takes_back_nothing_that_was_confirmed(
        self, desk: Desk, signed_in: httpx.AsyncClient
    ) -> None:
        await desk.send(death(ident="1", PID_30="N"))
        [row] = await desk.rows("incident")
        await send(signed_in, f"/review/signals/{row.incident_ref}/confirm")
        await desk.send(hl7("A08", ident="2", PID_30="N"))
        assert (await desk.kinds(), await desk.states()) == (["recorded"], ["recorded"])

    async def test_a_death_that_was_dismissed_and_cancelled_may_come_later(
        self, desk: Desk, signed_in: httpx.AsyncClient
    ) -> None:
        await desk.send(death(ident="1", PV1_45="20261001080000"))
        [row] = await desk.rows("incident")
        await send(signed_in, f"/review/signals/{row.incident_ref}/dismiss")
        await desk.send(hl7("A13", ident="2"))
        await desk.send(death(ident="3"))
        assert (await desk.kinds(), sorted(await desk.states())) == (["recorded"], ["recorded", "retracted"])

    async def test_somebody_else_was_quicker(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        ref = await doubt(desk)
        other = await doubt(desk, "2")
        await send(signed_in, f"/review/signals/{ref}/dismiss")
        answer = await send(signed_in, f"/review/signals/{ref}/confirm")
        assert answer.status_code == 409
        assert WORDS["said"]["settled"] in answer.text
        assert other[:8] in answer.text
        assert await desk.kinds() == []

    async def test_what_is_not_there(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        ref = await doubt(desk)
        for answer in (
            await signed_in.get("/review/signals/none"),
            await send(signed_in, "/review/signals/none/confirm"),
            await send(signed_in, "/review/identifiers/none/ignore"),
            await send(signed_in, "/review/identifiers/none/same-as", system="ehr", value="B2"),
        ):
            assert answer.status_code == 404
            assert WORDS["said"]["gone"] in answer.text
        assert (await send(signed_in, f"/review/signals/{ref}/erase")).status_code == 404
        assert await desk.states() == ["review"]

    async def test_only_what_was_done_can_be_said(self, signed_in: httpx.AsyncClient) -> None:
        for said in ("settled", "<script>", "nonsense"):
            page = (await signed_in.get("/", params={"said": said})).text
            assert 'role="status"' not in page
            assert "<script>" not in page

    async def test_the_board_can_lead_to_one_signal(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        await desk.send(death())
        [row] = await desk.rows("incident")
        page = await signed_in.get(f"/review/signals/{row.incident_ref}")
        assert page.status_code == 200
        assert WORDS["state"]["recorded"] in page.text
        assert "A death. The discharge says that somebody died." in page.text
        assert forms(page.text) == []
        waiting = await doubt(desk, "2")
        assert len(forms((await signed_in.get(f"/review/signals/{waiting}")).text)) == 2

    async def test_a_kind_of_the_sites_own_is_shown_in_its_words(
        self, desk: Desk, web: httpx.AsyncClient, signed_in: httpx.AsyncClient
    ) -> None:
        body = {**REPORT, "category": "fall_from_bed", "occurred_at": "2026-10-01T08:40:00Z"}
        await web.post("/v1/incidents", headers=SAFETY, content=json.dumps(body))
        page = (await signed_in.get("/")).text
        assert "Fall from bed. The report gives a degree of harm that this site takes up. It lies further back" in page
        assert "</code> · 2026-10-01" in page

    async def test_a_colleague_as_patient_comes_with_a_short_list_of_what_to_think_of(
        self, desk: Desk, web: httpx.AsyncClient, signed_in: httpx.AsyncClient
    ) -> None:
        await doubt(desk)
        assert WORDS["checklist"]["told"] not in (await signed_in.get("/")).text
        body = {**REPORT, "category": "colleague_as_patient"}
        await web.post("/v1/incidents", headers=SAFETY, content=json.dumps(body))
        page = (await signed_in.get("/")).text
        assert all(line in page for line in WORDS["checklist"].values())

    async def test_more_than_a_page_can_hold_is_said(
        self, desk: Desk, signed_in: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("services.incident.review.page.SHOWN", 2)
        for n in range(2):
            await doubt(desk, str(n), PV1_7=f"ZZ{n}")
        assert WORDS["review"]["more"] not in (await signed_in.get("/")).text
        await doubt(desk, "3", PV1_7="ZZ3")
        page = (await signed_in.get("/")).text
        assert page.count(WORDS["review"]["more"]) == 2
        assert len(forms(page)) == 2 * 2 + 2 * 2


class TestIdentifiers:
    async def test_it_shows_the_identifier_and_neither_signal_nor_time(
        self, desk: Desk, signed_in: httpx.AsyncClient
    ) -> None:
        await unknown(desk, "ZZ9", "ZZ8^^^^^^^^OTHER")
        page = (await signed_in.get("/")).text
        assert re.search(r"Nobody on the roster has this identifier\.\s.*<code>ehr</code> · <code>ZZ9</code>", page)
        assert re.search(r"a system that is not set up here\.\s.*<code>OTHER</code> · <code>ZZ8</code>", page)
        for row in await desk.rows("incident"):
            assert row.incident_ref[:8] not in page
        assert "2026" not in told(page)
        assert "today" not in told(page)

    async def test_the_same_as_somebody_on_the_roster(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        await unknown(desk, "ZZ9")
        before = (await signed_in.get("/")).text
        [same_as, _] = forms(before)
        answer = await send(signed_in, same_as, system=" ehr ", value="B2 ")
        assert (answer.status_code, answer.headers["location"]) == (303, "/?said=resolved")
        assert await desk.kinds() == ["recorded", "amended"]
        assert [one["person_ref"] for one in (await desk.events())[1][1]["involved"]] == [BEN]
        page = (await signed_in.get("/?said=resolved")).text
        assert WORDS["said"]["resolved"] in page
        assert WORDS["queue"]["nothing"] in page
        typed = {"csrf": csrf_of(before), "system": "ehr", "value": "B2"}
        again = await signed_in.post(same_as, data=typed)
        assert (again.status_code, WORDS["said"]["gone"] in again.text) == (404, True)

    async def test_ignored_it_does_not_come_back(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        await unknown(desk, "ZZ9")
        [_, ignore] = forms((await signed_in.get("/")).text)
        answer = await send(signed_in, ignore)
        assert (answer.status_code, answer.headers["location"]) == (303, "/?said=ignored")
        await desk.send(death(ident="again", PID_3="2^^^H", PV1_7="ZZ9"))
        assert forms((await signed_in.get("/")).text) == []

    @pytest.mark.parametrize(
        ("system", "value", "problems"),
        [
            ("", "", {"system": "missing", "value": "missing"}),
            ("ehr", "  ", {"value": "missing"}),
            ("", "B2", {"system": "missing"}),
            ("ehr", "x" * 201, {"value": "not_fitting"}),
            ("e\x01hr", "B2", {"system": "not_fitting"}),
            ("ehr", "B3", {"value": "not_on_roster"}),
            ("npi", "B2", {"value": "not_on_roster"}),
            ('"><b>', "<script>", {"value": "not_on_roster"}),
        ],
    )
    async def test_what_must_be_corrected_stays_and_is_said_beside_it(
        self, desk: Desk, signed_in: httpx.AsyncClient, system: str, value: str, problems: dict[str, str]
    ) -> None:
        await unknown(desk, "ZZ9", "ZZ8")
        [same_as, *_] = forms((await signed_in.get("/")).text)
        answer = await send(signed_in, same_as, system=system, value=value)
        ref = same_as.split("/")[3]
        assert answer.status_code == 422
        for name, typed in (("system", system), ("value", value)):
            [field] = re.findall(rf'<input id="{name}-{ref}"[^\n]*', answer.text)
            escaped = typed.replace('"', "&#34;").replace("<", "&lt;").replace(">", "&gt;")
            assert f'value="{escaped}"' in field
            assert ('aria-invalid="true"' in field) == (name in problems)
            if name in problems:
                said = f'<span class="problem" id="{name}-{ref}-problem" role="alert">'
                assert said + WORDS["problem"][problems[name]] in answer.text
                assert f'aria-describedby="{name}-{ref}-hint {name}-{ref}-problem"' in field
        others = [one for one in re.findall(r"<input id=[^\n]*", answer.text) if ref not in one]
        assert len(others) == 2
        assert all('value=""' in one for one in others)
        assert answer.text.count('role="alert"') == len(problems)
        assert answer.text.count(" autofocus") == 1
        assert answer.text.count(" open>") == 1
        assert len(await desk.rows("unmatched")) == 2

    async def test_nobody_who_has_left_can_be_meant(self, desk: Desk, signed_in: httpx.AsyncClient) -> None:
        await desk.import_roster([STAFF[0]])
        await unknown(desk, "ZZ9")
        [same_as, _] = forms((await signed_in.get("/")).text)
        answer = await send(signed_in, same_as, system="ehr", value="B2")
        assert (answer.status_code, WORDS["problem"]["not_on_roster"] in answer.text) == (422, True)

    async def test_a_file_is_no_identifier(self, desk: Desk, coordinator: httpx.AsyncClient) -> None:
        await unknown(desk, "ZZ9")
        [same_as, _] = forms((await coordinator.get("/")).text)
        answer = await coordinator.post(same_as, files={"system": b"ehr"}, data={"value": "B2"})
        assert answer.status_code == 422
        assert answer.text.count(WORDS["problem"]["missing"]) == 1


class TestWords:
    def test_every_reason_there_is_has_its_words(self) -> None:
        """Read from the sources: what stands for reasons wherever a decision or a finding is made."""
        codes = {code for path in SOURCES.rglob("*.py") for code in reasons_in(path)}
        assert {"living_disposition", "older", "known", "trigger_category", "visit_cancelled"} <= codes
        assert codes == WORDS["reason"].keys()

    def test_every_category_of_the_default_policy_has_its_words(self) -> None:
        policy = IncidentPolicy()
        known = {DEATH, *policy.trigger_categories, *policy.review_categories}
        assert known <= WORDS["category"].keys()

    def test_every_state_has_its_words(self) -> None:
        assert set(State.__args__) == WORDS["state"].keys()  # type: ignore[attr-defined]


def reasons_in(path: Path) -> set[str]:
    """Reason codes of a source file: literals given to `SignalDecision` or `Evidence`, or named `reason(s)`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("SignalDecision", "Evidence"):
            found |= literals(*node.args, *(keyword.value for keyword in node.keywords))
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("reason", "reasons"):
            found |= literals(node.value.body, node.value.orelse) if isinstance(node.value, ast.IfExp) else set()
    return found


def literals(*nodes: ast.AST) -> set[str]:
    inside = [one for node in nodes for one in ast.walk(node)]
    return {one.value for one in inside if isinstance(one, ast.Constant) and isinstance(one.value, str)}

"""What the coordinator sees and can do, and what notify may ask."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request

from leeward.contracts import NotifyAttention
from leeward.testing import member
from leeward.web.access import COOKIE, AccessControl, issue
from leeward.web.app import create_app
from services.matching.coordinator import queries
from services.matching.coordinator.status import status
from tests.services.matching.hospital import Hospital, ref, supporter

NAMES: dict[str, object] = {
    "items": [{"recipient_ref": ref(f"recipient {n}"), "display_name": n.title()} for n in ("sue", "tim", "una")]
}


@pytest_asyncio.fixture
async def web(hospital: Hospital) -> AsyncIterator[httpx.AsyncClient]:
    """The service's app, beside a notify that knows three names."""
    notify = FastAPI()

    @notify.get("/v1/supporters")
    def supporters(request: Request) -> dict[str, object]:
        assert request.headers["authorization"] == hospital.context.call_headers()["Authorization"]
        return NAMES

    async with httpx.AsyncClient(transport=httpx.ASGITransport(notify)) as to_notify:
        context = replace(hospital.context, http=to_notify)
        from services.matching import build

        app = create_app(context, build(context).router)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://matching") as client:
            yield client


@pytest_asyncio.fixture
async def coordinator(hospital: Hospital, web: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same with a coordinator's token."""
    await hospital.context.store.write(lambda unit: issue(unit, "coordinator", "token", "word"))
    web.headers["Authorization"] = "Bearer word"
    return web


async def test_without_a_token_nothing_is_told(web: httpx.AsyncClient) -> None:
    case = "/v1/cases/" + ref("case")
    for path in ("/", "/v1/cases", case, f"{case}/introduction?for={ref('x')}"):
        assert (await web.get(path)).status_code == 401
    for path in (f"{case}/reassign", f"{case}/close", f"/board/cases/{ref('case')}/close", "/board/entries/x/seen"):
        assert (await web.post(path)).status_code == 401


async def test_a_case_is_four_fields_and_no_more(hospital: Hospital, coordinator: httpx.AsyncClient) -> None:
    await hospital.offered("ann")
    [case] = (await coordinator.get("/v1/cases")).json()["items"]
    assert case == {"case_ref": case["case_ref"], "state": "offered", "reasons": [], "day": "2026-11-21"}
    assert (await coordinator.get(f"/v1/cases/{case['case_ref']}")).json() == case


async def test_cases_are_listed_by_state_in_pages(hospital: Hospital, coordinator: httpx.AsyncClient) -> None:
    await hospital.incident("ann", "bob", "sue")
    await hospital.answer(hospital.last("ann"), "ended")
    await hospital.outcome(hospital.last("bob"), "failed")
    for state, number in (("waiting", 1), ("ended", 1), ("needs_attention", 1), ("closed", 0)):
        assert len((await coordinator.get("/v1/cases", params={"state": state})).json()["items"]) == number
    assert (await coordinator.get("/v1/cases", params={"state": "nonsense"})).status_code == 422
    first = (await coordinator.get("/v1/cases", params={"limit": 2})).json()
    rest = (await coordinator.get("/v1/cases", params={"limit": 2, "cursor": first["next"]})).json()
    assert (len(first["items"]), len(rest["items"]), rest["next"]) == (2, 1, None)


async def test_reassigning_and_closing(hospital: Hospital, coordinator: httpx.AsyncClient) -> None:
    offer = await hospital.supported("ann")
    path = f"/v1/cases/{offer.case_ref}"
    assert (await coordinator.post(f"{path}/reassign")).json()["state"] == "accepted"
    assert (await coordinator.post(f"{path}/close")).json()["state"] == "closed"
    assert (await coordinator.post(f"{path}/close")).json()["state"] == "closed"
    assert (await coordinator.post(f"{path}/reassign")).status_code == 409
    for name in ("", "/reassign", "/close"):
        call = coordinator.post if name else coordinator.get
        assert (await call(f"/v1/cases/{ref('nothing')}{name}")).status_code == 404


async def test_introductions_are_for_our_services_alone(hospital: Hospital, coordinator: httpx.AsyncClient) -> None:
    offer = await hospital.supported("ann")
    path, params = f"/v1/cases/{offer.case_ref}/introduction", {"for": ref("recipient ann")}
    assert (await coordinator.get(path, params=params)).status_code == 401
    coordinator.headers.update(hospital.context.call_headers())
    answer = await coordinator.get(path, params=params)
    assert answer.json() == {"recipient_ref": hospital.asking().recipient_ref}
    await hospital.answer(offer, "ended")
    assert (await coordinator.get(path, params=params)).status_code == 404


async def test_the_board_reads_as_sentences_and_names_supporters_alone(
    hospital: Hospital, coordinator: httpx.AsyncClient
) -> None:
    await hospital.staff(*hospital.members, member("Zoltan", unit="Burns", profession="perfusionist"))
    incident = await hospital.incident("ann", "Zoltan")
    await hospital.outcome(hospital.last("ann"), "failed")
    page = (await coordinator.get("/")).text
    assert "A message could not be delivered." in page
    assert "They might like to meet as a group" in page
    review = hospital.context.settings.url("incident")
    assert f'href="{review}/review/signals/{incident}"' in page
    assert f'href="{review}/">Signals to review' in page
    assert page.index("could not be delivered") < page.index("meet as a group"), "most urgent first"
    assert "Sue" in page
    assert "Zoltan" not in page
    for word in ("Burns", "perfusionist", "nurse", "Leeward", "victim"):
        assert word not in page


async def test_a_busy_supporter_is_not_available_and_nobody_learns_why(
    hospital: Hospital, coordinator: httpx.AsyncClient
) -> None:
    await hospital.incident("sue")
    page = (await coordinator.get("/")).text
    assert re.search(r"Sue</span>\s*<span class=\"since\">Not available", page)
    assert re.search(r"Tim</span>\s*<span class=\"since\">Can take somebody on", page)
    assert "exposure" not in page


async def test_a_case_with_two_reasons_has_a_line_and_a_button_for_each(
    hospital: Hospital, coordinator: httpx.AsyncClient
) -> None:
    offer = await hospital.offered("ann")
    await hospital.answer(offer, "talk_now", unacknowledged="yes")
    await hospital.outcome(offer, "failed")
    page = (await coordinator.get("/")).text
    case = offer.case_ref
    assert re.findall(r'action="/board/cases/([^"]+)"', page) == [f"{case}/attended", f"{case}/reassign"]
    assert (await coordinator.get(f"/v1/cases/{case}")).json()["reasons"] == ["on_call_silent", "unreachable"]
    await coordinator.post(f"/board/cases/{case}/attended")
    assert (await coordinator.get(f"/v1/cases/{case}")).json()["reasons"] == ["unreachable"]


async def test_without_notify_the_board_still_stands(
    hospital: Hospital, coordinator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NAMES, "items", "nonsense")
    page = await coordinator.get("/")
    assert page.status_code == 200
    assert "Supporter names are not reachable right now." in page.text


async def test_buttons_of_a_signed_in_coordinator_need_the_forms_own_field(
    hospital: Hospital, web: httpx.AsyncClient
) -> None:
    await hospital.incident("ann")
    await hospital.outcome(hospital.last("ann"), "failed")
    await hospital.incident()
    web.cookies.set(COOKIE, AccessControl(hospital.context).open_session("coordinator"))
    page = (await web.get("/")).text
    actions = re.findall(r'action="(/board/[^"]+)"', page)
    [csrf, *_] = re.findall(r'name="csrf" value="([^"]+)"', page)
    assert len(actions) == 2
    for action in actions:
        assert (await web.post(action)).status_code == 403
        assert (await web.post(action, data={"csrf": csrf})).status_code == 303
    assert (await hospital.case()).state == "waiting"
    assert "Nothing needs you right now." in (await web.get("/")).text
    assert (await web.post(actions[0] + "nonsense", data={"csrf": csrf})).status_code == 404


async def test_figures_and_gaps(hospital: Hospital) -> None:
    await hospital.staff(member("dan", email=""), supporter("sue", training_completed=None, training_expires=None))
    await hospital.incident("dan")
    found = await hospital.context.store.read(lambda conn: status(conn, hospital.context.settings))
    assert found["gaps"] == ["no_supporters", "no_shift_data", "people_unreachable"]
    assert found["cases"] == {"needs_attention": 1}
    assert found["reasons"] == {"unreachable": 1, "no_supporter": 1}
    assert found["roster"]["people"] == 2
    assert found["mode"] == "live"


async def test_what_was_given_up_stands_until_it_is_seen_to(hospital: Hospital, coordinator: httpx.AsyncClient) -> None:
    """Of notify by an event without a reference, of matching by its own table; no button ends either."""
    store = hospital.context.store
    parked = store.writes.tables.parked
    for _ in range(2):
        await hospital.event(NotifyAttention(kind="dead_letter", standing="yes"))
    row = {"topic": "leeward.notify", "type": "x", "key": "", "body": "", "attempts": 8, "fault": "", "place": ""}
    times = {"accepted_at": hospital.clock.now(), "due_at": hospital.clock.now(), "parked_on": hospital.clock.now()}
    await store.write(lambda unit: unit.conn.execute(parked.insert().values(event_id="e", dead=1, **row, **times)))
    await hospital.outcome(await hospital.offered("ann"), "failed")

    page = (await coordinator.get("/")).text
    assert page.count("Something could not be worked on") == 2
    assert page.index("Something could not be worked on") < page.index("A message could not be delivered")
    assert page.index("<code>matching</code>") < page.index("<code>notify</code>")
    assert page.count("<button") == 1
    figures = await store.read(lambda conn: status(conn, hospital.context.settings))
    assert figures["reasons"] == {"dead_letter": 2, "unreachable": 1}

    entries = await store.read(queries.read_entries)
    for entry in entries:
        await coordinator.post(f"/board/entries/{entry.entry_ref}/seen")
    assert await store.read(queries.read_entries) == entries
    await store.write(lambda unit: unit.conn.execute(parked.update().values(dead=2)))
    assert (await coordinator.get("/")).text.count("Something could not be worked on") == 1
    for standing in ("yes", "no", "no"):
        await hospital.event(NotifyAttention(kind="dead_letter", standing=standing))
    assert "Something could not be worked on" not in (await coordinator.get("/")).text


def test_every_reason_and_action_has_its_words() -> None:
    import tomllib
    from pathlib import Path

    import services.matching
    from services.matching.coordinator.board import ENTRIES
    from services.matching.lifecycle.case import ACTIONS, STAGES, URGENCY

    text = (Path(str(services.matching.__file__)).parent / "templates" / "en.toml").read_text()
    words = tomllib.loads(text)
    assert set(ACTIONS) == set(URGENCY)
    assert words["reason"].keys() == {*ACTIONS, *ENTRIES}
    # what nobody can settle from the board has no button
    assert words["action"].keys() == {*ACTIONS, *ENTRIES} - {"dead_letter"}
    assert words["state"].keys() == {*STAGES, "needs_attention"}

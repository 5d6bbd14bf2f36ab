"""From a closed case to a released figure, over real HTTP, with the page's own steps."""

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from services.feedback import blind
from services.feedback.issuer.models import CLAIM
from services.feedback.reports import CAPPED, ITEMS
from tests.services.feedback.conftest import ENOUGH, EPOCH, TOKENS, Feedback, node


@pytest.mark.database("sqlite", "postgresql")
async def test_ten_ratings_become_one_release(feedback: Feedback) -> None:
    codes = await feedback.codes(ENOUGH)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    assert await feedback.spend(codes[1:], answer=5, tags=["listening"]) == ["kept"] * 9
    assert await feedback.spend(codes[:1], answer=1) == ["kept"]
    assert await feedback.reports() == [], "nothing is said while the window is open"

    await feedback.window_ends()
    (release,) = await feedback.reports()
    assert (release["release"], release["n"]) == (1, 10)
    assert (release["from"], release["to"]) == ("2026-11-21", "2026-11-23")
    most = {"agree": CAPPED, "neither": None, "disagree": None, "no_answer": None}
    assert release["items"] == dict.fromkeys(ITEMS, most)
    assert release["tags"]["listening"] == CAPPED


async def test_too_few_answers_wait_for_the_next_epoch(feedback: Feedback) -> None:
    for answers, expected in ((4, []), (6, [10])):
        codes = await feedback.codes(answers)
        await feedback.clock.advance(days=EPOCH.days)
        await feedback.window_opens()
        await feedback.spend(codes, answer=4)
        await feedback.window_ends()
        assert [release["n"] for release in await feedback.reports()] == expected


async def test_an_epoch_needs_both_its_time_and_its_tokens(feedback: Feedback) -> None:
    (first,) = await feedback.epochs("issuer")
    await feedback.codes(TOKENS - 1)
    await feedback.clock.advance(days=EPOCH.days * 3)
    await asyncio.sleep(0.1)
    assert await feedback.epochs("issuer") == {first: "issuing"}, "long enough, one token short"

    await feedback.codes(1)
    await feedback.until(lambda: _is(feedback, first, "rating"))
    assert sorted((await feedback.epochs("issuer")).values()) == ["issuing", "rating"]


async def _is(feedback: Feedback, epoch: str, state: str) -> bool:
    return (await feedback.epochs("issuer"))[epoch] == state


async def test_a_code_opens_nothing_outside_its_window(feedback: Feedback) -> None:
    codes = await feedback.codes(TOKENS)
    assert await feedback.refusal(codes[0]) == "not-open"
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    await feedback.window_ends()
    assert await feedback.refusal(codes[0]) == "not-open"


async def spending(feedback: Feedback, code: str, answer: int = 5) -> dict[str, Any]:
    """The body that the page sends for a code."""
    token = await node("readCode", [code])
    window = (await feedback.http.get(f"{feedback.box}/v1/epochs")).json()["epochs"]
    (key,) = [epoch["seal_key"] for epoch in window if epoch["epoch"] == token["epoch"]]
    rating = {"items": dict.fromkeys(ITEMS, answer), "tags": []}
    return {**token, **await node("seal", [key, rating])}


async def test_a_token_is_spent_once(feedback: Feedback) -> None:
    code, other, *_ = await feedback.codes(TOKENS)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()

    async def send(body: dict[str, Any]) -> tuple[int, str]:
        answer = await feedback.http.post(f"{feedback.box}/v1/ratings", json=body)
        return answer.status_code, answer.json().get("result") or answer.json()["type"]

    body = await spending(feedback, code)
    assert await send(body) == (200, "kept")
    assert await send(body) == (200, "kept"), "sent twice by a shaky line"
    assert await send(await spending(feedback, code, answer=1)) == (409, "/problems#already-given")

    forged = {**body, "prepared": (await spending(feedback, other))["prepared"]}
    assert await send(forged) == (403, "/problems#no-token")
    short = {**body, "sealed": base64.b64encode(b"x" * 100).decode()}
    assert (await send(short))[0] == 422
    assert (await send({**body, "name": "somebody"}))[0] == 422


async def test_a_case_fetches_one_token(feedback: Feedback) -> None:
    case = await feedback.close_case()
    await feedback.known(case)
    (key,) = (await feedback.http.get(f"{feedback.issuer}/v1/keys")).json()["epochs"]

    async def ask(assertion: str, blinded: str, epoch: str | None = None) -> tuple[int, dict[str, Any]]:
        body = {"assertion": assertion, "blinded": blinded} | ({"epoch": epoch} if epoch else {})
        answer = await feedback.http.post(f"{feedback.issuer}/v1/claims/mint", json=body)
        assert answer.headers["access-control-allow-origin"] == feedback.box
        return answer.status_code, answer.json()

    state = await node("begin", [key])
    other = await node("begin", [key])
    blinded, twin = str(state["blinded"]), str(other["blinded"])
    assertion = feedback.assertion(case)

    assert (await ask(assertion, blinded, "0" * 16))[1]["type"] == "/problems#epoch-changed"
    first = await ask(assertion, blinded, key["epoch"])
    assert first[0] == 200
    assert await ask(feedback.assertion(case), blinded) == first, "the same request again, a page later"
    assert (await ask(assertion, twin))[1]["type"] == "/problems#already-used"
    assert (await ask(feedback.assertion("0" * 8), twin))[1]["type"] == "/problems#not-yet"

    strangers = [await ask(text, twin) for text in ("", "a.b.c", feedback.assertion(case, valid=-timedelta(minutes=1)))]
    assert strangers == [strangers[0]] * 3, "whatever is wrong with an assertion, the answer is the same"
    assert strangers[0][0] == 403
    assert (await ask(assertion, "no base64"))[0] == 422


async def test_the_key_is_published_with_its_fingerprint_and_no_time(feedback: Feedback) -> None:
    (key,) = (await feedback.http.get(f"{feedback.issuer}/v1/keys")).json()["epochs"]
    assert blind.fingerprint(base64.b64decode(key["key"])) == key["fingerprint"]
    assert key["fingerprint"].startswith(key["epoch"])
    assert (key["opened_on"], key["closed_on"], key["issued"]) == ("2026-11-21", None, None)
    (pinned,) = (await feedback.http.get(f"{feedback.box}/v1/epochs")).json()["epochs"]
    assert pinned["fingerprint"] == key["fingerprint"]


async def test_neither_database_holds_what_would_join_them(feedback: Feedback) -> None:
    case = await feedback.close_case()
    await feedback.known(case)
    (key,) = (await feedback.http.get(f"{feedback.issuer}/v1/keys")).json()["epochs"]
    state = await node("begin", [key])
    assertion = feedback.assertion(case)
    body = {"assertion": assertion, "blinded": state["blinded"]}
    signed = (await feedback.http.post(f"{feedback.issuer}/v1/claims/mint", json=body)).json()["signature"]
    code = str((await node("finish", [state, signed]))["code"])
    await feedback.codes(TOKENS - 1)
    await feedback.clock.advance(days=EPOCH.days)
    await feedback.window_opens()
    spent = await spending(feedback, code)
    assert (await feedback.http.post(f"{feedback.box}/v1/ratings", json=spent)).status_code == 200

    def traces(*values: object) -> list[bytes]:
        texts = [str(value) for value in values]
        return [text.encode() for text in texts] + [base64.b64decode(text + "==") for text in texts if "-" not in text]

    at_the_box, at_the_issuer = await feedback.content("box"), await feedback.content("issuer")
    sealed = base64.b64decode(spent["sealed"])
    assert case.encode() in at_the_issuer, "this search does find what is there"
    assert sealed in at_the_box
    for trace in traces(spent["prepared"], spent["signature"], spent["sealed"], state["inv"]):
        assert trace not in at_the_issuer
    for trace in [case.encode(), assertion.encode(), *traces(state["blinded"], signed, state["inv"])]:
        assert trace not in at_the_box

    await feedback.window_ends()
    assert sealed not in await feedback.content("box"), "opened, and what was sealed is overwritten"
    assert case.encode() not in await issuer_after_its_epoch(feedback)


async def issuer_after_its_epoch(feedback: Feedback) -> bytes:
    await feedback.clock.advance(hours=2)
    store = feedback.runtime.running["issuer"].context.store

    async def forgotten() -> bool:
        await store.tidy()
        return await store.read(lambda conn: conn.execute(select(func.count()).select_from(CLAIM)).scalar_one()) == 0

    await feedback.until(forgotten)
    return await feedback.content("issuer")

"""Mail servers with manners of their own: nobody is lost, nothing comes twice, and nobody delays the others."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from leeward.testing import HANGS_UP, MANNERS, MailServer, eventually
from services.notify.channels import Letter, Result
from services.notify.channels.email import smtp
from services.notify.channels.email.message import Mailer
from services.notify.channels.email.smtp import Email, SmtpServer
from services.notify.channels.webhook import pause_of
from services.notify.channels.wording import wording
from services.notify.delivery.illness import MANY, WITHIN, Illness
from services.notify.models import DELIVERY, RECIPIENT
from tests.services.notify.conftest import PEOPLE_TO_CALL, POLICY, MakeWorld
from tests.services.notify.world import ANNA, SAM, World, member, when

NOW = when("2026-11-21T09:00:00+00:00")


def channel(server: MailServer, password: str | None = None) -> Email:
    """One lane to this server."""
    user = "leeward" if password else None
    at = SmtpServer("127.0.0.1", server.port, user, password, tls=False, starttls=False)
    return Email(at, Mailer("note@mail.example", "https://notes.example", wording), lambda: NOW, 1)


def letter(key: str = "a" * 32) -> Letter[str]:
    return Letter(key, "message", "t" * 32, "anna@hospital.example", "en")


async def pass_time(world: World, minutes: int, rounds: int) -> None:
    for _ in range(rounds):
        await asyncio.sleep(0.05)
        await world.clock.advance(minutes=minutes)


@pytest.mark.parametrize("name", MANNERS)
async def test_whatever_a_server_does_once_the_message_arrives_once(world: World, name: str) -> None:
    verb, reply = MANNERS[name]
    world.mail.replies[verb] = [reply]
    await world.asks(ANNA)
    await eventually(lambda: not world.mail.replies[verb])
    await pass_time(world, 2, 3)
    await world.mailed(1)
    await eventually(lambda: world.outcomes() == ["handed_off"])
    assert all(row.email for row in await world.rows(RECIPIENT))


async def test_a_relay_that_refuses_by_policy_costs_nobody_address_or_message(world: World) -> None:
    people = [member(f"p{n}", mobile="") for n in range(10)]
    await world.people(ANNA, SAM, *people)
    verb, world.mail.manners["RCPT"] = MANNERS["refuses by policy"]
    await world.happens(*(world.request(person) for person in people))
    await pass_time(world, 2, 5)
    assert {row.state for row in await world.rows(DELIVERY)} <= {"queued", "sending"}
    assert all(row.email for row in await world.rows(RECIPIENT))
    assert [unready() for unready in world.parts.unready] == ["channel_refuses_all"]
    del world.mail.manners[verb]
    await pass_time(world, 2, 5)
    await world.mailed(10)
    await eventually(lambda: world.outcomes() == ["handed_off"] * 10)
    assert [unready() for unready in world.parts.unready] == [""]


async def test_hours_of_temporary_refusals_give_nobody_up(world: World) -> None:
    _, world.mail.manners["RCPT"] = MANNERS["greylists"]
    await world.asks(ANNA)
    await pass_time(world, 60, 12)
    assert world.outcomes() == []
    world.mail.manners.clear()
    await pass_time(world, 60, 3)
    await eventually(lambda: world.outcomes() == ["handed_off"])


async def test_one_at_whom_the_server_hangs_up_delays_nobody(world: World) -> None:
    world.mail.for_address["anna@hospital.example"] = HANGS_UP
    await world.asks(ANNA)
    await eventually(lambda: world.mail.connections > 0)
    await asyncio.sleep(0.05)
    await world.asks(SAM)
    await world.mailed(1)
    await pass_time(world, 1, 5)
    # tried again later each time: at once, after 5 s, 30 s, 2 min, and not 27 times a minute
    assert world.mail.connections <= 6


async def test_a_call_that_waits_does_not_leave_after_the_acknowledgement(make_world: MakeWorld) -> None:
    world = await make_world(POLICY + PEOPLE_TO_CALL)
    await world.asks(ANNA)
    [link] = await world.mailed()
    world.mail.for_address["second@hospital.example"] = "450 4.2.0 later"
    await world.client.post(link, data={"answer": "talk_now"})
    links = await world.mailed(2)

    async def states() -> list[str]:
        return sorted(row.state for row in await world.rows(DELIVERY) if row.kind == "call")

    async def one_waits() -> bool:
        return await states() == ["handed_off", "queued"]

    await eventually(one_waits)
    await world.browser().post(links[1], data={"answer": "acknowledge"})
    assert await states() == ["cancelled", "handed_off"], "called off with the acknowledgement"
    world.mail.for_address.clear()
    await pass_time(world, 1, 5)
    assert await states() == ["cancelled", "handed_off"]
    await world.mailed(2)


async def test_a_gateway_that_takes_nothing_from_us_is_ill_and_nothing_is_given_up(make_world: MakeWorld) -> None:
    world = await make_world(smtp=False, webhook=True)
    world.http.statuses = [401, 403]
    await world.asks(ANNA)
    await eventually(lambda: [unready() for unready in world.parts.unready] == ["channel_refuses_us"])
    await pass_time(world, 2, 3)
    await eventually(lambda: world.outcomes() == ["handed_off"])
    assert [unready() for unready in world.parts.unready] == [""]


async def test_a_wrong_password_is_the_channel_s_fault_until_it_is_right() -> None:
    server = MailServer()
    server.password = "right"
    await server.start()
    email = channel(server, "wrong")
    assert await email.send(letter(), 0) is Result.ILL
    server.password = "wrong"
    assert await email.send(letter(), 0) is Result.TAKEN
    await email.close()
    await server.stop()


async def test_a_slow_final_dot_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other reply has 0.3 s here, and the dot takes 0.4 s."""
    assert (smtp.PATIENCE, smtp.PATIENCE_FOR_THE_DOT) == (300, 600)
    monkeypatch.setattr(smtp, "PATIENCE", 0.3)
    server = MailServer()
    server.slow = asyncio.Event()
    await server.start()
    email = channel(server)
    sending = asyncio.create_task(email.send(letter(), 0))
    await eventually(lambda: server.received)
    await asyncio.sleep(0.4)
    server.slow.set()
    assert await sending is Result.TAKEN
    assert len(server.received) == 1
    await email.close()
    await server.stop()


async def test_a_stale_connection_is_not_used_and_a_broken_one_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = MailServer()
    await server.start()
    email = channel(server)
    assert await email.send(letter("a" * 32), 0) is Result.TAKEN
    assert await email.send(letter("b" * 32), 0) is Result.TAKEN
    assert server.connections == 1
    monkeypatch.setattr(smtp, "LONGEST_IDLE", 0.0)
    assert await email.send(letter("c" * 32), 0) is Result.TAKEN
    assert server.connections == 2
    monkeypatch.undo()
    server.replies["MAIL"] = [HANGS_UP]
    assert await email.send(letter("d" * 32), 0) is Result.TAKEN
    assert server.connections == 3
    assert len(server.received) == 4
    await email.close()
    await server.stop()


def test_a_refusal_is_final_after_an_hour_unless_many_are_refused() -> None:
    illness = Illness()
    assert illness.judge(Result.REFUSED, "k", "anna", NOW) is Result.LATER
    assert illness.judge(Result.REFUSED, "k", "anna", NOW + WITHIN) is Result.REFUSED
    for number in range(MANY - 1):
        illness.judge(Result.TAKEN, "t", "sam", NOW)
        assert illness.judge(Result.BOUNCED, str(number), str(number), NOW) is Result.BOUNCED
    later = NOW + timedelta(minutes=1)
    illness.judge(Result.TAKEN, "t", "sam", NOW)
    judged = [illness.judge(Result.REFUSED, str(number), str(number), later) for number in range(MANY)]
    assert judged == [Result.LATER] * (MANY - 1) + [Result.ILL]
    assert illness.reason == "channel_refuses_all"


@pytest.mark.parametrize("date", [False, True], ids=["seconds", "date"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_gateway_says_when_it_wants_the_letter_again(make_world: MakeWorld, status: int, date: bool) -> None:
    world = await make_world(smtp=False, webhook=True)
    world.http.statuses = [status]
    world.http.retry_after = format_datetime(world.clock.now() + timedelta(hours=2), usegmt=True) if date else "7200"
    await world.asks(ANNA)

    async def tried() -> bool:
        return [row.attempts for row in await world.rows(DELIVERY)] == [1]

    await eventually(tried)
    await world.clock.advance(minutes=119)
    await asyncio.sleep(0.1)
    assert len(world.http.received) == 1
    await world.clock.advance(minutes=2)
    await eventually(lambda: world.outcomes() == ["handed_off"])


@pytest.mark.parametrize("said", ["", "soon", "-1", "Wed, 99 Nov 2026 09:00:00 GMT"])
def test_a_pause_that_cannot_be_read_is_none(said: str) -> None:
    assert pause_of(said, datetime(2026, 11, 21, 9, tzinfo=UTC)) is None


def test_a_date_that_is_over_is_no_pause() -> None:
    assert pause_of("Fri, 20 Nov 2026 09:00:00 GMT", datetime(2026, 11, 21, 9, tzinfo=UTC)) == timedelta()

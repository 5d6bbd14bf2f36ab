"""A channel is its entry in the registry: one that stands there alone is used, checked and repeated as it says."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import pytest
from sqlalchemy import String
from sqlalchemy.util.concurrency import greenlet_spawn

from leeward.contracts import ReachabilityChanged
from leeward.settings import Settings, SettingsError
from leeward.settings.policy import CHANNEL_SECRETS, Channels
from leeward.testing import eventually
from services.commands.operate import doctor
from services.notify import SERVICE
from services.notify.channels import ChannelEntry, ChannelFinding, Contact, Letter, Now, Result, registry
from services.notify.models import DELIVERY, METADATA, RECIPIENT
from tests.conftest import MakeContext
from tests.services.notify.conftest import MakeWorld
from tests.services.notify.world import ANNA, World, member

KIM = member("kim", email="", mobile="+44 20 7946 0002")
PAGER_POLICY = '[outreach]\nmode = "live"\nquiet_hours = ""\njitter = "0s"\n'


@dataclass
class Pager:
    """A channel of the test's own: it takes mobile numbers alone and reports what the test wants."""

    results: list[Result] = field(default_factory=list)
    sent: list[Letter[str]] = field(default_factory=list)
    closed: bool = False

    async def send(self, letter: Letter[str], lane: int) -> Result:
        self.sent.append(letter)
        return self.results.pop(0) if self.results else Result.TAKEN

    async def close(self) -> None:
        self.closed = True

    def make(self, settings: Settings, now: Now, lanes: int) -> "Pager":
        assert settings.outreach.mode == "live"
        assert isinstance(now(), datetime)
        assert lanes == 2
        return self


async def check(_settings: Settings) -> Sequence[ChannelFinding]:
    return [ChannelFinding("warning", "the pager's battery is low", "change it")]


def entry(pager: Pager, repeats_in_doubt: int = 0) -> ChannelEntry[str]:
    return ChannelEntry(
        name="pager",
        turned_on_by="channels.pager",
        is_on=lambda _settings: True,
        address=lambda contact: contact.mobile,
        lanes=2,
        repeats_in_doubt=repeats_in_doubt,
        make=pager.make,
        check=check,
    )


@pytest.fixture
def pager(monkeypatch: pytest.MonkeyPatch) -> Pager:
    """A pager that is one line of the registry, behind the channels of every day."""
    made = Pager()
    monkeypatch.setattr(registry, "CHANNELS", (*registry.CHANNELS, entry(made)))
    return made


async def states(world: World) -> list[tuple[str, str]]:
    return [(row.channel, row.state) for row in await world.rows(DELIVERY)]


async def test_whoever_only_the_new_channel_reaches_is_written_to_by_it(make_world: MakeWorld, pager: Pager) -> None:
    world = await make_world(PAGER_POLICY)
    await world.people(KIM)
    await world.asks(KIM)
    await eventually(lambda: world.outcomes() == ["handed_off"])
    assert await states(world) == [("pager", "handed_off")]
    (letter,) = pager.sent
    assert letter.address == KIM.mobile
    page = await world.client.get(letter.link(""))
    assert page.status_code == 200
    await world.stop()
    assert pager.closed


async def test_it_is_asked_only_for_whom_no_channel_before_it_reaches(make_world: MakeWorld, pager: Pager) -> None:
    world = await make_world(PAGER_POLICY)
    lee = member("lee", mobile="")
    await world.people(KIM, lee)
    await world.asks(lee)
    await world.mailed()
    assert pager.sent == []


@pytest.mark.parametrize(("repeats", "attempts"), [(0, 1), (2, 3)])
async def test_an_attempt_in_doubt_is_repeated_as_often_as_its_entry_says(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, repeats: int, attempts: int
) -> None:
    pager = Pager(results=[Result.UNSURE] * 10)
    monkeypatch.setattr(registry, "CHANNELS", (entry(pager, repeats),))
    world = await make_world(PAGER_POLICY)
    await world.people(KIM)
    await world.asks(KIM)
    await world.in_time(lambda: world.outcomes() == ["unknown"])
    assert len(pager.sent) == attempts
    assert len({letter.key for letter in pager.sent}) == 1


async def test_a_bounce_of_it_leaves_the_mail_address_alone(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    pager = Pager(results=[Result.BOUNCED])
    monkeypatch.setattr(registry, "CHANNELS", (entry(pager), *registry.CHANNELS))
    world = await make_world(PAGER_POLICY)
    await world.asks(ANNA)
    await eventually(lambda: world.outcomes() == ["failed"])
    assert [row.email for row in await world.rows(RECIPIENT) if row.recipient_ref == ANNA.recipient_ref] == [ANNA.email]
    assert not any(isinstance(event, ReachabilityChanged) for event in world.told)


async def test_doctor_says_what_its_check_finds(make_world: MakeWorld, pager: Pager) -> None:
    world = await make_world(PAGER_POLICY, smtp=False, started=False)
    found = await greenlet_spawn(lambda: list(doctor.channels(world.context.settings)))
    assert [str(finding) for finding in found] == ["warning: the pager's battery is low; change it"]


def test_without_a_variable_that_it_requires_nothing_starts(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = replace(entry(Pager()), required={"PAGER_TOKEN": "the pager answers nobody without"})
    monkeypatch.setattr(registry, "CHANNELS", (needy,))
    with pytest.raises(SettingsError, match=r"^LEEWARD_PAGER_TOKEN: is missing; the pager answers nobody without$"):
        SERVICE.build(make_context("notify", METADATA))


@pytest.mark.parametrize("place", range(len(registry.CHANNELS)))
async def test_every_channel_is_whole(place: int) -> None:
    listed = registry.CHANNELS[place]
    stored = DELIVERY.c.channel.type
    assert isinstance(stored, String)
    assert 0 < len(listed.name) <= (stored.length or 0)
    assert [one.name for one in registry.CHANNELS].count(listed.name) == 1
    assert listed.lanes > 0
    assert listed.repeats_in_doubt >= 0
    assert listed.address(Contact("anna@hospital.example", "+44 20 7946 0001"))
    assert not listed.address(Contact("", ""))


def test_each_section_of_the_policy_has_its_channel_and_each_channel_its_variables() -> None:
    assert set(Channels.model_fields) <= {listed.name for listed in registry.CHANNELS}
    assert {name for listed in registry.CHANNELS for name in listed.required} <= CHANNEL_SECRETS.keys()

"""The MLLP port over TLS: who we are, whose certificate is taken, and for which source it speaks."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leeward import telemetry
from leeward.settings import Settings, SettingsError, load_settings
from leeward.settings.policy import Match
from services.commands.console import Failed
from services.commands.sources.hl7 import MllpConnection, Tls
from services.incident import listen
from services.incident.sources.hl7v2.mllp import framed
from services.incident.sources.hl7v2.tls import peer_verifier_of
from tests.certificates import Authority, Pair
from tests.senders import send
from tests.services.commands.conftest import free_port
from tests.services.incident.conftest import Desk, codes, death, hl7
from tests.services.incident.sources.hl7v2.ports import answer, closed

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ENGINE = "engine.hospital.example"
HOSPITAL = Authority()
SERVER = HOSPITAL.pair("127.0.0.1", client=False)
CLIENT = HOSPITAL.pair(ENGINE)
VARIABLES = {"MLLP_CERTIFICATE": SERVER.certificate, "MLLP_KEY": SERVER.key, "MLLP_CLIENT_CA": HOSPITAL.pem}


def secured(desk: Desk, host: str = "127.0.0.1", **variables: str) -> Desk:
    """The same service with certificates: the engine's speaks for `ehr`, whose `match` fits nothing."""
    ehr = desk.context.settings.sources["ehr"]
    sources = {
        "lab": ehr,
        "ehr": ehr.model_copy(update={"certificate": (ENGINE.upper(),), "match": Match(msh3="NOBODY")}),
    }
    return changed(desk, sources=sources, mllp_port=free_port(), host=host, variables=variables or VARIABLES)


def changed(desk: Desk, **settings: Any) -> Desk:
    return Desk(replace(desk.context, settings=desk.context.settings.model_copy(update=settings)))


@asynccontextmanager
async def serving(desk: Desk) -> AsyncIterator[int]:
    """The listener as a start makes it; gives its port."""
    stop, settings = asyncio.Event(), desk.context.settings
    running = asyncio.create_task(listen(settings, desk.receiver, stop))
    await asyncio.sleep(0.01)
    yield settings.mllp_port
    stop.set()
    await running


@asynccontextmanager
async def connected(port: int, pair: Pair | None, folder: Path, **limits: ssl.TLSVersion) -> AsyncIterator[Streams]:
    context = ssl.create_default_context(cadata=HOSPITAL.pem)
    for name, version in limits.items():
        setattr(context, name, version)
    if pair:
        context.load_cert_chain(*pair.write(folder, "client"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(connecting: AbstractAsyncContextManager[Streams]) -> bool:
    """Whether a message is answered over it."""
    try:
        async with connecting as (reader, writer):
            writer.write(framed(death()))
            return bool(await answer(reader))
    except (ssl.SSLError, ConnectionResetError, asyncio.IncompleteReadError):
        return False


def refused(reason: str) -> Callable[[], float]:
    """How often the port has refused somebody for this reason since now."""
    counter = telemetry.MESSAGES_REFUSED.labels("mllp", reason)._value
    before = counter.get()
    return lambda: counter.get() - before


async def test_a_right_certificate_speaks_for_its_source_alone(desk: Desk, tmp_path: Path) -> None:
    desk = secured(desk)
    async with serving(desk) as port, connected(port, CLIENT, tmp_path) as (reader, writer):
        writer.write(framed(death(ident="1")) + framed(b"rubbish") + framed(hl7(ident="2")))
        assert codes([await answer(reader) for _ in range(3)]) == ["AA", "AR", "AA"]
    assert [row.source for row in await desk.rows("raw_message")] == ["ehr", "ehr"]
    assert await desk.kinds() == ["recorded"]


async def test_a_third_partys_client_speaks_mutual_tls(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(HOSPITAL.pem)
    files = tmp_path / "ca.pem", *CLIENT.write(tmp_path, "client")
    async with serving(secured(desk)) as port:
        sending = asyncio.to_thread(send, "node-hl7-client", port, death(ident="77").decode(), tmp_path, *files)
        assert await sending == "AA 77"
    assert await desk.kinds() == ["recorded"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "pair",
    [
        None,
        pytest.param(Authority().pair(ENGINE), id="another authority"),
        pytest.param(HOSPITAL.pair(ENGINE, days=-1), id="run out"),
        pytest.param(HOSPITAL.pair(ENGINE, client=False), id="a server's"),
    ],
)
async def test_a_wrong_certificate_is_refused_in_the_handshake(
    desk: Desk, tmp_path: Path, pair: Pair | None, version: ssl.TLSVersion
) -> None:
    times = refused("handshake")
    async with serving(secured(desk)) as port:
        assert not await answered(connected(port, pair, tmp_path, maximum_version=version))
    assert times() == 1
    assert await desk.rows("raw_message") == []


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(HOSPITAL.pair("printer.hospital.example"), id="another name"),
        pytest.param(HOSPITAL.pair("printer.hospital.example", common=ENGINE), id="the name only beside others"),
        pytest.param(HOSPITAL.pair(), id="no name"),
    ],
)
async def test_a_certificate_that_no_source_lists_is_let_go(desk: Desk, tmp_path: Path, pair: Pair) -> None:
    times = refused("unknown_certificate")
    desk = secured(desk)
    async with serving(desk) as port, connected(port, pair, tmp_path) as (reader, writer):
        writer.write(framed(death()))
        assert await closed(reader)
    assert times() == 1
    assert await desk.rows("raw_message") == []


async def test_a_common_name_counts_where_there_is_no_other(desk: Desk, tmp_path: Path) -> None:
    async with serving(secured(desk)) as port:
        assert await answered(connected(port, HOSPITAL.pair(common=ENGINE), tmp_path))


async def test_nobody_is_served_in_the_clear(desk: Desk) -> None:
    times = refused("handshake")
    async with serving(secured(desk)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(framed(death()))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await answer(reader)
        writer.close()
    assert times() == 1
    assert await desk.rows("raw_message") == []


@pytest.mark.parametrize("names", [(), ("MLLP_CERTIFICATE", "MLLP_KEY")])
async def test_off_loopback_the_port_stays_shut_without_an_authority(desk: Desk, names: tuple[str, ...]) -> None:
    variables = {name: VARIABLES[name] for name in names}
    async with serving(changed(desk, mllp_port=free_port(), host="0.0.0.0", variables=variables)) as port:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_off_loopback_the_port_opens_for_certificates(desk: Desk, tmp_path: Path) -> None:
    async with serving(secured(desk, "0.0.0.0")) as port:
        assert await answered(connected(port, CLIENT, tmp_path))


async def test_our_own_command_sends_over_tls(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(HOSPITAL.pem)
    cert, key = CLIENT.write(tmp_path, "client")
    context = Tls(tmp_path / "ca.pem", cert, key).context()

    def send(port: int) -> str:
        with MllpConnection("127.0.0.1", port, context) as line:
            return line.exchange(death()).code

    async with serving(secured(desk)) as port:
        assert await asyncio.to_thread(send, port) == "AA"
    with pytest.raises(Failed, match="--ca, --cert, --key"):
        Tls(tmp_path / "ca.pem", key).context()


async def test_without_an_authority_it_is_tls_on_loopback(desk: Desk, tmp_path: Path) -> None:
    variables = {name: VARIABLES[name] for name in ("MLLP_CERTIFICATE", "MLLP_KEY")}
    async with serving(changed(desk, mllp_port=free_port(), variables=variables)) as port:
        assert await answered(connected(port, None, tmp_path))


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"MLLP_CERTIFICATE": ""}, "LEEWARD_MLLP_CERTIFICATE: is missing"),
        ({"MLLP_KEY": ""}, "LEEWARD_MLLP_KEY: is missing"),
        ({"MLLP_CLIENT_CA": ""}, "LEEWARD_MLLP_CLIENT_CA: is missing; sources.ehr.certificate"),
        ({"MLLP_CERTIFICATE": "x"}, "LEEWARD_MLLP_CERTIFICATE: holds no certificate"),
        ({"MLLP_CLIENT_CA": "x"}, "LEEWARD_MLLP_CLIENT_CA: holds no certificate"),
        ({"MLLP_KEY": "secret"}, "LEEWARD_MLLP_KEY: holds no private key"),
        ({"MLLP_KEY": CLIENT.key}, "LEEWARD_MLLP_KEY: is not the key of"),
    ],
)
def test_what_does_not_belong_together_stops_the_start(variables: dict[str, str], line: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^{line}") as told:
        peer_verifier_of(loaded(tmp_path, f'certificate = ["{ENGINE}"]', {**VARIABLES, **variables}))
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)


def loaded(folder: Path, source: str, variables: Mapping[str, str]) -> Settings:
    (folder / "leeward.toml").write_text(f"[sources.ehr]\nkind = 'hl7v2'\n{source}\n")
    given = {f"LEEWARD_{name}": value for name, value in variables.items()}
    return load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": str(folder / "leeward.toml"), **given})


def test_an_authority_without_a_named_sender_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^LEEWARD_MLLP_CLIENT_CA: no sender could come in"):
        peer_verifier_of(loaded(tmp_path, "", VARIABLES))


def test_a_name_belongs_to_one_source(tmp_path: Path) -> None:
    both = f"certificate = ['{ENGINE}']\n[sources.lab]\nkind = 'hl7v2'\ncertificate = ['{ENGINE.upper()}']"
    with pytest.raises(SettingsError, match=r"sources\.lab\.certificate: names one of sources.ehr too"):
        loaded(tmp_path, both, VARIABLES)

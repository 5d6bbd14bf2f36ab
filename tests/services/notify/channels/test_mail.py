"""Mail as bytes: valid RFC 5322 for every address and language, the same for everybody."""

from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.headerregistry import Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notify.channels import Letter, Wording
from services.notify.channels.email.message import Mailer, UnfitAddress, envelope_address
from services.notify.channels.email.smtp import smtp_server
from services.notify.channels.wording import locale_for
from services.notify.links import Seals

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)


def letter(key: str = "a" * 32) -> Letter[str]:
    return Letter(key, "message", "t" * 32, "anna@hospital.example", "en")


def mailer(subject: str = "You have a message", body: str = "You have a message.\n{link}") -> Mailer:
    return Mailer("Notes <note@mail.example>", "https://notes.example/", lambda _kind, _locale: Wording(subject, body))


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=120).filter(lambda t: t.strip() == t),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), max_size=300),
)
def test_any_language_gives_valid_lines_and_comes_out_as_it_went_in(subject: str, body: str) -> None:
    raw = mailer(subject, body + "\n{link}").render(letter(), "anna@hospital.example", NOW)
    assert raw.isascii()
    assert all(len(line) <= 998 for line in raw.split(b"\r\n"))
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    mail = message_from_bytes(raw, policy=policy.default)
    content: str = mail.get_content()
    assert content.splitlines()[-1] == "https://notes.example/m/" + "t" * 32
    assert not mail.defects


def test_a_subject_in_another_script_is_read_as_written() -> None:
    raw = mailer("Masz wiadomość — رسالة").render(letter(), "anna@hospital.example", NOW)
    assert message_from_bytes(raw, policy=policy.default)["Subject"] == "Masz wiadomość — رسالة"


def test_every_header_is_the_same_for_everybody_but_address_date_and_id() -> None:
    raws = [mailer().render(letter(key), "x@y.example", NOW) for key in ("a" * 32, "b" * 32)]
    assert raws[0].replace(b"a" * 32, b"") == raws[1].replace(b"b" * 32, b"")
    mail = message_from_bytes(raws[0], policy=policy.default)
    assert mail["Message-ID"] == f"<{'a' * 32}@mail.example>"
    assert mail["From"] == "note@mail.example"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "anna",
        "anna@",
        "@h.example",
        "a b@h.example",
        "a@h.example\r\nBcc: x@y",
        "a@h ex",
        "<a@h.example>",
        "zoë@h.de",
    ],
)
def test_what_could_break_a_mail_is_never_mailed_to(address: str) -> None:
    with pytest.raises(UnfitAddress) as fault:
        envelope_address(address)
    assert not address or address not in str(fault.value)


@given(st.text(max_size=60))
def test_no_address_ever_ends_a_line(text: str) -> None:
    try:
        address = envelope_address(text)
    except UnfitAddress:
        return
    assert address.isascii()
    assert not set("\r\n <>") & set(address)


def test_a_domain_in_another_script_is_written_in_ascii() -> None:
    assert envelope_address("anna@klinik-münchen.example") == "anna@xn--klinik-mnchen-3ob.example"
    assert Address(addr_spec=envelope_address("o'neil+x@h.example")).username == "o'neil+x"


@pytest.mark.parametrize(
    ("url", "port", "tls", "starttls"),
    [
        ("smtp://localhost", 25, False, None),
        ("smtp://u:p%40ss@mail.example:2525?starttls=required", 2525, False, True),
        ("smtps://mail.example", 465, True, False),
        ("smtp://mail.example?starttls=never", 25, False, False),
    ],
)
def test_where_mail_goes(url: str, port: int, tls: bool, starttls: bool | None) -> None:
    server = smtp_server(url)
    assert (server.port, server.tls, server.starttls) == (port, tls, starttls)
    assert "p@ss" not in repr(server)
    if "u:p" in url:
        assert (server.user, server.password) == ("u", "p@ss")


def test_keys_and_tokens_are_the_same_after_a_restart_and_tell_nothing_of_each_other() -> None:
    seals = Seals(b"l" * 32, b"m" * 32, b"c" * 32)
    key = seals.key("message", "case", "offer")
    assert key == Seals(b"l" * 32, b"m" * 32, b"c" * 32).key("message", "case", "offer")
    assert key != seals.key("messagecase", "offer")
    assert len(seals.token(key)) == 32
    assert seals.token(key) != Seals(b"x" * 32, b"m" * 32, b"c" * 32).token(key)
    assert 0 <= seals.luck(key) < 1
    assert len(seals.digits(key)) == 8


def test_the_first_language_somebody_shares_with_the_site() -> None:
    assert locale_for("pl en", ("en", "de")) == "en"
    assert locale_for("de-AT en", ("en", "de")) == "de"
    assert locale_for("", ("en",)) == "en"

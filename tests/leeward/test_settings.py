"""A wrong or unknown setting stops the start with one line: the key, what is wrong, what is allowed, no secret."""

import base64
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest

from leeward.clock import ScaledClock, SystemClock
from leeward.settings import Settings, SettingsError, load_settings

CANARY = "canary-4711"
KEY = base64.b64encode(bytes(32)).decode()
SAFE = """
[emergency.en]
phone = "112"
[[crisis_lines.en]]
label = "Somebody"
phone = "0800 1"
"""


def load(toml: str = "", *, folder: Path, **variables: str) -> Settings:
    path = folder / "leeward.toml"
    path.write_text(toml, encoding="utf-8")
    environ = {f"LEEWARD_{name}": value for name, value in {"ENV": "test", **variables}.items()}
    return load_settings({"LEEWARD_CONFIG": str(path), "PATH": "/bin", **environ})


def refusal(toml: str = "", *, folder: Path, **variables: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load(toml, folder=folder, **variables)
    line = str(refused.value)
    assert "\n" not in line
    assert CANARY not in line
    return line


def test_nothing_given_is_the_documented_default(tmp_path: Path) -> None:
    settings = load(folder=tmp_path)
    assert settings.outreach.mode == "rehearsal"
    assert settings.outreach.quiet_hours is not None
    assert (settings.outreach.quiet_hours.start, settings.outreach.quiet_hours.end) == (time(21), time(8))
    assert settings.outreach.longest_hold == timedelta(hours=36)
    assert settings.supporters.hours_a_month == 4
    assert settings.incident.oldest == timedelta(days=14)
    assert settings.sources.keys() == {"ehr", "safety"}
    assert settings.sources["ehr"].death_dispositions == ("20", "40", "41", "42")
    assert settings.locales == ("en",)
    assert settings.url("issuer") == "http://127.0.0.1:8104"
    assert settings.public_url == "http://127.0.0.1:8103"
    assert settings.embedded
    assert settings.on_loopback


def test_every_key_of_the_contracts_tables_may_be_given(tmp_path: Path) -> None:
    toml = """
[incident]
trigger_levels = ["death"]
expected_units = ["Hospice"]
[sources.ehr]
kind = "hl7v2"
match = { msh3 = "EPIC" }
units = { "4 WEST" = "ICU" }
[outreach]
mode = "live"
quiet_hours = ""
jitter = "0s"
cover_every = ""
[[on_call]]
email = "duty@hospital.example"
[[crisis_lines.en]]
phone = "0800 1"
checked_on = 2026-11-21
[channels.email]
locales = ["en", "de-CH"]
[channels.webhook]
url = "https://gateway.example/send"
"""
    settings = load(toml, folder=tmp_path, WEBHOOK_SECRET=f"whsec_{KEY}")
    assert settings.outreach.quiet_hours is None
    assert settings.outreach.cover_every is None
    assert settings.outreach.jitter == timedelta(0)
    assert settings.sources["ehr"].match.msh4 == "*"
    assert settings.locales == ("en", "de-CH")


WRONG_POLICY = {
    "[outreach]\nmood = 1": "outreach.mood",
    f'["{CANARY}"]\nx = 1': "",
    '[outreach]\nmode = "loud"': "outreach.mode",
    '[outreach]\njitter = "15 minutes"': "outreach.jitter",
    '[outreach]\njitter = "-1m"': "outreach.jitter",
    '[outreach]\njitter = "99999999999d"': "outreach.jitter",
    '[outreach]\ncoalesce = "20y"': "outreach.coalesce",
    '[outreach]\ncover_every = "0d"': "outreach.cover_every",
    "[outreach]\njitter = 15": "outreach.jitter",
    '[outreach]\nquiet_hours = "21-8"': "outreach.quiet_hours",
    '[outreach]\nquiet_hours = "24:00-08:00"': "outreach.quiet_hours",
    '[supporters]\nanswer_hours = "08:00-08:00"': "supporters.answer_hours",
    "[supporters]\nactive_cases = 0": "supporters.active_cases",
    '[incident]\ntrigger_levels = ["awful"]': "incident.trigger_levels",
    '[incident]\ntrigger_levels = "death"': "incident.trigger_levels",
    '[sources.ehr]\nmatch = { msh3 = "*" }': "sources.ehr.kind",
    '[sources.ehr]\nkind = "fax"': "sources.ehr.kind",
    '[sources.ehr]\nkind = "hl7v2"\ntimezone = "Mars/Base"': "sources.ehr.timezone",
    '[sources."E H R"]\nkind = "hl7v2"': "sources.",
    "[channels.email]\nlocales = []": "channels.email.locales",
    '[channels.email]\nlocales = ["../x"]': "channels.email.locales",
    '[channels.sms]\nurl = "x"': "channels.sms",
    '[channels.webhook]\nurl = "ftp://x"': "channels.webhook.url",
    '[[crisis_lines.en]]\nchecked_on = "soon"': "crisis_lines.en.0.checked_on",
    'env = "demo"': "env",
    'variables = { KEY = "x" }': "variables",
}


@pytest.mark.parametrize("toml", WRONG_POLICY)
def test_a_wrong_policy_is_one_line_with_its_key(tmp_path: Path, toml: str) -> None:
    if CANARY in toml:
        with pytest.raises(SettingsError, match="there is no such setting; allowed are"):
            load(toml, folder=tmp_path)
        return
    line = refusal(toml, folder=tmp_path)
    assert WRONG_POLICY[toml] in line
    assert len(line.partition(": ")[2]) > 10


@pytest.mark.parametrize("toml", ["[outreach", f"password = {CANARY}", "x = [" * 5000, "a = 1\na = 2"])
def test_what_is_not_toml_is_said_with_its_place_alone(tmp_path: Path, toml: str) -> None:
    assert "is not TOML" in refusal(toml, folder=tmp_path)


def test_a_policy_in_another_encoding_is_said(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_bytes("[sources]\nx = 'é'".encode("latin-1"))
    with pytest.raises(SettingsError, match="see its encoding"):
        load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": str(tmp_path / "other.toml")})


def test_a_policy_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="LEEWARD_CONFIG"):
        load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": str(tmp_path / "none.toml")})
    monkeypatch.chdir(tmp_path)
    assert load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": ""}).outreach.mode == "rehearsal"


def test_a_policy_that_is_a_folder_is_said(tmp_path: Path) -> None:
    """What a container's engine makes of a file to be mounted that is not there."""
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(
        SettingsError, match=r"LEEWARD_CONFIG: .*folder\.toml is a folder; allowed is the path of a file"
    ):
        load_settings({"LEEWARD_ENV": "test", "LEEWARD_CONFIG": str(tmp_path / "folder.toml")})


@pytest.mark.parametrize("toml", ['clock = "2026-11-21T09:00:00Z"', "[clock]", '[outreach]\nclock = "2026-11-21"'])
def test_a_policy_that_names_a_clock_is_refused(tmp_path: Path, toml: str) -> None:
    line = refusal(toml, folder=tmp_path)
    assert "clock: no policy sets the time; take it out: the system's clock is kept" in line


WRONG_VARIABLES: list[tuple[str, str]] = [
    ("COLOUR", CANARY),
    ("INCIDENT_COLOUR", CANARY),
    ("ENV", CANARY),
    ("INCIDENT_PORT", CANARY),
    ("BOX_PORT", "²"),
    ("MLLP_PORT", "65536"),
    ("MLLP_PORT", "8101"),
    ("NOTIFY_PORT", "8101"),
    ("PUBLIC_URL", CANARY),
    ("PUBLIC_URL", f"ftp://{CANARY}"),
    ("BOX_URL", f"http://[{CANARY}"),
    ("SMTP_URL", f"smtp://{CANARY}:99999"),
    ("MATCHING_DATABASE_URL", f"mysql://{CANARY}"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://{CANARY}"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://me:{CANARY}@db:/matching"),
    ("MATCHING_DATABASE_URL", f"POSTGRESQL+ASYNCPG://me:{CANARY}@db/matching"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://me:{CANARY}@{CANARY}@db/matching"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://me:{CANARY}@db/matching?sslmode=require"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://me:{CANARY}@db/matching?ssl=always"),
    ("MATCHING_DATABASE_URL", f"postgresql+asyncpg://me:12?{CANARY}@db/matching"),
    ("BUS_URL", "kafka://localhost"),
    ("BUS_URL", f"kafka://me:{CANARY}[@localhost:9092"),
    ("BUS_URL", f"kafka://me:{CANARY}\u2100@localhost:9092"),
    ("BUS_URL", f"kafka://me:{CANARY}@localhost:9092"),
    ("BUS_URL", f"kafka://localhost:9092?ca={__file__}"),
    ("BUS_URL", f"kafka://localhost:9092?security=ssl&ca={__file__}"),
    ("BUS_URL", f"kafka://localhost:9092?security=ssl&cert={__file__}"),
    ("BUS_URL", f"kafka://localhost:9092?security=ssl&key={__file__}"),
    ("BUS_URL", "kafka://localhost:9092?colour=blue"),
    ("BUS_URL", "kafka://localhost:9092?security=sasl_ssl"),
    ("INCIDENT_KEY", CANARY),
    ("INCIDENT_KEY", base64.b64encode(bytes(31)).decode()),
    ("PEOPLE_KEY", f"whsec_{KEY}"),
    ("WEBHOOK_SECRET", CANARY),
    ("SOURCE_EHR_SECRET", f"whsec_{CANARY}!"),
    ("SOURCE_EHR_SECRET", f"{CANARY} {CANARY}é"),
    ("SOURCE_EHR_SECRET", f"whsec_{KEY} whsec_{CANARY}!"),
    ("SOURCE_FAX_SECRET", CANARY),
    ("METRICS_TOKEN", f"{CANARY}\n{CANARY}"),
    ("MAIL_FROM", CANARY),
    ("CLOCK", CANARY),
    ("CLOCK", "2026-02-30T09:00:00Z"),
    ("CLOCK", "2026-11-21T09:00:00Z*0"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_VARIABLES)
def test_a_wrong_variable_is_one_line_with_its_name(tmp_path: Path, name: str, value: str) -> None:
    line = refusal(folder=tmp_path, **{name: value})
    assert line.startswith("LEEWARD_")
    assert name in line or "PORT" in name


def test_a_services_secret_is_not_asked_for_in_the_processes_of_others(tmp_path: Path) -> None:
    load('[sources.chart]\nkind = "fhir"\nbase_url = "https://ehr.example"\nclient_id = "us"', folder=tmp_path)


def test_any_variable_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = load(
        folder=tmp_path, INCIDENT_KEY_FILE=str(tmp_path / "key"), SOURCE_EHR_SECRET_FILE=str(tmp_path / "key")
    )
    assert settings.variable("INCIDENT_KEY") == KEY
    assert settings.source_secrets("ehr") == (KEY,)


def test_a_cluster_is_a_host_and_port_or_the_folder_of_a_socket(tmp_path: Path) -> None:
    def of_a_socket(folder: str) -> str:
        return f"postgresql+asyncpg://me:@/it?host={folder}"

    given = {"BUS_URL": "kafka://localhost:9092", "INCIDENT_DATABASE_URL": of_a_socket("/run/one")}
    load(folder=tmp_path, **given, BOX_DATABASE_URL=of_a_socket("/run/two"))
    assert "BOX" in refusal(folder=tmp_path, **given, BOX_DATABASE_URL=of_a_socket("/run/one"))


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe" + CANARY.encode("utf-16-le") + b"\xff")
    for path in ("none", "bytes", ".", "nul\0"):
        assert "INCIDENT_KEY_FILE" in refusal(folder=tmp_path, INCIDENT_KEY_FILE=str(tmp_path / path))


def test_a_value_and_a_file_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY)
    line = refusal(folder=tmp_path, INCIDENT_KEY=KEY, INCIDENT_KEY_FILE=str(tmp_path / "key"))
    assert "both" in line


def test_an_empty_variable_is_an_unset_one(tmp_path: Path) -> None:
    settings = load(folder=tmp_path, PUBLIC_URL="", SMTP_URL="", INCIDENT_PORT="", HOST="", CLOCK="")
    assert settings.public_url == "http://127.0.0.1:8103"
    assert settings.smtp_url is None
    assert settings.host == "127.0.0.1"


def test_no_secret_shows_in_a_settings_text(tmp_path: Path) -> None:
    settings = load(folder=tmp_path, SERVICES_SECRET=CANARY, METRICS_TOKEN=CANARY)
    assert CANARY not in repr(settings) + str(settings)


def test_production_needs_an_emergency_number_and_a_crisis_line_for_every_language(tmp_path: Path) -> None:
    assert "emergency.en" in refusal(folder=tmp_path, ENV="production")
    assert "make demo" in refusal(folder=tmp_path, ENV="production")
    assert "crisis_lines.en" in refusal('[emergency.en]\nphone = "112"', folder=tmp_path, ENV="production")
    empty = '[emergency.en]\nphone = "112"\n[[crisis_lines.en]]\nlabel = "Nobody"'
    assert "crisis_lines.en" in refusal(empty, folder=tmp_path, ENV="production")
    two = SAFE + '[channels.email]\nlocales = ["en", "de"]'
    assert "emergency.de" in refusal(two, folder=tmp_path, ENV="production")
    assert load(SAFE, folder=tmp_path, ENV="production").env == "production"


def test_a_command_that_starts_nothing_needs_no_crisis_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}, starting=False).env == "production"


def test_only_demo_and_test_may_set_the_clock(tmp_path: Path) -> None:
    moment = "2026-11-21T09:00:00Z*60"
    assert "LEEWARD_CLOCK" in refusal(SAFE, folder=tmp_path, ENV="production", CLOCK=moment)
    for env in ("test", "demo"):
        clock = load(folder=tmp_path, ENV=env, CLOCK=moment).clock()
        assert isinstance(clock, ScaledClock)
        assert clock.now() - datetime(2026, 11, 21, 9, tzinfo=UTC) < timedelta(minutes=5)
    assert isinstance(load(folder=tmp_path).clock(), SystemClock)


@pytest.mark.parametrize("lowered", ['epoch_min = "89d"', "epoch_tokens = 19", 'window = "29d"'])
def test_only_demo_and_test_may_lower_the_feedback_limits(tmp_path: Path, lowered: str) -> None:
    toml = f"{SAFE}\n[feedback]\n{lowered}"
    assert "feedback." in refusal(toml, folder=tmp_path, ENV="production")
    load(toml, folder=tmp_path, ENV="demo")


@pytest.mark.parametrize(
    ("variables", "loopback"),
    [
        ({}, True),
        ({"HOST": "::1"}, True),
        ({"HOST": "localhost", "PUBLIC_URL": "http://localhost:9"}, True),
        ({"HOST": "0.0.0.0"}, False),
        ({"PUBLIC_URL": "https://messages.example"}, False),
        ({"PUBLIC_URL": "https://127.0.0.1.example"}, False),
    ],
)
def test_what_counts_as_loopback(tmp_path: Path, variables: dict[str, str], loopback: bool) -> None:
    assert load(folder=tmp_path, **variables).on_loopback is loopback


def test_settings_never_change(tmp_path: Path) -> None:
    settings = load(folder=tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        setattr(settings, "host", "0.0.0.0")  # noqa: B010

"""Settings: policy from `leeward.toml`, deployment from `LEEWARD_*`; a wrong one stops the start with one line."""

import base64
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationError

from leeward.brokers import parse_brokers
from leeward.clock import Clock, ScaledClock, SystemClock, parse_clock
from leeward.databases import check_database, cluster_of
from leeward.settings.files import describe_fault
from leeward.settings.policy import CHANNEL_SECRETS, FHIR_ALONE, Policy

ServiceName = Literal["incident", "matching", "notify", "issuer", "box"]
SERVICES: Final[tuple[ServiceName, ...]] = get_args(ServiceName)
PORTS: Final = MappingProxyType({"incident": 8101, "matching": 8102, "notify": 8103, "issuer": 8104, "box": 8105})
CHECKED: Final = timedelta(days=365)
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
SECRETS: Final = ("SERVICES_SECRET", "METRICS_TOKEN", "PEOPLE_KEY", "ASSERTION_PUBLIC_KEY")
MLLP_TLS: Final = ("MLLP_CERTIFICATE", "MLLP_KEY", "MLLP_CLIENT_CA")
PLACES: Final = (
    "CONFIG",
    "DATA",
    "HOST",
    "MLLP_PORT",
    "BUS_URL",
    "SMTP_URL",
    "MAIL_FROM",
    "PUBLIC_URL",
    "BOX_URL",
    "ERASURES",
)
PLAIN: Final = frozenset((*SECRETS, *CHANNEL_SECRETS, *PLACES, *MLLP_TLS, "ENV", "CLOCK"))
NO_CLOCK: Final = "no policy sets the time; take it out: the system's clock is kept, and tests set LEEWARD_CLOCK"
PER_SERVICE: Final = ("PORT", "DATABASE_URL", "KEY", "URL")


class SettingsError(Exception):
    """One line: the key, what is wrong, what is allowed; never the value of a secret."""


class Settings(Policy):
    """Policy and deployment together; immutable.

    `variables` holds the `LEEWARD_*` values without their prefix, read through `…_FILE` where so given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    env: Literal["production", "demo", "test"] = "production"
    data: Path = Path("data")
    host: str = "127.0.0.1"
    mllp_port: int = 2575
    ports: Mapping[str, int] = PORTS
    variables: Mapping[str, str] = Field(default={}, repr=False)

    def variable(self, name: str) -> str | None:
        """A `LEEWARD_` variable's value by its name without the prefix, None where unset or empty."""
        return self.variables.get(name) or None

    @property
    def locales(self) -> tuple[str, ...]:
        """Enabled languages (BCP 47), the first one is the default."""
        return self.channels.email.locales

    @property
    def bus_url(self) -> str | None:
        return self.variable("BUS_URL")

    def database_url(self, service: ServiceName) -> str | None:
        """Where a service's PostgreSQL is; None when embedded."""
        return self.variable(f"{service.upper()}_DATABASE_URL")

    def database_file(self, service: ServiceName) -> Path:
        """A service's SQLite file when embedded."""
        return self.data / f"{service}.db"

    @property
    def erasures(self) -> Path:
        """The list of what was erased; better on another disk than the databases."""
        return Path(self.variable("ERASURES") or self.data / "erasures")

    @property
    def embedded(self) -> bool:
        return self.bus_url is None

    @property
    def smtp_url(self) -> str | None:
        return self.variable("SMTP_URL")

    @property
    def mail_from(self) -> str:
        return self.variable("MAIL_FROM") or "messages@localhost"

    def url(self, service: ServiceName) -> str:
        """The base URL by which other services reach this one; no slash at the end."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{host}]" if ":" in host else host
        given = self.variable(f"{service.upper()}_URL")
        return (given or f"http://{host}:{self.ports[service]}").rstrip("/")

    @property
    def public_url(self) -> str:
        """Base of the links people open (notify); no slash at the end."""
        return (self.variable("PUBLIC_URL") or self.url("notify")).rstrip("/")

    @property
    def box_url(self) -> str:
        """Base of the box's pages; no slash at the end."""
        return (self.variable("BOX_URL") or self.url("box")).rstrip("/")

    @property
    def on_loopback(self) -> bool:
        """Whether the exceptions for loopback hold: neither the listeners nor the links leave this machine."""
        return self.host in LOOPBACK and (urlsplit(self.public_url).hostname or "") in LOOPBACK

    def unchecked_lines(self, today: date) -> list[str]:
        """Where the crisis lines are that nobody has checked for a year, as "crisis_lines.en, number 1"."""
        return [
            f"crisis_lines.{locale}, number {number}"
            for locale in self.locales
            for number, line in enumerate(self.crisis_lines.get(locale, ()), 1)
            if line.checked_on is None or today - line.checked_on > CHECKED
        ]

    def source_secrets(self, source: str) -> tuple[str, ...]:
        """A source's credentials, the newest first: while one is exchanged there are two."""
        return tuple((self.variable(f"SOURCE_{source.upper()}_SECRET") or "").split())

    def clock(self) -> Clock:
        """The clock of this process: the system's, or LEEWARD_CLOCK from now on."""
        text = self.variable("CLOCK")
        return ScaledClock(*parse_clock(text)) if text else SystemClock()


def load_settings(environ: Mapping[str, str] = os.environ, *, starting: bool = True) -> Settings:
    """Read and check everything.

    Args:
        starting: also check what only a start of services needs (crisis lines, keys of a distributed run).

    Raises:
        SettingsError: naming the key, what is wrong and what is allowed.
    """
    variables = _variables(environ)
    policy = _policy(Path(variables.get("CONFIG") or "leeward.toml"), required=bool(variables.get("CONFIG")))
    settings = _settings(policy, variables)
    _check_sources(settings)
    _check_certificates(settings)
    _check_urls(settings)
    _check_secrets(settings)
    _check_addresses(settings)
    _check_mode(settings)
    _check_clock(settings)
    _check_feedback(settings)
    if starting:
        _check_crisis_lines(settings)
    return settings


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(name for name in environ if name.startswith("LEEWARD_")):
        given = name.removeprefix("LEEWARD_")
        key = given if _known(given) else given.removesuffix("_FILE")
        if not _known(key):
            raise SettingsError(f"{name}: there is no such setting; docs/reference.md lists those there are")
        if key in found:
            raise SettingsError(f"LEEWARD_{key}: given both as a value and as a file; allowed is one of them")
        if key == given:
            found[key] = environ[name]
            continue
        try:
            found[key] = Path(environ[name]).read_text(encoding="utf-8").strip()
        except OSError as fault:
            raise SettingsError(f"{name}: {describe_fault(fault, Path(environ[name]))}") from None
        except ValueError:
            raise SettingsError(f"{name}: is no path of a text file; allowed is the path of a file in UTF-8") from None
    return found


def _known(key: str) -> bool:
    service, _, rest = key.partition("_")
    source = re.fullmatch(r"SOURCE_.+_(SECRET|PRIVATE_KEY)", key) is not None
    return key in PLAIN or source or (service.lower() in SERVICES and rest in PER_SERVICE)


def _policy(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as fault:
        if not required and isinstance(fault, FileNotFoundError):
            return {}
        raise SettingsError(f"LEEWARD_CONFIG: {describe_fault(fault, path)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        place = str(fault).rpartition("(at ")[2].rstrip(")") if "(at " in str(fault) else "its encoding"
        raise SettingsError(f"{path}: is not TOML, see {place}") from None


def _settings(policy: dict[str, Any], variables: dict[str, str]) -> Settings:
    stray = set(policy) - set(Policy.model_fields)
    if "clock" in stray:
        raise SettingsError(f"leeward.toml: clock: {NO_CLOCK}")
    if stray:
        allowed = ", ".join(Policy.model_fields)
        raise SettingsError(f"leeward.toml: {min(stray)}: there is no such setting; allowed are {allowed}")
    ports = {name: _port(variables, f"{name.upper()}_PORT", PORTS[name]) for name in SERVICES}
    deployment: dict[str, Any] = {
        "ports": ports,
        "mllp_port": _port(variables, "MLLP_PORT", 2575),
        "variables": variables,
        **{key.lower(): variables[key] for key in ("ENV", "DATA", "HOST") if variables.get(key)},
    }
    try:
        return Settings.model_validate({**policy, **deployment})
    except ValidationError as fault:
        first = fault.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        name = f"LEEWARD_{place.upper()}" if place in ("env", "data", "host") else f"leeward.toml: {place}"
        wrong = first["msg"].removeprefix("Value error, ")
        if place.rpartition(".")[2] == "clock":
            wrong = NO_CLOCK
        elif first["type"] == "extra_forbidden":
            wrong = "there is no such setting; docs/reference.md lists those there are"
        raise SettingsError(f"{name}: {wrong}") from None


def _port(variables: Mapping[str, str], key: str, default: int) -> int:
    text = variables.get(key) or str(default)
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise SettingsError(f"LEEWARD_{key}: is not a port; allowed is a number from 0 to 65535")
    return int(text)


def _check_sources(settings: Settings) -> None:
    """A credential names a source that there is, and what concerns FHIR alone stands with FHIR sources alone."""
    for key in settings.variables:
        if key.startswith("SOURCE_"):
            name = key.removeprefix("SOURCE_").removesuffix("_SECRET").removesuffix("_PRIVATE_KEY").lower()
            if name not in settings.sources:
                raise SettingsError(f"LEEWARD_{key}: no source of that name; allowed are {', '.join(settings.sources)}")
    for name, source in settings.sources.items():
        if source.kind != "fhir" and (stray := sorted(FHIR_ALONE & source.model_fields_set)):
            raise SettingsError(f"leeward.toml: sources.{name}.{stray[0]}: is for fhir sources alone")


def _check_certificates(settings: Settings) -> None:
    """Whose certificate is whose, and that none is given by halves; the certificates are read by what serves them."""
    given = [key for key in MLLP_TLS if settings.variable(key)]
    if missing := [key for key in MLLP_TLS[:2] if given and key not in given]:
        raise SettingsError(f"LEEWARD_{missing[0]}: is missing; allowed is LEEWARD_{given[0]} with it, or neither")
    taken: dict[str, str] = {}
    for name, source in settings.sources.items():
        if source.certificate and source.kind != "hl7v2":
            raise SettingsError(f"leeward.toml: sources.{name}.certificate: is for hl7v2 sources alone")
        for one in source.certificate:
            if (other := taken.setdefault(one.casefold(), name)) != name:
                raise SettingsError(f"leeward.toml: sources.{name}.certificate: names one of sources.{other} too")


def _check_clock(settings: Settings) -> None:
    if text := settings.variable("CLOCK"):
        if settings.env == "production":
            raise SettingsError("LEEWARD_CLOCK: is for LEEWARD_ENV=test or demo; production keeps the system's time")
        try:
            parse_clock(text)
        except ValueError as fault:
            raise SettingsError(f"LEEWARD_CLOCK: {fault}") from None


def _check_urls(settings: Settings) -> None:
    allowed = {
        "SMTP_URL": ("smtp", "smtps"),
        "PUBLIC_URL": ("http", "https"),
        "BOX_URL": ("http", "https"),
        **{f"{name.upper()}_URL": ("http", "https") for name in SERVICES},
        **{f"{name.upper()}_DATABASE_URL": ("postgresql+asyncpg",) for name in SERVICES},
    }
    for key, schemes in allowed.items():
        try:
            parts = urlsplit(settings.variable(key) or f"{schemes[0]}://unset")
            usable = parts.scheme in schemes and bool(parts.netloc) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise SettingsError(f"LEEWARD_{key}: is no address of this kind; allowed is {' or '.join(schemes)}://host…")
    for name in SERVICES:
        if url := settings.database_url(name):
            try:
                check_database(url)
            except ValueError as fault:
                raise SettingsError(f"LEEWARD_{name.upper()}_DATABASE_URL: {fault}") from None


def _check_secrets(settings: Settings) -> None:
    for key in ("ASSERTION_PUBLIC_KEY", "PEOPLE_KEY", *(f"{name.upper()}_KEY" for name in SERVICES)):
        if value := settings.variable(key):
            _check_secret(f"LEEWARD_{key}", value, least=32, most=32)
    for key in (key for key, form in CHANNEL_SECRETS.items() if form == "whsec"):
        if value := settings.variable(key):
            _check_secret(f"LEEWARD_{key}", value.removeprefix("whsec_"), least=24)
    for key in ("SERVICES_SECRET", "METRICS_TOKEN", *(key for key, form in CHANNEL_SECRETS.items() if form == "token")):
        if value := settings.variable(key):
            _check_token(f"LEEWARD_{key}", value)
    for name in settings.sources:
        for secret in settings.source_secrets(name):
            _check_source_secret(f"LEEWARD_SOURCE_{name.upper()}_SECRET", secret)


def _check_source_secret(name: str, secret: str) -> None:
    if secret.startswith("whsec_"):
        _check_secret(name, secret.removeprefix("whsec_"), least=1)
    else:
        _check_token(name, secret)


def _check_token(name: str, value: str) -> None:
    """What travels as a bearer token: visible ASCII, so that a header can carry it (RFC 9110, 5.5)."""
    if not re.fullmatch(r"[!-~]+", value):
        raise SettingsError(f"{name}: is no token; allowed are letters, digits and signs without a space")


def _check_secret(name: str, value: str, *, least: int, most: int | None = None) -> None:
    allowed = f"allowed are {'' if most else 'at least '}{least} bytes, base64"
    try:
        size = len(base64.b64decode(value, validate=True))
    except ValueError:
        raise SettingsError(f"{name}: is not base64; {allowed}") from None
    if size < least or size > (most or size):
        raise SettingsError(f"{name}: has the wrong length; {allowed}")


def _check_addresses(settings: Settings) -> None:
    if not re.fullmatch(r"[^@\s<>\"]+@[^@\s<>\"]+", settings.mail_from):
        raise SettingsError("LEEWARD_MAIL_FROM: is no address; allowed is one such as messages@hospital.example")
    taken: dict[int, str] = {}
    for name, port in {**settings.ports, "mllp": settings.mllp_port}.items():
        if port and (other := taken.setdefault(port, name)) != name:
            raise SettingsError(f"LEEWARD_{name.upper()}_PORT: is that of {other} too; allowed is one that is free")


def _check_mode(settings: Settings) -> None:
    """The mixture of SQLite as bus with PostgreSQL, or Kafka with SQLite, is refused (DESIGN §8)."""
    databases = [name for name in SERVICES if settings.database_url(name)]
    if databases and settings.embedded:
        key = f"LEEWARD_{databases[0].upper()}_DATABASE_URL"
        raise SettingsError(f"{key}: PostgreSQL needs Kafka; allowed is LEEWARD_BUS_URL beside it, or neither")
    if settings.bus_url:
        try:
            parse_brokers(settings.bus_url)
        except ValueError as fault:
            raise SettingsError(f"LEEWARD_BUS_URL: {fault}") from None
    clusters = {name: cluster_of(url) for name in SERVICES if (url := settings.database_url(name))}
    box = clusters.pop("box", None)
    if shared := [name for name, cluster in clusters.items() if cluster == box]:
        other = f"LEEWARD_{shared[0].upper()}_DATABASE_URL"
        raise SettingsError(
            f"LEEWARD_BOX_DATABASE_URL: is the cluster of {other} too; allowed is one of its own, since the order of "
            "transactions in a cluster would tell whose rating came when"
        )


def _check_feedback(settings: Settings) -> None:
    if settings.env != "production":
        return
    fixed = Policy().feedback
    for key in ("epoch_min", "epoch_tokens", "window"):
        if getattr(settings.feedback, key) < getattr(fixed, key):
            raise SettingsError(f"leeward.toml: feedback.{key}: is below the least that keeps ratings anonymous")


def _check_crisis_lines(settings: Settings) -> None:
    if settings.env != "production":
        return
    for locale in settings.locales:
        number = settings.emergency.get(locale)
        lines = settings.crisis_lines.get(locale, ())
        reached = any(line.phone or line.text or line.url for line in lines)
        for key, given in (("emergency", number and number.phone), ("crisis_lines", reached)):
            if not given:
                raise SettingsError(
                    f"leeward.toml: {key}.{locale}: is missing; production needs an emergency number and a crisis line "
                    "for every language (to try the system without, use `make demo`)"
                )

"""`doctor`: what is missing or wrong, one finding a line, each with what to do. Nothing here stops `live`."""

import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final, Literal
from urllib.parse import urlsplit

from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.util.concurrency import await_only

from leeward.adapters import bus_gaps, store_of
from leeward.bus import BusUnavailable
from leeward.bus.logs import rereads
from leeward.service import Service
from leeward.settings import Settings, SettingsError, load_settings
from leeward.settings.key_checks import key_faults
from leeward.store import StoreUnavailable, ground_tables
from leeward.store.health import Ailment, ailment
from leeward.store.health.files import damage
from leeward.store.migrate import up_to_date
from leeward.timekeeping.guard import LEAP, WITNESS
from leeward.timekeeping.keeper import stand_by
from leeward.timekeeping.last_seen import read_last_seen
from leeward.web.look.catalogues import check_catalogues
from services.commands import catalogue, queries
from services.commands.console import Failed, say, show_json
from services.commands.databases import check_current, reading, transaction, with_databases

ENDING: Final = timedelta(days=30)
LOOKED_BACK: Final = timedelta(days=14)
AHEAD: Final = timedelta(minutes=5)
MIGRATE: Final = "run `leeward migrate`"


@dataclass(frozen=True)
class DoctorFinding:
    """`error`: something will not work; `warning`: somebody may be missed, or should look."""

    level: Literal["error", "warning"]
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.level}: {self.what}; {self.do}"


@with_databases
def vouch_for_clock() -> None:
    """The clock of this machine is right: what waits for it goes on, and what was reckoned from another is put right.

    Raises:
        Failed: when a database cannot be written.
    """
    settings = load_settings(starting=False)
    shown = settings.clock().now()
    for service in catalogue.load():
        with reading(settings, service.name) as conn:
            if conn is None:
                continue
            check_current(conn, service)
        with transaction(settings, service, shown) as unit:
            stand_by(unit, service.moments(settings), shown)
    say(f"the clock is right: {shown:%Y-%m-%d %H:%M} UTC")


def doctor(*, as_json: bool) -> int:
    """Print the findings; 1 where one of them is an error."""
    found = findings(load_settings(starting=False))
    if as_json:
        show_json([asdict(finding) for finding in found])
    else:
        for finding in found:
            say(str(finding))
        if not found:
            say("nothing to report")
    return int(any(finding.level == "error" for finding in found))


@with_databases
def findings(settings: Settings) -> list[DoctorFinding]:
    """Everything that is missing or wrong; what rests on a database that cannot be reached is left out."""
    found: list[DoctorFinding] = []
    for check in CHECKS:
        with suppress(Failed):
            found += check(settings)
    return found


def _error(what: str, do: str) -> DoctorFinding:
    return DoctorFinding("error", what, do)


def _warning(what: str, do: str) -> DoctorFinding:
    return DoctorFinding("warning", what, do)


def help_lines(settings: Settings) -> Iterator[DoctorFinding]:
    """Emergency numbers and crisis lines of every language, and how long ago somebody checked them."""
    today = settings.clock().now().date()
    for locale in settings.locales:
        emergency = settings.emergency.get(locale)
        if emergency is None or not emergency.phone:
            yield _error(f"emergency.{locale} is missing", "production does not start without: add it to leeward.toml")
        if not settings.crisis_lines.get(locale):
            yield _error(f"crisis_lines.{locale} is missing", "production does not start without: look one up, add it")
        for number, line in enumerate(settings.crisis_lines.get(locale, ()), 1):
            if line.checked_on and line.checked_on > today:
                yield _warning(
                    f"crisis_lines.{locale}, number {number} was checked on a day to come", "correct checked_on"
                )
    for place in settings.unchecked_lines(today):
        yield _warning(f"{place} was not checked for a year", "call it, then set checked_on to that day")


def professionals(settings: Settings) -> Iterator[DoctorFinding]:
    """The ones whom urgent help pages, and where else a person may turn."""
    if not settings.on_call:
        yield _warning("on_call is empty", "urgent help then shows the numbers and pages nobody: name a professional")
    for number, one in enumerate(settings.on_call, 1):
        if not one.email:
            yield _warning(f"on_call, number {number} has no email", "nobody is paged there: add one that is read")
    for locale in settings.locales:
        if not settings.referrals.get(locale):
            yield _warning(f"referrals.{locale} is empty", "add where supporters can hand on to")
    if not settings.concerns:
        yield _warning("concerns is empty", "name somebody outside the programme on every page")


def texts(settings: Settings) -> Iterator[DoctorFinding]:
    """Whether every enabled language has every text."""
    try:
        check_catalogues(settings.locales, catalogue.load())
    except SettingsError as fault:
        yield _error(str(fault), "nothing starts before that")


def sources(settings: Settings) -> Iterator[DoctorFinding]:
    """Feeds that cannot show who they are, and none at all."""
    if not settings.sources:
        yield _error("sources is empty", "no outcome will arrive: add a [sources.NAME] to leeward.toml")
    for name, source in settings.sources.items():
        if settings.source_secrets(name) or source.certificate:
            continue
        key = f"LEEWARD_SOURCE_{name.upper()}_SECRET"
        if source.kind == "hl7v2" and settings.on_loopback:
            yield _warning(f"sources.{name} has no secret", f"it takes loopback MLLP only; set {key} for HTTP")
        else:
            yield _warning(f"sources.{name} has no secret", f"it takes nothing until {key} is set")


def certificates(settings: Settings) -> Iterator[DoctorFinding]:
    """Whether the MLLP port's certificates belong together, and how long they are still valid."""
    from services.incident.sources.hl7v2.tls import expiries, peer_verifier_of

    try:
        gate = peer_verifier_of(settings)
        ends = expiries(settings)
    except SettingsError as fault:
        yield _error(str(fault), "nothing starts before that")
        return
    now = settings.clock().now()
    for name, end in ends.items():
        if end < now:
            yield _error(f"LEEWARD_{name} has expired", "no sender can connect: renew it, then restart")
        elif end < now + ENDING:
            yield _warning(f"LEEWARD_{name} expires in {(end - now).days} days", "renew it, then restart")
    for source in settings.sources if gate.mutual else ():
        if settings.sources[source].kind == "hl7v2" and not settings.sources[source].certificate:
            yield _warning(f"sources.{source} lists no certificate", "it takes nothing over MLLP: name its sender's")


def channels(settings: Settings) -> Iterator[DoctorFinding]:
    """Whether anybody can be reached, and what each channel that is turned on finds, mostly by really connecting."""
    from services.notify.channels import registry

    turned_on = [entry for entry in registry.CHANNELS if entry.is_on(settings)]
    if not turned_on:
        ways = " or ".join(entry.turned_on_by for entry in registry.CHANNELS)
        yield _error("there is no channel", f"nobody can be reached: set {ways}")
    for entry in turned_on:
        for level, what, do in await_only(entry.check(settings)):
            yield DoctorFinding(level, what, do)


def databases(settings: Settings) -> Iterator[DoctorFinding]:
    """Whether each file is whole, its folder takes more, and a write goes through."""
    for service in catalogue.load():
        file = settings.database_file(service.name)
        if settings.database_url(service.name) or not file.exists():
            continue
        if fault := damage(file, thorough=True):
            yield _error(f"{file} is damaged ({fault})", ailment("damaged").do)
        elif found := await_only(_ailment(settings, service)):
            yield _error(f"{file}: {found.what}", found.do)


async def _ailment(settings: Settings, service: Service) -> Ailment | None:
    store = store_of(settings, service.name, service.metadata, settings.clock())
    try:
        await store.probe()
    finally:
        await store.close()
    return ailment(store.health.reason) if store.health.reason else None


def servers(settings: Settings) -> Iterator[DoctorFinding]:
    """Whether the databases and the bus of a distributed run answer and have what this release needs."""
    for service in () if settings.embedded else catalogue.load():
        if finding := await_only(_database_fault(settings, service)):
            yield finding
    try:
        missing = await_only(bus_gaps(settings))
    except BusUnavailable as fault:
        yield _error(f"LEEWARD_BUS_URL: Kafka cannot be reached ({fault})", "correct it, or see whether it is up")
        return
    for gap in missing:
        yield _error(f"Kafka: {gap}", MIGRATE if gap.startswith("topic ") else "change the brokers' settings")


async def _database_fault(settings: Settings, service: Service) -> DoctorFinding | None:
    key, do = f"LEEWARD_{service.name.upper()}_DATABASE_URL", "correct it, or see whether PostgreSQL is up"
    try:
        store = store_of(settings, service.name, service.metadata, settings.clock())
    except SettingsError:
        return _error(f"{key}: cannot be used (it is not given here)", do)
    try:
        current = await store.read(lambda conn: up_to_date(conn, service.package))
    except StoreUnavailable as fault:
        return _error(f"{key}: cannot be used ({fault})", do)
    finally:
        await store.close()
    if not current:
        return _error(f"{service.name} is not at the newest revision", MIGRATE)
    found = await _ailment(settings, service)
    return _error(f"{service.name}: {found.what}", found.do) if found else None


def figures(settings: Settings) -> Iterator[DoctorFinding]:
    """What the databases say: roster, training, rota, and identifiers that lead to nobody."""
    from services.commands.operate.status import figures as read

    found = read(settings)
    if found["services"]["matching"] is None:
        yield _warning("there is no database yet", "run `leeward migrate`, or `leeward up`")
        return
    matching = found["services"]["matching"]
    counts = {**matching["roster"], **matching["reasons"], **(found["services"]["incident"] or {})}
    for name, one in found["services"].items():
        if one and (number := one["dead_letters"]):
            yield _error(f"{name} has given up {number} events", "look today: `leeward dlq list`, then replay or drop")
    for gap in found["gaps"]:
        if gap in ("clock_doubted", "dead_letters"):  # more is said of these
            continue
        what, do, figure = GAPS.get(gap, (gap.replace("_", " "), "see `leeward status`", ""))
        number = f"{counts[figure]} " if figure in counts else ""
        yield _warning(f"{number}{what}", do)


# what is missing, what to do, and the figure that says how many
GAPS: Final = {
    "never_reached": ("people were never reached", "see to channels and roster; the board has them", "never_reached"),
    "no_roster": ("the roster is empty", "run `leeward staff import FILE`", ""),
    "no_supporters": ("no supporter is ready", "name supporters with valid training in the roster", ""),
    "no_shift_data": ("no shift in the next two days", "run `leeward rota import FILE.ics`", ""),
    "training_expired": ("supporters have expired training", "they are never asked: renew it", "training_expired"),
    "training_expires_soon": ("supporters' training ends soon", "plan a renewal", "training_expires_soon"),
    "unmatched_identifiers": ("identifiers lead to nobody", "GET /v1/unmatched as coordinator, resolve", "unmatched"),
    "people_unreachable": ("people have no channel", "add an address to the roster", "unreachable"),
}


def key_files(settings: Settings) -> Iterator[DoctorFinding]:
    """Keys that others on this machine could read."""
    folder = settings.data / "keys"
    for path in [folder, *sorted(folder.glob("*"))] if folder.is_dir() else ():
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            mode = "700" if path.is_dir() else "600"
            yield _error(f"keys/{path.name if path != folder else ''} can be read by others", f"chmod {mode} it")


def keys(settings: Settings) -> Iterator[DoctorFinding]:
    """Keys that are missing, or others than those with which the databases were made."""
    told = set()
    for service in catalogue.load():
        with suppress(OperationalError, ProgrammingError), reading(settings, service.name) as conn:
            if conn is not None:
                told |= {*key_faults(settings, service.name, conn, service.metadata.tables["key_check"])}
    for fault in sorted(told):
        yield _error(fault, "nothing starts or is imported before that")


def addresses(settings: Settings) -> Iterator[DoctorFinding]:
    """Links that leave this machine need https, and what stands behind them must be told where it is."""
    for key, url in (("LEEWARD_PUBLIC_URL", settings.public_url), ("LEEWARD_BOX_URL", settings.box_url)):
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK_NAMES:
            yield _error(f"{key} is not https", "links and ratings would travel in the clear: put TLS in front")
    for name, source in settings.sources.items():
        parts = urlsplit(source.base_url)
        if parts.scheme == "http" and parts.hostname not in LOOPBACK_NAMES:
            yield _error(f"sources.{name}.base_url is not https", "records and tokens would travel in the clear")
    if settings.variable("PUBLIC_URL") is None:
        yield _warning("LEEWARD_PUBLIC_URL is not set", "links open on this machine alone: set what people reach")
    if not settings.on_loopback and settings.variable("METRICS_TOKEN") is None:
        yield _warning("LEEWARD_METRICS_TOKEN is not set", "/metrics answers nobody: set it where you collect them")


def clock(settings: Settings) -> Iterator[DoctorFinding]:
    """A clock that is set, or that has gone back behind what was stored."""
    if settings.variable("CLOCK"):
        yield _warning("LEEWARD_CLOCK is set", "time is not real: for tests and demonstrations only")
    shown = settings.clock().now()
    limit = shown + AHEAD
    for service in catalogue.load():
        with reading(settings, service.name) as conn:
            newest, seen = None, None
            with suppress(OperationalError, ProgrammingError):  # the database is older than this program
                newest = conn and queries.newest_event(conn, service.metadata)
                seen = conn and read_last_seen(conn, ground_tables(service.metadata))
        if newest and newest > limit and not settings.variable("CLOCK"):
            yield _error(f"{service.name} holds events from the future", "the clock went back: check time service")
        if seen and shown - seen.seen_at > LEAP:
            days = (shown - seen.seen_at).days
            what = f"{service.name} does not believe the clock: it is {days} days ahead of when it was last trusted"
            yield _error(what, VOUCH)
        elif seen and seen.seen_at - shown > WITNESS:
            yield _error(f"{service.name} was last run at a time that is still to come", VOUCH)


def logs(settings: Settings) -> Iterator[DoctorFinding]:
    """Logs that were put back from a copy within the last days, and events that nobody can read any more."""
    since = settings.clock().now() - LOOKED_BACK
    for service in catalogue.load():
        with suppress(OperationalError, ProgrammingError), reading(settings, service.name) as conn:
            for topic, reread in rereads(conn, service.metadata).items() if conn is not None else ():
                if reread.at and reread.at > since:
                    what, day = REREADS.get(reread.why, REREADS["restored"]), reread.at.date()
                    yield _warning(f"{service.name}, {topic}: {what} ({reread.why}, {day})", COMPARE)


# what a consumer found, by its code
REREADS: Final = {
    "restored": "a database was put back, and the log was read again from its start",
    "gone": "events were deleted before this service had read them: its database was put back from an old copy",
}
COMPARE: Final = "compare the hospital's list of the days around it: `leeward reconcile LIST.csv`"
VOUCH: Final = (
    "what came due meanwhile waits: set the clock, or say that it is right, `leeward doctor --clock-is-right`"
)
LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "::1", "localhost"})
CHECKS: Final[tuple[Callable[[Settings], Iterator[DoctorFinding]], ...]] = (
    databases,
    servers,
    help_lines,
    professionals,
    texts,
    sources,
    certificates,
    channels,
    addresses,
    key_files,
    keys,
    logs,
    clock,
    figures,
)

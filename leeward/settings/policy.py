"""What a site decides in `leeward.toml`: pydantic models whose defaults are the documented ones."""

import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from typing import Annotated, ClassVar, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SourceKind = Literal["hl7v2", "fhir", "native"]
# base64 that may begin with `whsec_` (Standard Webhooks), at least 24 bytes; or what a header can carry
SecretForm = Literal["whsec", "token"]
Level = Literal["death", "severe", "moderate", "mild", "none", "unknown"]
UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST: Final = timedelta(days=3653)


def duration(value: object) -> timedelta:
    """`"72h"` as a timedelta; units are s, m, h and d.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, timedelta):
        return value
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd])", value) if isinstance(value, str) else None
    if not found:
        raise ValueError('allowed is a number with a unit, such as "15m", "72h" or "14d"')
    if float(found[1]) > LONGEST / timedelta(**{UNITS[found[2]]: 1}):
        raise ValueError('allowed are at most ten years, "3653d"')
    return timedelta(**{UNITS[found[2]]: float(found[1])})


def optional_duration(value: object) -> timedelta | None:
    """The same, with `""` for none; a time of zero would never end.

    Raises:
        ValueError: for anything else.
    """
    span = None if value in ("", None) else duration(value)
    if span == timedelta(0):
        raise ValueError('allowed is a time longer than zero, or "" for none')
    return span


class Hours(BaseModel):
    """A daily span of local time that may pass midnight, such as 21:00-08:00."""

    model_config = ConfigDict(frozen=True)
    start: time
    end: time

    def contains(self, local: time) -> bool:
        """Whether a local wall-clock time falls inside; the start counts, the end does not."""
        if self.start <= self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end


def hours(value: object) -> Hours | None:
    """`"21:00-08:00"` as Hours, `""` as None.

    Raises:
        ValueError: for anything else.
    """
    if value in ("", None):
        return None
    if isinstance(value, Hours):
        return value
    found = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])", str(value))
    if not found:
        raise ValueError('allowed is a span such as "21:00-08:00", or "" for none')
    first, last = time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))
    if first == last:
        raise ValueError('allowed is a span between two different times, or "" for none')
    return Hours(start=first, end=last)


def zone_name(value: str) -> str:
    """An IANA time zone's name, checked.

    Raises:
        ValueError: when there is no such zone.
    """
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("allowed is an IANA time zone such as Europe/Berlin") from None
    return value


Duration = Annotated[timedelta, BeforeValidator(duration)]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(optional_duration)]
DailyHours = Annotated[Hours | None, BeforeValidator(hours)]
Zone = Annotated[str, AfterValidator(zone_name)]
Locale = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
Category = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Section(BaseModel):
    """A table of the policy file: unknown keys are refused, values never change after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class IncidentPolicy(Section):
    """[incident]: which outcomes lead to an offer, and which wait for a person's word."""

    trigger_levels: tuple[Level, ...] = ("death", "severe")
    trigger_categories: tuple[Category, ...] = ("child_death", "failed_resuscitation", "assault")
    review_categories: tuple[Category, ...] = ("colleague_as_patient",)
    expected_units: tuple[str, ...] = ()
    oldest: Duration = timedelta(days=14)


class Match(Section):
    """Which messages of the MLLP port belong to a source; `*` is any."""

    msh3: str = "*"
    msh4: str = "*"


class Rule(Section):
    """[[sources.NAME.rules]]: what a segment of the site's own says that no field of the standard does.

    `when` holds values by place ("5.1" is the first component of the fifth field); all must be met by one segment.
    `review`: it waits for a person's word. `leeward hl7 explain` says the `name` of a rule that was met.
    """

    name: Category
    segment: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]{2}$")]
    when: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}(\.[1-9][0-9]?){0,2}$")],
            Annotated[tuple[str, ...], Field(min_length=1)],
        ],
        Field(min_length=1),
    ]
    messages: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    category: Category = "death"
    level: Level = "death"
    review: bool = False


class Source(Section):
    """[sources.NAME]: one feed and how to read it."""

    kind: SourceKind
    match: Match = Match()
    certificate: tuple[str, ...] = ()
    processing_ids: tuple[str, ...] = ("P",)
    identifier_system: str = "ehr"
    identifier_systems: dict[str, str] = {"EHR": "ehr", "NPI": "npi", "2.16.840.1.113883.4.6": "npi"}
    timezone: Zone = "UTC"
    death_dispositions: tuple[str, ...] = ("20", "40", "41", "42")
    units: dict[str, str] = {}
    transit_units: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    # of kind fhir alone
    base_url: Annotated[str, Field(pattern=r"^(https?://[^?#\s]+)?$")] = ""
    fhir_version: Literal["R4", "R4B", "R5"] = "R4"
    topic: str = ""
    criteria: str = "Encounter?status=finished"
    token_url: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    client_id: str = ""
    scopes: str = "system/*.rs"
    heartbeat: OptionalDuration = None
    search: tuple[Literal["Encounter", "Patient", "AdverseEvent"], ...] = ("Encounter", "Patient", "AdverseEvent")
    categories: dict[str, Category] = {}
    harm: dict[str, dict[str, Literal["fatal", "severe", "moderate", "low", "none"]]] = {}


class Outreach(Section):
    """[outreach]: whether and when messages leave."""

    mode: Literal["rehearsal", "live"] = "rehearsal"
    quiet_hours: DailyHours = Hours(start=time(21), end=time(8))
    jitter: Duration = timedelta(minutes=15)
    reminder_after: Duration = timedelta(hours=72)
    longest_hold: Duration = timedelta(hours=36)
    coalesce: Duration = timedelta(days=14)
    cover_every: OptionalDuration = timedelta(days=91)


class Supporters(Section):
    """[supporters]: caps and the hours in which their timers run."""

    active_cases: Annotated[int, Field(ge=1, le=50)] = 2
    hours_a_month: Annotated[float, Field(gt=0)] = 4
    cool_down: Duration = timedelta(days=7)
    after_exposure: Duration = timedelta(days=14)
    answer_hours: DailyHours = Hours(start=time(8), end=time(20))
    confirm_urgent: Duration = timedelta(minutes=30)
    confirm_routine: Duration = timedelta(hours=4)
    attempts: Annotated[int, Field(ge=1, le=20)] = 3


class Feedback(Section):
    """[feedback]: an epoch of tokens and the window in which they are spent."""

    epoch_min: Duration = timedelta(days=90)
    epoch_tokens: Annotated[int, Field(ge=1)] = 20
    window: Duration = timedelta(days=30)


class ChannelSection(Section):
    """A section of [channels]. `secrets`: the channel's own LEEWARD_ variables, without the prefix, by their form."""

    secrets: ClassVar[Mapping[str, SecretForm]] = {}


class EmailChannel(ChannelSection):
    """[channels.email]: on whenever LEEWARD_SMTP_URL is set; `locales` are the enabled languages."""

    locales: Annotated[tuple[Locale, ...], Field(min_length=1)] = ("en",)


class WebhookChannel(ChannelSection):
    """[channels.webhook]: a signed POST to a gateway of the site's own."""

    secrets: ClassVar[Mapping[str, SecretForm]] = {"WEBHOOK_SECRET": "whsec"}
    url: Annotated[str, Field(pattern=r"^https?://")]


class Channels(Section):
    """[channels.*]."""

    email: EmailChannel = EmailChannel()
    webhook: WebhookChannel | None = None


# of every channel, whether it is on or not: a variable that no channel has is refused
CHANNEL_SECRETS: Final[Mapping[str, SecretForm]] = {
    name: form for section in ChannelSection.__subclasses__() for name, form in section.secrets.items()
}


class CrisisLine(Section):
    """[[crisis_lines.LOCALE]]: someone who answers at any time; looked up by the site itself."""

    label: str = ""
    phone: str = ""
    text: str = ""
    url: str = ""
    hours: str = ""
    checked_on: date | None = None


class Emergency(Section):
    """[emergency.LOCALE]: the public emergency number."""

    phone: str = ""


class OnCall(Section):
    """[[on_call]]: a professional who is paged for urgent help."""

    label: str = ""
    phone: str = ""
    email: str = ""


class Referral(Section):
    """[[referrals.LOCALE]]: professional help to hand on to."""

    label: str = ""
    phone: str = ""
    url: str = ""
    what: str = ""


class Concern(Section):
    """[[concerns]]: somebody outside the programme, named on every page."""

    label: str = ""
    url: str = ""


FHIR_ALONE: Final = frozenset(
    {
        "base_url",
        "fhir_version",
        "topic",
        "criteria",
        "token_url",
        "client_id",
        "scopes",
        "heartbeat",
        "search",
        "categories",
        "harm",
    }
)


class Policy(Section):
    """The whole of `leeward.toml`."""

    incident: IncidentPolicy = IncidentPolicy()
    sources: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")], Source] = Field(
        default_factory=lambda: {"ehr": Source(kind="hl7v2"), "safety": Source(kind="native")}
    )
    outreach: Outreach = Outreach()
    supporters: Supporters = Supporters()
    feedback: Feedback = Feedback()
    channels: Channels = Channels()
    crisis_lines: dict[str, tuple[CrisisLine, ...]] = {}
    emergency: dict[str, Emergency] = {}
    on_call: tuple[OnCall, ...] = ()
    referrals: dict[str, tuple[Referral, ...]] = {}
    concerns: tuple[Concern, ...] = ()

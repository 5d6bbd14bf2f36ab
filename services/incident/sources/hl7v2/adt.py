"""From an HL7 v2 message to what it claims (HL7 v2.9 chapters 3, 12 and 15); the rules on it are `policy`'s."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from leeward.settings.policy import Rule, Source
from services.incident.decisions.claims import (
    DEAD,
    DEATH,
    CodedSeverity,
    Disposition,
    Identifier,
    Indicator,
    Kind,
    Mention,
    Pair,
    PatientClaim,
    Report,
    Visit,
)
from services.incident.sources.hl7v2.ack import Header
from services.incident.sources.hl7v2.parser import NULL, Hl7Error, Hl7Message, Segment
from services.incident.sources.hl7v2.site_rules import evidence_of, match_rules, same_observation

PRACTITIONERS: Final = (7, 9, 17, 52)  # of PV1: attending, consulting, admitting, other; never 8, the referring one
OUTSIDE_ROLES: Final = frozenset({"PP", "PCP", "RP", "REF", "FHCP", "FP"})  # table 0443, and what is used in its place
OUTSIDE_WORDS: Final = ("primary care", "referring", "family")
TAKEN_OUT: Final = frozenset({"DE", "DL", "UN"})  # table 0287: delete, unlink
_INDICATORS: Final[Mapping[str, Indicator]] = {
    **dict.fromkeys(("Y", "YES", "T", "TRUE", "1"), "Y"),
    **dict.fromkeys(("N", "NO", "F", "FALSE", "0"), "N"),
    NULL: "null",
}
UNIT_LENGTH: Final = 200
LONGEST: Final = 200  # characters of a staff identifier
MOST: Final = 200  # identifiers, people or merges of one message; beyond that it is no message but an attack
_TIME: Final = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\.\d{1,9})?([+-]\d{4})?", re.ASCII)
_SPANS: Final = (timedelta(days=366), timedelta(days=31), timedelta(days=1), timedelta(hours=1), timedelta(minutes=1))
_CODE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
# values such as 0 or 999999999 that registration desks type for many patients; 1111 is the 1,111th patient
_PLACEHOLDER: Final = re.compile(r"(.)\1{5,}|0+", re.DOTALL)


EVENTS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("A01", "A02", "A03", "A04", "A06", "A07", "A31"), "evidence"),
    "A08": "update",
    "A11": "cancel",
    "A13": "cancel",
    "A40": "merge",
}


class Moment(NamedTuple):
    """A time as exact as it was sent: it falls in [at, until)."""

    at: datetime
    until: datetime

    @property
    def coarse(self) -> bool:
        return self.until - self.at >= timedelta(days=1)


def check_header(header: Header, source: Source) -> None:
    """What must be right before anything else is looked at.

    Raises:
        Hl7Error: 101 for a field every message needs, 202 for a processing id the source does not take.
    """
    if not header.control_id:
        raise Hl7Error(101, "MSH^1^10", "no_control_id")
    kind, event = message_event(header)
    if not kind or (kind == "ADT" and not event):
        raise Hl7Error(101, "MSH^1^9^2" if kind else "MSH^1^9", "no_message_type")
    if (_codes(header.raw(11), header.delimiters.component)[0] or "P") not in source.processing_ids:
        raise Hl7Error(202, "MSH^1^11", "processing_id")


def message_event(header: Header) -> tuple[str, str]:
    """MSH-9.1 and MSH-9.2; EVN-1 is not asked, the two disagree in most feeds."""
    return _codes(header.raw(9), header.delimiters.component)


def is_live(header: Header) -> bool:
    """False for archived, restored and initially loaded records (MSH-11.2 of A, R or I; HL7 table 0207)."""
    return _codes(header.raw(11), header.delimiters.component)[1] not in ("A", "R", "I")


@lru_cache(maxsize=256)
def _codes(field: bytes, mark: bytes) -> tuple[str, str]:
    """The first two components; a feed's headers hold the same few all day."""
    parts = field.split(mark) if mark else [field]
    first, second = (
        parts[place].decode("ascii", "replace").strip().upper() if place < len(parts) else "" for place in (0, 1)
    )
    return first, second


def source_of(header: Header, message: Hl7Message, sources: Mapping[str, Source]) -> str | None:
    """The source whose `match` fits best: a name before a `*`; None where none fits."""
    best: tuple[int, str] | None = None
    for name, source in sources.items():
        wanted = [(place, want) for place, want in ((3, source.match.msh3), (4, source.match.msh4)) if want != "*"]
        if source.kind != "hl7v2" or any(message.header.text(place) != want for place, want in wanted):
            continue
        if best is None or len(wanted) > best[0]:
            best = len(wanted), name
    return best[1] if best else None


def read_message(
    message: Hl7Message, header: Header, name: str, source: Source, now: datetime
) -> tuple[PatientClaim | Report, ...]:
    """What a message says that matters here: a claim about its patient, and what rules of the site's make of it.

    name and source: the source's name and settings; now: when the message came.
    """
    structure, event = names = message_event(header)
    kind = EVENTS.get(event) if structure == "ADT" else None
    if not is_live(header):
        return ()
    if kind == "merge":
        pairs = []
        # every PID with the MRG behind it (A40, HL7 v2.9 §3.3.40)
        for group in message.groups(b"PID", frozenset({b"MRG"})):
            surviving = _cx(group[b"PID"], (3,), name, source)
            prior = _cx(group[b"MRG"], (1,), name, source) if b"MRG" in group else ()
            if surviving and prior:
                pairs.append(Pair(surviving, prior))
        return (PatientClaim(kind, name, (), Visit(), merges=tuple(pairs[:MOST])),)
    found = [] if kind == "cancel" else list(match_rules(message, names, source))
    ruled = next((rule for rule, _ in found if rule.category == DEATH), None)
    reports = [
        _report(message, name, source, now, header=header, rule=rule, segment=segment)
        for rule, segment in found
        if rule.category != DEATH
    ]
    if kind is None and ruled is None:
        return tuple(reports)
    return (_claim(message, name, source, now, kind=kind or "evidence", ruled=ruled), *reports)


def _report(
    message: Hl7Message, name: str, source: Source, now: datetime, *, header: Header, rule: Rule, segment: Segment
) -> Report:
    """What a rule makes of a segment, where it is not about a death."""
    visit = message.segment(b"PV1")
    stay = Visit(_plain(visit.text(19)), _plain(message.segment(b"PID").text(18)))
    observed = moment(segment.text(14), source.timezone) if segment.name == b"OBX" else None
    return Report(
        source=name,
        source_ref=f"{rule.name} {same_observation(message, header, stay)}",
        category=rule.category,
        severity=CodedSeverity("leeward", rule.level, rule.level),
        occurred_at=min(observed.at, now) if observed else occurred_at(message, source.timezone, now),
        unit=unit_of(visit, source),
        urgency="routine",
        patient=(),
        mentions=tuple(list_people(message, source)),
        ruled=evidence_of(rule),
    )


def _claim(
    message: Hl7Message, name: str, source: Source, now: datetime, *, kind: Kind, ruled: Rule | None
) -> PatientClaim:
    pid, visit = message.segment(b"PID"), message.segment(b"PV1")
    code = visit.text(36)
    if code in ("", NULL):
        disposition: Disposition = "null" if code else ""
    else:
        disposition = "dead" if code in source.death_dispositions else "living"
    indicator = _INDICATORS.get(pid.text(30).upper(), "")
    died = moment(pid.text(29), source.timezone)
    seen = Visit(_plain(visit.text(19)), _plain(pid.text(18)))
    # PID-3, else PID-2 and PID-4 of old feeds, else the visit
    patient = _cx(pid, (3,), name, source) or _cx(pid, (2, 4), name, source)
    if not patient and any(seen):
        patient = (Identifier(f"visit:{name}", seen.number or seen.account),)
    death_given = bool(_plain(pid.text(29)))
    if disposition != "dead" and indicator != "Y" and not death_given and not ruled:
        # most messages: nothing of a death, so nobody asks when, where and who
        return PatientClaim(kind, name, patient, seen, disposition, indicator)
    severity = DEAD if indicator == "Y" else CodedSeverity("leeward", "death", "death")
    if disposition == "dead" and _CODE.fullmatch(code):
        severity = CodedSeverity("hl7-0112", code, "death")
    return PatientClaim(
        kind=kind,
        source=name,
        patient=patient,
        visit=seen,
        disposition=disposition,
        indicator=indicator,
        severity=severity,
        ruled=evidence_of(ruled) if ruled else None,
        death_given=death_given,
        death_until=died.until if died else None,
        occurred_at=occurred_at(message, source.timezone, now),
        unit=unit_of(visit, source),
        mentions=tuple(list_people(message, source)),
    )


def _plain(text: str) -> str:
    return "" if text == NULL else text


def unit_of(visit: Segment, source: Source) -> str:
    """PV1-3.1, or PV1-6.1 where the patient was only in transit, under the name the site gives it."""
    here, before = visit.text(3), visit.text(6)
    in_transit = here in source.transit_units or source.units.get(here) in source.transit_units
    name = before if in_transit and before else here
    return _plain(source.units.get(name, name))[:UNIT_LENGTH]


# ---- times


@lru_cache(maxsize=1024)
def moment(text: str, zone: str) -> Moment | None:
    """An HL7 time (v2.9 §2.A.22) as UTC; without an offset it is the source's local time; None for what is no time."""
    found = _TIME.fullmatch(text)
    if not found:
        return None
    *digits, fraction, offset = found.groups()
    numbers = [int(part) for part in digits if part is not None]
    try:
        local = datetime(*(numbers + [1, 1][len(numbers) - 1 :] if len(numbers) < 3 else numbers))  # type: ignore[arg-type] # noqa: DTZ001
        ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5])) if offset else timedelta()
        tzinfo = timezone(-ahead if offset[0] == "-" else ahead) if offset else ZoneInfo(zone)
        at = local.replace(tzinfo=tzinfo).astimezone(UTC)
        at += timedelta(seconds=float(fraction or 0))
        return Moment(at, at + (_SPANS[len(numbers) - 1] if len(numbers) < 6 else timedelta(seconds=1)))
    except (ValueError, OverflowError):
        return None


def occurred_at(message: Hl7Message, zone: str, now: datetime) -> datetime:
    """PID-29, else PV1-45, EVN-6, EVN-2, MSH-7, else now; never later than now."""
    places = ((b"PID", 29), (b"PV1", 45), (b"EVN", 6), (b"EVN", 2), (b"MSH", 7))
    return first_given([moment(message.segment(name).text(number), zone) for name, number in places], now)


def first_given(given: Sequence[Moment | None], now: datetime) -> datetime:
    """The first of these times, else now; never later than now.

    Where the one that counts is only a day, the next one within that day says it better.
    """
    moments = [one for one in given if one]
    if not moments:
        return now
    first = moments[0]
    exact = [one.at for one in moments[1:] if first.coarse and not one.coarse and first.at <= one.at < first.until]
    return min(exact[0] if exact else first.at, now)


# ---- patients


def _cx(segment: Segment, numbers: tuple[int, ...], name: str, source: Source) -> tuple[Identifier, ...]:
    """Identifiers of CX fields, one for each name their authority goes by, so that feeds that share one meet."""
    found: dict[Identifier, None] = {}
    for number in numbers:
        for repetition in segment.repetitions(number)[:MOST]:
            value = segment.notation.part(repetition, 1)
            if not value or value == NULL or _PLACEHOLDER.fullmatch(value):
                continue
            given = [segment.notation.part(repetition, 4, place) for place in (1, 2)]
            systems = [source.identifier_systems.get(one, one) for one in given if one] or [f"source:{name}"]
            found |= {Identifier(system.casefold(), value): None for system in systems}
    return tuple(found)[:MOST]


# ---- people


def list_people(message: Hl7Message, source: Source) -> list[Mention]:
    """Everyone listed around the patient, each once: PV1-7, 9, 17, 52, ROL-4 and PRT-5, outside roles left out."""
    found: dict[Identifier, None] = {}
    for visit in message.segments(b"PV1"):
        for number in PRACTITIONERS:
            found |= _xcn(visit, number, source)
    for name, action, role, person in ((b"ROL", 2, 3, 4), (b"PRT", 2, 4, 5)):
        for segment in message.segments(name):
            if segment.text(action).upper() in TAKEN_OUT:
                continue
            codes = {segment.text(role, component).upper() for component in (1, 4)}
            words = " ".join(segment.text(role, component).casefold() for component in (1, 2, 5, 9))
            if not codes & OUTSIDE_ROLES and not any(word in words for word in OUTSIDE_WORDS):
                found |= _xcn(segment, person, source)
    return [Mention(identifier) for identifier in found][:MOST]


def _xcn(segment: Segment, number: int, source: Source) -> dict[Identifier, None]:
    """Identifiers of an XCN field; the system is XCN-9.1 looked up, else XCN-9.2; only an empty XCN-9 falls back."""
    found: dict[Identifier, None] = {}
    part = segment.notation.part
    for repetition in segment.repetitions(number)[:MOST]:
        value = part(repetition, 1)
        if not value or value == NULL or len(value) > LONGEST:
            continue
        authority = [part(repetition, 9, place) for place in (1, 2, 3)]
        if not any(authority):
            found[Identifier(source.identifier_system, value)] = None
            continue
        listed = [source.identifier_systems[one] for one in authority[:2] if one in source.identifier_systems]
        system = listed[0] if listed else None
        found[Identifier(system, value, "" if system else authority[0] or authority[1])] = None
    return found

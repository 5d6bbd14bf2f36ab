"""From FHIR resources to what they claim (R4, R4B, R5): Encounter, Patient, AdverseEvent and the people around them.

Only what decides is read, and nothing is validated against profiles: real servers send what no validator takes.
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from leeward.settings.policy import Level
from services.incident.decisions import severity
from services.incident.decisions.claims import (
    CodedSeverity,
    Disposition,
    Identifier,
    Indicator,
    Mention,
    Pair,
    PatientClaim,
    Report,
    Visit,
)
from services.incident.sources.fhir.references import Resources, local_reference
from services.incident.sources.fhir.tree import NOTHING, Node
from services.incident.sources.hl7v2.adt import (
    LONGEST,
    MOST,
    OUTSIDE_ROLES,
    OUTSIDE_WORDS,
    UNIT_LENGTH,
    Moment,
    first_given,
    moment,
)

EXPIRED: Final = "exp"  # http://terminology.hl7.org/CodeSystem/discharge-disposition
NEVER_WAS: Final = frozenset({"entered-in-error", "cancelled"})
GOING_ON: Final = frozenset({"arrived", "triaged", "in-progress", "onleave", "on-hold"})
OLD_TEAMS: Final = frozenset({"entered-in-error", "inactive", "proposed"})
# SNOMED CT: general practitioner, primary care physician, patient; v3-ParticipationType: referrer, callback contact
OUTSIDE: Final = OUTSIDE_ROLES | {"62247001", "446050000", "116154003", "CALLBCK"}
ADVERSE_EVENT: Final = "fhir-adverse-event"
# codes of AdverseEvent.outcome, .severity and .seriousness (terminology.hl7.org), compared without case
HARM: Final[dict[str, Level]] = {
    "fatal": "death",
    "seriousresultsindeath": "death",
    "severe": "severe",
    "life-threatening": "severe",
    "seriousislifethreatening": "severe",
    "seriousresultsinhospitalization": "severe",
    "seriousresultsindisability": "severe",
    "seriousisbirthdefect": "severe",
    "seriousrequirespreventimpairment": "severe",
    "serious": "severe",
    "moderate": "moderate",
    "mild": "mild",
    "non-serious": "none",
}
WORST: Final[tuple[Level, ...]] = ("unknown", "none", "mild", "moderate", "severe", "death")
_CODE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")


Said = tuple[Node, PatientClaim | Report]


def read_resources(resources: Resources) -> tuple[PatientClaim | Report, ...]:
    """What the resources of one message say: encounters with their patients, patients alone, adverse events."""
    return tuple(said for _, said in read_each(resources))


def list_mattering(told: Iterable[Said]) -> list[Node]:
    """The resources that may lead to anything, so that it is worth knowing who was there."""
    return [
        one for one, said in told if isinstance(said, Report) or said.disposition == "dead" or said.indicator == "Y"
    ]


def read_each(resources: Resources) -> Iterator[Said]:
    """The same with the resource that says it."""
    with_encounter: set[str] = set()
    for encounter in resources.of("Encounter"):
        patient = resources.find(encounter.child("subject"), encounter)
        with_encounter.add(_ident(patient) if patient else "")
        yield encounter, _encounter(encounter, patient, resources)
    for patient in resources.of("Patient"):
        if _ident(patient) in with_encounter:
            continue
        indicator, died = _deceased(patient, resources)
        yield (
            patient,
            PatientClaim(
                kind="update",
                source=resources.name,
                patient=_patient_keys(NOTHING, patient, resources),
                visit=Visit(),
                indicator=indicator,
                severity=_dead(""),
                death_given=bool(died),
                death_until=died.until if died else None,
                occurred_at=_first(resources, died, patient.child("meta").text("lastUpdated")),
                mentions=_teams(patient, resources),
                merges=_merges(patient, resources),
            ),
        )
    for event in resources.of("AdverseEvent"):
        yield event, _adverse_event(event, resources)


# ---- deaths


def _encounter(encounter: Node, patient: Node, resources: Resources) -> PatientClaim:
    numbered = [one for one in encounter.children("identifier") if one.text("value")]
    official = [one for one in numbered if one.text("use") in ("official", "usual")]
    # the visit number that other feeds share, else the resource's own id
    seen = Visit((official or numbered or [NOTHING])[0].text("value") or _ident(encounter))
    keys = _patient_keys(encounter.child("subject"), patient, resources)
    keys = keys or (Identifier(f"visit:{resources.name}", seen.number),)
    if encounter.text("status") in NEVER_WAS:
        return PatientClaim("cancel", resources.name, keys, seen)
    stay = encounter.child("hospitalization") or encounter.child("admission")
    given = codes(stay.children("dischargeDisposition"))
    dead = [code for code in given if code == EXPIRED or code in resources.source.death_dispositions]
    if given:
        disposition: Disposition = "dead" if dead else "living"
    else:  # an encounter that goes on was opened again: its discharge is taken back, as A13 does
        disposition = "null" if encounter.text("status") in GOING_ON else ""
    indicator, died = _deceased(patient, resources)
    period = encounter.child("period") or encounter.child("actualPeriod")
    listed = [(one.child("individual") or one.child("actor"), one) for one in encounter.children("participant")]
    mentions = dict.fromkeys([*_mentions(listed, encounter, resources), *_teams(encounter, resources)])
    places = list(encounter.children("location"))
    active = [one for one in places if one.text("status") == "active"]
    here = (active or places or [NOTHING])[-1].child("location")  # where the encounter ends
    return PatientClaim(
        kind="update",
        source=resources.name,
        patient=keys,
        visit=seen,
        disposition=disposition,
        indicator=indicator,
        severity=_dead(dead[0] if dead else ""),
        death_given=bool(died),
        death_until=died.until if died else None,
        occurred_at=_first(resources, died, period.text("end"), encounter.child("meta").text("lastUpdated")),
        unit=_place(here, encounter, resources),
        mentions=tuple(mentions)[:MOST],
        merges=_merges(patient, resources),
    )


def _dead(disposition: str) -> CodedSeverity:
    if _CODE.fullmatch(disposition):
        return CodedSeverity("fhir-discharge-disposition", disposition, "death")
    return CodedSeverity("fhir-deceased", "true", "death")


def _deceased(patient: Node, resources: Resources) -> tuple[Indicator, Moment | None]:
    """Patient.deceased[x]; an absent one says nothing, as FHIR says."""
    died = _moment(patient.text("deceasedDateTime"), resources)
    if patient.text("deceasedDateTime"):
        return "Y", died
    flag = patient.flag("deceasedBoolean")
    return ("" if flag is None else "Y" if flag else "N"), None


def _patient_keys(reference: Node, patient: Node, resources: Resources) -> tuple[Identifier, ...]:
    """Whatever tells one patient from another, for each the name that other feeds may call it by."""
    listed = [*patient.children("identifier"), *reference.children("identifier")]
    found = {
        Identifier(system(one, resources).casefold(), one.text("value")): None for one in listed if one.text("value")
    }
    own = patient.text("id") or local_reference(reference.text("reference")).removeprefix("Patient/")
    if own and not reference.text("reference").startswith("#"):
        found[Identifier(f"fhir:{resources.server}", own)] = None
    return tuple(found)[:MOST]


def _merges(patient: Node, resources: Resources) -> tuple[Pair, ...]:
    """Patient.link: which of two records of one patient's is given up for the other, as A40 does."""
    own = _patient_keys(NOTHING, patient, resources)
    pairs = []
    for link in list(patient.children("link"))[:MOST]:
        other = _patient_keys(link.child("other"), resources.find(link.child("other"), patient), resources)
        if link.text("type") == "replaced-by":
            pairs.append(Pair(other, own))
        elif link.text("type") == "replaces":
            pairs.append(Pair(own, other))
    return tuple(one for one in pairs if all(one))


def system(identifier: Node, resources: Resources) -> str:
    """The name a site gives to an identifier's system, which may be a URL or an OID; else the system itself."""
    given = identifier.text("system").removeprefix("urn:oid:")
    return resources.source.identifier_systems.get(given, given) or f"source:{resources.name}"


# ---- adverse events


def _adverse_event(event: Node, resources: Resources) -> Report:
    level, code = _harm(event, resources)
    own = next((one for one in event.children("identifier") if one.text("value")), NOTHING)
    patient = resources.find(event.child("subject"), event)
    # R4: references; R5: participants with an actor; each with where its role stands
    reporters = [
        (event.child("recorder"), NOTHING),
        *((one.child("actor") or one, one) for one in event.children("contributor")),
        *((one.child("actor"), one) for one in event.children("participant")),
    ]
    times = [event.text(key) for key in ("date", "occurrenceDateTime", "detected", "recordedDate")]
    given, named = codes(event.children("category", "event", "code")), resources.source.categories
    return Report(
        source=resources.name,
        source_ref=f"{own.text('system')}|{own.text('value')}" if own else _ident(event),
        category=next((named[code] for code in given if code in named), "adverse_event"),
        severity=CodedSeverity(ADVERSE_EVENT, code, level),
        occurred_at=_first(resources, None, *times, event.child("occurrencePeriod").text("start")),
        unit=_place(event.child("location"), event, resources),
        urgency="routine",
        patient=_patient_keys(event.child("subject"), patient, resources),
        mentions=_mentions(reporters, event, resources),
        withdrawn=event.text("actuality").casefold() == "potential" or event.text("status") == "entered-in-error",
    )


def _harm(event: Node, resources: Resources) -> tuple[Level, str]:
    """The worst that outcome, severity, seriousness and the site's own extensions say, with the code that said it.

    The extensions hold LFPSE degrees of harm, at any depth, here and in the contained patients (`sources.NAME.harm`).
    """
    said = [
        (HARM[code.casefold()], code)
        for code in codes(event.children("outcome", "severity", "seriousness"))
        if code.casefold() in HARM
    ]
    waiting = [
        *event.children("extension"),
        *(inner for one in event.children("contained") for inner in one.children("extension")),
    ]
    while waiting:
        extension = waiting.pop()
        waiting += extension.children("extension")
        levels = resources.source.harm.get(extension.text("url").rpartition("/")[2])
        if levels:
            given = [extension.text("valueCode"), *codes(extension.children("valueCodeableConcept"))]
            given += [extension.child("valueCoding").text("code")]
            said += [(severity.severity("lfpse", levels[code]).level, levels[code]) for code in given if code in levels]
    return max(said, key=lambda one: WORST.index(one[0]), default=("unknown", "unknown"))


# ---- people


def _teams(about: Node, resources: Resources) -> tuple[Mention, ...]:
    """CareTeam.participant of the teams that care for this encounter or patient."""
    wanted = f"{about.kind}/{about.text('id')}"
    found: list[Mention] = []
    for team in resources.of("CareTeam"):
        about_it = [local_reference(team.child(key).text("reference")) for key in ("encounter", "subject")]
        referred = [local_reference(one.text("reference")) for one in about.children("careTeam")]
        if (wanted in about_it or f"CareTeam/{team.text('id')}" in referred) and team.text("status") not in OLD_TEAMS:
            found += _mentions([(one.child("member"), one) for one in team.children("participant")], team, resources)
    return tuple(found)


def _mentions(listed: Iterable[tuple[Node, Node]], inside: Node, resources: Resources) -> tuple[Mention, ...]:
    """The people of references, each with where its role stands; outside roles are left out."""
    found: dict[Mention, None] = {}
    for reference, role in listed:
        if not reference:
            continue
        concepts = [*role.children("type", "role", "function")]
        texts = ([one.text("text"), *(coding.text("display") for coding in one.children("coding"))] for one in concepts)
        words = " ".join(text for each in texts for text in each).casefold()
        outside = {code.upper() for code in codes(concepts)} & OUTSIDE or any(one in words for one in OUTSIDE_WORDS)
        if not outside and (person := _staff_identifier(reference, inside, resources)):
            found[Mention(person)] = None
    return tuple(found)[:MOST]


def _staff_identifier(reference: Node, inside: Node, resources: Resources) -> Identifier | None:
    """The member of staff that a reference means; None for patients, relatives, devices and organisations."""
    found = resources.find(reference, inside)
    if found.kind == "PractitionerRole":
        # a role that is contained leads to whom the same resource contains
        inside = inside if reference.text("reference").startswith("#") else found
        reference = found.child("practitioner")
        found = resources.find(reference, inside)
    local = local_reference(reference.text("reference"))
    kind = found.kind or local.partition("/")[0] or reference.text("type") or "Practitioner"
    if kind not in ("Practitioner", "PractitionerRole"):
        return None
    listed = [*found.children("identifier"), *reference.children("identifier")]
    given = [(one.text("system").removeprefix("urn:oid:"), one.text("value")) for one in listed]
    known = resources.source.identifier_systems
    usable = [(system, value) for system, value in given if value and len(value) <= LONGEST]
    for authority, value in usable:
        if authority in known:
            return Identifier(known[authority], value)
    if usable:
        authority, value = usable[0]
        return (
            Identifier(None, value, authority) if authority else Identifier(resources.source.identifier_system, value)
        )
    if not local or resources.more_comes:
        return None
    return Identifier(known.get(kind), local.partition("/")[2], "" if kind in known else kind)


# ---- names, places, times, codes


def _ident(resource: Node) -> str:
    """`Encounter/12`; of one without an id all that it says, so that no two of them are taken for one."""
    return f"{resource.kind}/{resource.text('id') or json.dumps(resource.value, sort_keys=True)}"


def _place(reference: Node, inside: Node, resources: Resources) -> str:
    """A location under the name the site gives it: by its identifier, its reference, its name."""
    found = resources.find(reference, inside)
    names = [one.text("value") for one in [*found.children("identifier"), *reference.children("identifier")]]
    names += [local_reference(reference.text("reference")), found.text("name"), reference.text("display")]
    given = [one for one in names if one]
    known = next((resources.source.units[one] for one in given if one in resources.source.units), "")
    return (known or next(iter(given), ""))[:UNIT_LENGTH]


def codes(concepts: Iterable[Node]) -> list[str]:
    """The codes of CodeableConcepts."""
    return [code for one in concepts for coding in one.children("coding") if (code := coding.text("code"))]


def _moment(text: str, resources: Resources) -> Moment | None:
    """A FHIR date, dateTime or instant; without an offset it is the source's local time."""
    found = re.fullmatch(r"([\d-]+)(?:T([\d:]+(?:\.\d{1,9})?))?(Z|[+-]\d\d:\d\d)?", text, re.ASCII)
    if not found:
        return None
    offset = "+0000" if found[3] == "Z" else (found[3] or "").replace(":", "")
    return moment(found[1].replace("-", "") + (found[2] or "").replace(":", "") + offset, resources.source.timezone)


def _first(resources: Resources, first: Moment | None, *texts: str) -> datetime:
    return first_given([first, *(_moment(text, resources) for text in texts)], resources.now)

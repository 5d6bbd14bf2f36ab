"""What incident talks about: what a message claims, what is known of a patient, and what was decided."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple

from leeward.settings.policy import Level

DENIED: Final = "disposition_denied"  # a discharge of somebody dead, who PID-30 says is not
DEATH: Final = "death"  # the category of an outcome that an EHR reports
Indicator = Literal["", "Y", "N", "null"]  # PID-30; "null" is an explicit deletion
Disposition = Literal["", "dead", "living", "null"]  # PV1-36 by the source's death_dispositions
State = Literal["review", "recorded", "dismissed", "retracted"]
# show evidence; show it, and take it back by what it says no more; cancel a visit; join patients
Kind = Literal["evidence", "update", "cancel", "merge"]
_WEIGHT: Final = ("retracted", "dismissed", "review", "recorded")


class Action(StrEnum):
    """What becomes of a message."""

    NOTHING = "nothing"
    RECORD = "record"
    REVIEW = "review"
    RETRACT = "retract"
    ADD = "add"


class Identifier(NamedTuple):
    """A staff or patient identifier; `system` is None where its authority is not one the source lists."""

    system: str | None
    value: str
    authority: str = ""


class Mention(NamedTuple):
    """Somebody a message lists; a reviewer examines the event and is neither offered nor offers support for it."""

    identifier: Identifier
    reviewer: bool = False


class CodedSeverity(NamedTuple):
    """A scheme's own code with the normalised level."""

    scheme: str
    code: str
    level: Level


DEAD: Final = CodedSeverity("hl7-0136", "Y", "death")  # PID-30 said so


class Visit(NamedTuple):
    """The visit's number (PV1-19) and account (PID-18), as sent or as keyed hashes; "" where there is none."""

    number: str = ""
    account: str = ""


class Pair(NamedTuple):
    """One merge of an A40: the surviving patient's identifiers and the ones given up."""

    surviving: tuple[Identifier, ...]
    prior: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Evidence in one message."""

    reason: str
    certain: bool


@dataclass(frozen=True, slots=True)
class PatientClaim:
    """What an EHR's message claims of a patient; lives in memory only.

    Disposition and indicator are named by their HL7 v2 fields, PV1-36 and PID-30; FHIR's are read into the same.
    """

    kind: Kind
    source: str
    patient: tuple[Identifier, ...]
    visit: Visit
    disposition: Disposition = ""
    indicator: Indicator = ""
    severity: CodedSeverity = DEAD
    ruled: Evidence | None = None  # a rule of the site's own says so, whatever the other fields do
    death_given: bool = False  # PID-29 holds something
    death_until: datetime | None = None  # the latest moment PID-29 can mean
    occurred_at: datetime | None = None
    unit: str = ""
    mentions: tuple[Mention, ...] = ()
    merges: tuple[Pair, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What the report of an incident claims; lives in memory only.

    `withdrawn`: it was none, or an error.
    """

    source: str
    source_ref: str
    category: str
    severity: CodedSeverity
    occurred_at: datetime
    unit: str
    urgency: Literal["routine", "urgent"]
    patient: tuple[Identifier, ...]
    mentions: tuple[Mention, ...]
    withdrawn: bool = False
    ruled: Evidence | None = None  # a rule of the site's own decides, and not the triggers


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that a message says, visits and patients already hashed.

    `keys` lead to its patient, `merges` are (surviving keys, prior keys).
    """

    said: PatientClaim | Report
    keys: tuple[str, ...] = ()
    merges: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()

    def all_keys(self) -> Iterator[str]:
        """The keys of every patient it names."""
        yield from self.keys
        for surviving, prior in self.merges:
            yield from surviving
            yield from prior


def limit_to_evidence(said: PatientClaim | Report) -> PatientClaim | Report:
    """What came after later messages shows evidence and takes nothing back: what it says may be no more."""
    return replace(said, kind="evidence") if isinstance(said, PatientClaim) and said.kind == "update" else said


@dataclass(slots=True)
class Current:
    """A patient's present incident."""

    incident_ref: str
    state: State
    certain: bool  # evidence of a death, not a doubt for review
    by_disposition: bool
    source: str
    visit: Visit
    accepted_at: datetime
    occurred_at: datetime
    denied: bool = False  # the message that told of it said no as well


def current_of(row: Mapping[Any, Any]) -> Current:
    """An incident's stored columns as the policy sees it."""
    return Current(
        incident_ref=row["incident_ref"],
        state=row["state"],
        certain=bool(row["certain"]),
        by_disposition=bool(row["by_disposition"]),
        source=row["source"],
        visit=Visit(row["visit"], row["account"]),
        accepted_at=row["accepted_at"],
        occurred_at=row["occurred_at"],
        denied=DENIED in row["reasons"].split(),
    )


@dataclass(slots=True)
class Patient:
    """What is known of a patient; `known` says that an earlier message was about them."""

    patient_ref: str
    known: bool = False
    indicator: Literal["", "Y", "N"] = ""
    current: Current | None = None


def combine(patients: Sequence[Patient]) -> Patient:
    """One view of the patients a message's identifiers lead to; nearly always there is one."""
    if len(patients) == 1:
        return patients[0]
    view = Patient(patients[0].patient_ref, any(one.known for one in patients))
    for one in patients:
        view.indicator = "Y" if "Y" in (view.indicator, one.indicator) else view.indicator or one.indicator
        view.current = heavier(view.current, one.current)
    return view


def heavier(one: Current | None, other: Current | None) -> Current | None:
    """Of two incidents of a patient the one that decides: a recorded one before a doubt, before one that is over."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda each: (_WEIGHT.index(each.state), each.certain))


@dataclass(frozen=True, slots=True)
class SignalDecision:
    """What to do, why (codes), and whether a death is certain."""

    action: Action
    reasons: tuple[str, ...]
    certain: bool = True

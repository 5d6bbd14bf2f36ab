"""`leeward hl7 explain FILE`: what was read of a message and why it is decided so, without a word of the patient's."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal

from leeward.settings import Settings
from services.incident.decisions.claims import (
    Action,
    Current,
    Mention,
    Patient,
    PatientClaim,
    Report,
    Signal,
    SignalDecision,
    Visit,
    combine,
)
from services.incident.decisions.decide import decide
from services.incident.sources.hl7v2.ack import build_answers
from services.incident.sources.hl7v2.adt import EVENTS, message_event
from services.incident.sources.hl7v2.parser import CONDITIONS, Hl7Error, Hl7Message
from services.incident.sources.hl7v2.receiver import Reading, read_hl7
from services.incident.sources.hl7v2.site_rules import match_rules

_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{2}")
DISPOSITIONS: Final = {"": "empty", "dead": "one of death_dispositions", "living": "none of death_dispositions"}
CASES: Final = {
    "for a patient not seen before": Patient(""),
    "for a patient last seen alive": Patient("", known=True, indicator="N"),
    "for a patient last seen with PID-30 Y": Patient("", known=True, indicator="Y"),
}


def explain(raw: bytes, settings: Settings) -> list[str]:
    """Lines about one message as it lies in a file; MLLP framing around it is taken off."""
    body = raw.strip(b"\x0b\x1c\r\n ")
    clock = settings.clock()
    reading = read_hl7(body, settings.sources, clock)
    names = message_event(reading.header)
    try:
        message = Hl7Message(body)
    except Hl7Error:
        lines = ["read: no message"]
    else:
        kind, event = (part if _CODE.fullmatch(part) else "?" for part in names)
        lines = [
            f"read: {kind}^{event}, segments {' '.join(message.names())}",
            f"source: {reading.source or 'none matches MSH-3 and MSH-4'}",
        ]
        rules = match_rules(message, names, settings.sources[reading.source]) if reading.source else ()
        if met := [rule.name for rule, _ in rules]:
            lines.append(f"rules of the site met: {', '.join(met)}")
    conditions = reading.header.conditions()
    mode = f"enhanced mode ({'/'.join(conditions)})" if conditions else "original mode"
    given = build_answers(reading.header, reading.fault, clock.now(), "0")
    answered = " then ".join(re.split(rb"[\r]", one)[1][4:6].decode() for one in given) or "no answer"
    fault = reading.fault
    why = f", {fault.code} {CONDITIONS[fault.code]} at {fault.place} ({fault.reason})" if fault else ""
    lines.append(f"answer: {answered}, {mode}{why}")
    if fault is None:
        lines += _decided(reading, settings, clock.now())
    return lines


def _decided(reading: Reading, settings: Settings, now: datetime) -> Sequence[str]:
    if not reading.said:
        kind, event = message_event(reading.header)
        known = kind == "ADT" and event in EVENTS
        return ["decision: nothing (not_live)" if known else "decision: nothing (event_not_read)"]
    lines: list[str] = []
    for said in reading.said:
        if isinstance(said, Report):
            lines += [*_people(said.mentions), _decision("by a rule of the site", said, (), settings, now)]
        elif said.kind == "merge":
            lines.append(f"decision: merge, {len(said.merges)} patient(s) with identifiers on both sides")
        else:
            plain = replace(said, patient=(), visit=Visit())
            cases = {case: _decision(case, plain, (replace(one),), settings, now) for case, one in CASES.items()}
            lines += [
                f"PV1-36: {DISPOSITIONS.get(said.disposition, 'deleted')}",
                f"PID-30: {said.indicator or 'empty'}; PID-29: {'given' if said.death_given else 'empty'}",
                f"patient: {len(said.patient)} identifier(s); visit: {'given' if any(said.visit) else 'empty'}",
                *_people(said.mentions),
                *cases.values(),
            ]
    return lines


def _people(mentions: Sequence[Mention]) -> list[str]:
    unlisted = sum(mention.identifier.system is None for mention in mentions)
    return [f"people: {len(mentions)} listed, {unlisted} of them by an authority that is not in identifier_systems"]


def _decision(
    case: str, said: PatientClaim | Report, patients: Sequence[Patient], settings: Settings, now: datetime
) -> str:
    ledger = SupposedLedger(patients)
    decide(Signal(said), now, ledger, settings.incident)
    return f"decision {case}: {ledger.decision.action} ({', '.join(ledger.decision.reasons)})"


class SupposedLedger:
    """A ledger of patients that are supposed: decisions rest on what is known, which this command does not ask."""

    def __init__(self, patients: Sequence[Patient]) -> None:
        self._patients = patients
        self.decision = SignalDecision(Action.NOTHING, ())

    def merge(self, surviving: Sequence[str], prior: Sequence[str]) -> None:
        """Nobody is merged."""

    def find_opened(self, report: Report) -> Current | None:
        """Nothing has been reported before."""

    def find_told(self, report: Report) -> Current | None:
        """Nothing has been reported before."""

    def find_patients(self, keys: Sequence[str], *, create: bool) -> Sequence[Patient]:
        """Those that are supposed."""
        return self._patients

    def view(self, signal: Signal, patients: Sequence[Patient]) -> Patient:
        """See `Ledger`."""
        return combine(patients)

    def carry_out(
        self, signal: Signal, decision: SignalDecision, patients: Sequence[Patient], current: Current | None
    ) -> None:
        """Note it."""
        self.decision = decision

    def set_indicator(self, patient: Patient, indicator: Literal["", "Y", "N"]) -> None:
        """Nothing follows."""

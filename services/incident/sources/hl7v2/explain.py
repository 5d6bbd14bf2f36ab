"""`leeward hl7 explain FILE`: what was read of a message and why it is decided so, without a word of the patient's."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from leeward.settings import Settings
from services.incident.decisions.claims import Mention, Patient, PatientClaim, Report, Visit
from services.incident.decisions.policy import decide_claim, decide_report
from services.incident.sources.hl7v2.ack import build_answers
from services.incident.sources.hl7v2.adt import EVENTS, message_event
from services.incident.sources.hl7v2.parser import CONDITIONS, Hl7Error, Hl7Message
from services.incident.sources.hl7v2.receiver import Reading, read_hl7
from services.incident.sources.hl7v2.site_rules import match_rules

_CODE: Final = re.compile(r"[A-Z][A-Z0-9]{2}")


def explain(raw: bytes, settings: Settings) -> list[str]:
    """Lines about one message as it lies in a file; MLLP framing around it is taken off."""
    body = raw.strip(b"\x0b\x1c\r\n ")
    clock = settings.clock()
    reading = read_hl7(body, settings.sources, clock)
    lines = [*_read(body, reading, settings), *_answered(reading, clock.now())]
    if reading.fault is None:
        lines += _decided(reading, settings, clock.now())
    return lines


def _read(body: bytes, reading: Reading, settings: Settings) -> list[str]:
    try:
        message = Hl7Message(body)
    except Hl7Error:
        return ["read: no message"]
    names = message_event(reading.header)
    kind, event = (part if _CODE.fullmatch(part) else "?" for part in names)
    lines = [
        f"read: {kind}^{event}, segments {' '.join(message.names())}",
        f"source: {reading.source or 'none matches MSH-3 and MSH-4'}",
    ]
    if reading.source:
        met = [rule.name for rule, _ in match_rules(message, names, settings.sources[reading.source])]
        lines += [f"rules of the site met: {', '.join(met)}"] if met else []
    return lines


def _answered(reading: Reading, now: datetime) -> list[str]:
    conditions = reading.header.conditions()
    mode = f"enhanced mode ({'/'.join(conditions)})" if conditions else "original mode"
    codes = [re.split(rb"[\r]", one)[1][4:6].decode() for one in build_answers(reading.header, reading.fault, now, "0")]
    said = " then ".join(codes) or "no answer"
    fault = reading.fault
    why = f", {fault.code} {CONDITIONS[fault.code]} at {fault.place} ({fault.reason})" if fault else ""
    return [f"answer: {said}, {mode}{why}"]


def _decided(reading: Reading, settings: Settings, now: datetime) -> Sequence[str]:
    if not reading.said:
        kind, event = message_event(reading.header)
        known = kind == "ADT" and event in EVENTS
        return ["decision: nothing (not_live)" if known else "decision: nothing (event_not_read)"]
    lines: list[str] = []
    for said in reading.said:
        lines += _reported(said, settings, now) if isinstance(said, Report) else _claimed(said, settings, now)
    return lines


def _claimed(claim: PatientClaim, settings: Settings, now: datetime) -> list[str]:
    if claim.kind == "merge":
        return [f"decision: merge, {len(claim.merges)} patient(s) with identifiers on both sides"]
    return [*_evidence(claim), *_people(claim.mentions), *_outcomes(claim, settings, now)]


def _reported(report: Report, settings: Settings, now: datetime) -> list[str]:
    one = decide_report(report, None, settings.incident, now)
    return [*_people(report.mentions), f"decision by a rule of the site: {one.action} ({', '.join(one.reasons)})"]


def _evidence(claim: PatientClaim) -> list[str]:
    disposition = {"": "empty", "dead": "one of death_dispositions", "living": "none of death_dispositions"}
    given = {True: "given", False: "empty"}
    return [
        f"PV1-36: {disposition.get(claim.disposition, 'deleted')}",
        f"PID-30: {claim.indicator or 'empty'}; PID-29: {given[claim.death_given]}",
        f"patient: {len(claim.patient)} identifier(s); visit: {given[any(claim.visit)]}",
    ]


def _people(mentions: Sequence[Mention]) -> list[str]:
    unlisted = sum(mention.identifier.system is None for mention in mentions)
    return [f"people: {len(mentions)} listed, {unlisted} of them by an authority that is not in identifier_systems"]


def _outcomes(claim: PatientClaim, settings: Settings, now: datetime) -> list[str]:
    """The decision rests on what is known of the patient, which this command does not ask."""
    cases = {
        "for a patient not seen before": Patient(""),
        "for a patient last seen alive": Patient("", known=True, indicator="N"),
        "for a patient last seen with PID-30 Y": Patient("", known=True, indicator="Y"),
    }
    plain = replace(claim, patient=(), visit=Visit())
    decided = {case: decide_claim(plain, patient, settings.incident, now) for case, patient in cases.items()}
    return [f"decision {case}: {one.action} ({', '.join(one.reasons)})" for case, one in decided.items()]

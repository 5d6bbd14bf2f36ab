"""Rules that a site writes itself for its OBX and Z segments: `[[sources.NAME.rules]]` in leeward.toml."""

from collections.abc import Iterator
from typing import Final

from leeward.settings.policy import Rule, Source
from services.incident.decisions.claims import Evidence, Visit
from services.incident.sources.hl7v2.ack import Header
from services.incident.sources.hl7v2.parser import Hl7Message, Segment

# OBX-11 (HL7 table 0085): deleted, wrong, not obtained, not asked, no result, and pending ones say nothing
NO_RESULT: Final = frozenset({"D", "W", "X", "N", "O", "I"})


def match_rules(message: Hl7Message, names: tuple[str, str], source: Source) -> Iterator[tuple[Rule, Segment]]:
    """The rules that a message fulfils, each with the first segment that does; `names` are MSH-9.1 and MSH-9.2."""
    for rule in source.rules:
        if any(wanted in ("*", names[0], "^".join(names)) for wanted in rule.messages):
            found = next((one for one in message.segments(rule.segment.encode()) if _fulfils(one, rule)), None)
            if found:
                yield rule, found


def evidence_of(rule: Rule) -> Evidence:
    """What a rule that is fulfilled makes of a message."""
    return Evidence("site_rule", not rule.review)


def _fulfils(segment: Segment, rule: Rule) -> bool:
    if segment.name == b"OBX" and segment.text(11).upper() in NO_RESULT:
        return False
    for place, wanted in rule.when.items():
        # `FIELD`, `FIELD.COMPONENT` or `FIELD.COMPONENT.SUBCOMPONENT`, in any repetition
        field, component, subcomponent = [*(int(part) for part in place.split(".")), 1, 1][:3]
        given = {segment.notation.part(one, component, subcomponent) for one in segment.repetitions(field)}
        if not given & set(wanted):
            return False
    return True


def same_observation(message: Hl7Message, header: Header, visit: Visit) -> str:
    """What preliminary, final and corrected results of one observation share: OBR-3, else the visit, else MSH-10."""
    filler = message.segment(b"OBR").text(3)
    return filler or next((one for one in visit if one), "") or header.control_id.decode("ascii", "replace")

"""Harm scales and the level each of their codes stands for.

AHRQ Harm Scale 1.2; NCC MERP Index (2022): E and F are temporary harm, G and H permanent or life-threatening; LFPSE
(NHS England) physical harm; VA SAC matrix, 3 is worst; Western Australia SAC (2019), 1 is worst.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from leeward.settings.policy import Level
from services.incident.decisions.claims import CodedSeverity

SCHEMES: Final[Mapping[str, Mapping[str, Level]]] = MappingProxyType(
    {
        "ahrq-harm": {
            "death": "death",
            "severe-harm": "severe",
            "moderate-harm": "moderate",
            "mild-harm": "mild",
            "no-harm": "none",
            "unknown": "unknown",
        },
        "ncc-merp": {
            "A": "none",
            "B": "none",
            "C": "none",
            "D": "none",
            "E": "mild",
            "F": "moderate",
            "G": "severe",
            "H": "severe",
            "I": "death",
        },
        "lfpse": {"fatal": "death", "severe": "severe", "moderate": "moderate", "low": "mild", "none": "none"},
        "va-sac": {"3": "severe", "2": "moderate", "1": "mild"},
        "wa-sac": {"1": "severe", "2": "moderate", "3": "mild"},
        "leeward": {
            "death": "death",
            "severe": "severe",
            "moderate": "moderate",
            "mild": "mild",
            "none": "none",
            "unknown": "unknown",
        },
    }
)


def severity(scheme: str, code: str) -> CodedSeverity:
    """A code with its level.

    Raises:
        KeyError: naming `scheme` or `code`, whichever is not listed; never the value.
    """
    levels = SCHEMES.get(scheme)
    if levels is None:
        raise KeyError("scheme")
    level = levels.get(code)
    if level is None:
        raise KeyError("code")
    return CodedSeverity(scheme, code, level)

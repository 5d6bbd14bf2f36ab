"""The name one is called by."""

from typing import Final

TITLES: Final = frozenset(
    {"dr", "prof", "mr", "mrs", "ms", "miss", "mx", "sir", "dame", "med", "sr", "rn", "md", "phd"}
)


def first_name(display_name: str) -> str:
    """The name one is called by: no titles, and the part behind the comma where the family name comes first."""
    family, comma, given = display_name.partition(",")
    words = (given if comma and given.strip() else family).split()
    named = [word for word in words if word.rstrip(".").lower() not in TITLES]
    return (named or words or [""])[0]

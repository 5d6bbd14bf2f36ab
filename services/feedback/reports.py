"""What may be said about ratings: fixed items, fixed tags, and figures from which no single answer can be worked out.

None of this is configurable (DESIGN §7). A release is made once, of whole epochs, from at least ten ratings that were
in no release before, for the whole organisation alone; it is frozen, and the ratings behind it are dropped.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

ITEMS: Final = ("easy", "soon", "heard", "helped", "again")
TAGS: Final = ("practical", "listening", "next_steps", "too_short", "too_late", "wrong_time", "worried")
GROUPS: Final = ("agree", "neither", "disagree", "no_answer")
GROUP_OF: Final[Mapping[int, str]] = MappingProxyType(
    {0: "no_answer", 1: "disagree", 2: "disagree", 3: "neither", 4: "agree", 5: "agree"}
)
LEAST: Final = 10  # ratings behind a release, all of them new
LEAST_GROUP: Final = 3  # people behind a figure, and behind what its withheld neighbours add up to
CAP: Final = 90  # per cent from which a share is only said to be at least that
CAPPED: Final = "≥ 90 %"
PAYLOAD: Final = 256  # bytes of every rating before it is sealed, whatever was answered


class UnreadableRating(Exception):
    """What was sealed is no rating."""


@dataclass(frozen=True)
class Rating:
    """Answers to ITEMS (1 disagree … 5 agree, 0 no answer) and the tags chosen; nothing else is asked."""

    answers: tuple[int, ...]
    tags: tuple[str, ...] = ()


Shares = dict[str, str | None]


def parse(payload: bytes) -> Rating:
    """A rating from the text that was sealed: JSON `{"items": {item: 0…5}, "tags": [tag]}` padded to 256 bytes.

    Raises:
        Unreadable: for anything else, an unknown item or tag included.
    """
    try:
        found = json.loads(payload)
        items, tags = found["items"], found["tags"]
        rating = Rating(tuple(items[item] for item in ITEMS), tuple(tag for tag in TAGS if tag in tags))
        whole = len(payload) == PAYLOAD and set(found) == {"items", "tags"} and set(items) == set(ITEMS)
        known = len(rating.tags) == len(tags) and all(type(answer) is int for answer in rating.answers)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UnreadableRating from None
    if not whole or not known or not set(rating.answers) <= set(GROUP_OF):
        raise UnreadableRating
    return rating


def payload(rating: Rating) -> bytes:
    """The text that is sealed; the same bytes as `token.js` makes."""
    items = dict(zip(ITEMS, rating.answers, strict=True))
    text = json.dumps({"items": items, "tags": list(rating.tags)}, separators=(",", ":"))
    return text.ljust(PAYLOAD).encode()


def figures(ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """One release's figures, or None while there are fewer than ten ratings.

    Returns `{"n": int, "items": {item: {group: "60 %" | "≥ 90 %" | None}}, "tags": {tag: the same or None}}`; None
    where a figure is withheld.
    """
    if len(ratings) < LEAST:
        return None
    items = {}
    for place, item in enumerate(ITEMS):
        counts = Counter(GROUP_OF[rating.answers[place]] for rating in ratings)
        items[item] = shares({group: counts[group] for group in GROUPS})
    tags = {}
    for tag in TAGS:
        chosen = sum(tag in rating.tags for rating in ratings)
        tags[tag] = shares({"chosen": chosen, "not_chosen": len(ratings) - chosen})["chosen"]
    return {"n": len(ratings), "items": items, "tags": tags}


def shares(counts: Mapping[str, int]) -> Shares:
    """Shares of groups that together are everybody, small ones withheld so that subtraction does not bring them back.

    A share of 90 % or more is said as `≥ 90 %` and all beside it withheld: unanimity would tell each one's answer.
    """
    total = sum(counts.values())
    capped = [group for group, count in counts.items() if count * 100 >= CAP * total]
    if capped:
        return {group: CAPPED if group in capped else None for group in counts}
    shown = _safe(counts)
    return {group: f"{count * 100 // total} %" if group in shown else None for group, count in counts.items()}


def _safe(counts: Mapping[str, int]) -> set[str]:
    """Groups that may be shown: what is withheld beside them is nothing, or two groups of three people at least."""
    falling = sorted(counts, key=lambda group: (-counts[group], GROUPS.index(group) if group in GROUPS else 0))
    shown = [group for group in falling if counts[group] >= LEAST_GROUP]
    while shown and len(shown) < len(counts):
        withheld = [group for group in counts if group not in shown]
        if len(withheld) > 1 and sum(counts[group] for group in withheld) >= LEAST_GROUP:
            break
        shown.pop()
    return set(shown)

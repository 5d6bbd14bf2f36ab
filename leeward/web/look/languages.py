"""What Babel knows of a language: which one suits a reader, its direction, plural forms and dates.

Babel is imported with the first page: a command that shows none does not wait for it.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babel import Locale


@cache
def language(locale: str) -> "Locale":
    """Babel's data for a BCP 47 tag. Raises LookupError for a language that CLDR does not have."""
    from babel import Locale, UnknownLocaleError

    try:
        return Locale.parse(locale, sep="-")
    except (UnknownLocaleError, ValueError):
        raise LookupError(locale) from None


def preferred(accepted: str, offered: Sequence[str]) -> str:
    """The language of ``offered`` that an Accept-Language header likes best (RFC 9110, 12.5.4), else the first."""
    ranges = [wanted for wanted in accepted.replace(" ", "").split(",") if _weight(wanted) > 0]
    ranges.sort(key=_weight, reverse=True)
    return negotiated([wanted.split(";")[0] for wanted in ranges], offered)


def _weight(wanted: str) -> float:
    _, _, weight = wanted.partition(";q=")
    try:
        return float(weight) if weight else 1.0
    except ValueError:
        return 0.0


def negotiated(wanted: Iterable[str], offered: Sequence[str]) -> str:
    """The language of ``offered`` that suits the first of ``wanted`` (BCP 47) that any suits, else the first."""
    from babel import negotiate_locale

    by_tag = {locale.lower(): locale for locale in offered}
    found = negotiate_locale([tag.lower() for tag in wanted], by_tag, sep="-")
    return by_tag[found.lower()] if found else offered[0]


@cache
def direction(locale: str) -> str:
    """``ltr`` or ``rtl``, for the attribute of that name."""
    return language(locale).text_direction


def plural_forms(locale: str) -> frozenset[str]:
    """The forms that a text with a number has (CLDR), such as ``one`` and ``other`` in English."""
    return frozenset({*language(locale).plural_form.tags, "other"})


def plural_form(locale: str, number: float) -> str:
    """Which of the language's forms goes with a number."""
    return language(locale).plural_form(number)


def dated(value: date, pattern: str, locale: str) -> str:
    """A day or a moment (UTC) by a CLDR pattern, such as ``d MMMM yyyy``."""
    from babel.dates import format_date, format_datetime

    show = format_datetime if isinstance(value, datetime) else format_date
    return show(value, pattern, locale=language(locale))


def month_name(month: int, locale: str) -> str:
    """The name of a month (1 to 12) as it stands by itself."""
    return str(language(locale).months["stand-alone"]["wide"][month])


def day_name(weekday: int, locale: str) -> str:
    """The short name of a day of the week (0 is Monday)."""
    return str(language(locale).days["stand-alone"]["short"][weekday])


def first_weekday(locale: str) -> int:
    """The day on which a week begins where the language is spoken (0 is Monday)."""
    return language(locale).first_week_day

"""What a word, a time and a number are: one answer for the clicks topic (json.py) and for logs (export/log/columns.py).

A value as JSON or a file gives it becomes what Eddy works with, None where nothing is given, or raises Unusable. An id
is a word that is required. Required fields are strict: without one there is no click. An optional field that is not
usable is left out of the click and counted. docs/events.md has the rules as a table.
"""

import math
import re
from datetime import date

LONGEST_ID = 256
"""Characters of an id, a session id or a category."""

LONGEST_WORD = 64
"""Characters of an event type."""

DEFAULT_EVENT = "view"

EXACT_BELOW = 2.0**53
"""From here on a float64 no longer holds every integer: ids written as such have lost their last digits."""

DAY_MS = 86_400_000
UNIX_EPOCH = date(1970, 1, 1).toordinal()

SECONDS_BELOW = 100_000_000_000
"""A number below it is in seconds: as ms it would lie before March 1973, as seconds after the year 5138."""

UNITS = (("s", SECONDS_BELOW), ("ms", SECONDS_BELOW * 1_000), ("µs", SECONDS_BELOW * 1_000_000))
"""A unit's name and the number below which it is meant; larger numbers are ns."""

NS_PER_MS = 1_000_000
TEXT = "text or dates"
CALENDAR = "YYYYMMDD digits"

DATES = (
    (19_700_101, 21_001_231),
    (1970_01_01_00_00, 2100_12_31_23_59),
    (1970_01_01_00_00_00, 2100_12_31_23_59_59),
)
"""Numbers that may be dates, first and last: YYYYMMDD, then with HHMM, then with SS.

As numbers since the epoch they would lie in August 1970, in 1976 and beyond the year 2590.
"""

FIRST_CLICK_MS = 662_688_000_000
"""1991, when the web began: an earlier time counts from something else than the epoch, such as the days of a
spreadsheet, the start of a session or the ticks of .NET and Windows. A live click is refused, a log's is reported."""

BOUND_MS = 10**15
"""Times are cut to this and its negative (the year 33,658): arithmetic on later ones could overflow."""

DIGITS = "0123456789"
"""What text ends with that may be a float."""

WHOLE_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
BIG_FLOAT = re.compile(r"-?[0-9]\.[0-9]+[eE]\+?[0-9]+")
INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
MOMENT = re.compile(
    r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})"
    r"(?:(?:T| +)([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
    r"(?: ?(?:Z|UTC|GMT|([+-])([0-9]{2})(?::?([0-9]{2}))?))?(?:\[[\w/+-]+\])?)?",
    re.IGNORECASE,
)


class Unusable(ValueError):
    """A value that a field cannot take; its text says why, in words that are the same for all such values."""


NO_WORD = "neither text nor a whole number"
LOST_DIGITS = "a float so large that it has lost its last digits: write it as an integer or as text"
NO_TIME = "no time that can be read"
NO_NUMBER = "no number from 0 up"


def too_long(longest: int) -> str:
    return f"longer than {longest} characters"


def word(value: object, longest: int, exact_below: float = EXACT_BELOW) -> str | None:
    """The text that an id, an event type, a session or a category is.

    Text is taken as it is, with its blanks and leading zeros. A whole number is its digits, also where it was written
    as a float: 17.0 and "17.0" are 17, which is how pandas writes a column of integers in which one is missing. Empty
    text and NaN are none.
    exact_below  floats from here on have lost digits (2^24 for float32)
    Raises Unusable.
    """
    kind = type(value)
    if kind is str:
        assert isinstance(value, str)
        text = _without_float(value) if "." in value and value[-1] in DIGITS else value
    elif kind is int:
        assert isinstance(value, int)
        if value.bit_length() > 4 * longest:  # also where Python refuses to write the digits
            raise Unusable(too_long(longest))
        text = str(value)
    elif kind is float:
        assert isinstance(value, float)
        text = _digits(value, exact_below)
    elif value is None:
        return None
    else:
        raise Unusable(NO_WORD)
    if len(text) > longest:
        raise Unusable(too_long(longest))
    return text or None


def time_ms(value: object) -> tuple[int, str] | None:
    """A moment in ms since the epoch, UTC, and what its unit was.

    A number's size tells its unit (UNITS), and DATES are recognised; text is such a number or ISO 8601, in UTC unless
    it has an offset. Whether the moment is believable is for the caller to judge.
    Raises Unusable.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if INTEGER.fullmatch(text):
            return _of_integer(int(text))
        if NUMBER.fullmatch(text):
            return _of_float(float(text))
        return _of_text(text), TEXT
    kind = type(value)
    if kind is int:
        assert isinstance(value, int)
        return _of_integer(value)
    if kind is float:
        assert isinstance(value, float)
        return None if math.isnan(value) else _of_float(value)
    if value is None:
        return None
    raise Unusable(NO_TIME)


def number(value: object) -> float | None:
    """A price or a quantity: finite and not negative; "49.99" is a number, "49,99" and "49.99 EUR" are none.

    Raises Unusable.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not NUMBER.fullmatch(text):
            raise Unusable(NO_NUMBER)
        value = float(text)
    elif value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable(NO_NUMBER)
    try:
        read = float(value)
    except OverflowError:
        raise Unusable(NO_NUMBER) from None
    if math.isnan(read):
        return None
    if not 0 <= read < math.inf:
        raise Unusable(NO_NUMBER)
    return read + 0.0  # -0.0 is 0.0


def _without_float(text: str) -> str:
    if WHOLE_FLOAT.fullmatch(text):
        return _digits(float(text), EXACT_BELOW)
    if BIG_FLOAT.fullmatch(text) and abs(float(text)) >= EXACT_BELOW:
        raise Unusable(LOST_DIGITS)
    return text


def _digits(value: float, exact_below: float) -> str:
    if math.isnan(value):
        return ""
    if abs(value) >= exact_below:
        raise Unusable(LOST_DIGITS)
    if not value.is_integer():
        raise Unusable(NO_WORD)
    return str(int(value))


def _of_integer(value: int) -> tuple[int, str]:
    if any(first <= value <= last for first, last in DATES) and (ms := _of_digits(str(value))) is not None:
        return ms, CALENDAR
    size = abs(value)
    if size < UNITS[0][1]:
        return value * 1_000, "s"
    if size < UNITS[1][1]:
        return value, "ms"
    if size < UNITS[2][1]:
        return value // 1_000, "µs"
    return min(max(value // NS_PER_MS, -BOUND_MS), BOUND_MS), "ns"


def _of_float(value: float) -> tuple[int, str]:
    if math.isinf(value):
        raise Unusable(NO_TIME)
    if abs(value) < SECONDS_BELOW and not value.is_integer():
        return math.floor(value * 1_000 + 0.5), "s"
    return _of_integer(math.floor(value))


def _of_digits(digits: str) -> int | None:
    """YYYYMMDD, also with HHMM or HHMMSS; None if there is no such day."""
    hour, minute, second = (int(digits[at : at + 2] or 0) for at in (8, 10, 12))
    return _ms(int(digits[:4]), int(digits[4:6]), int(digits[6:8]), hour, minute, second)


def _of_text(text: str) -> int:
    found = MOMENT.fullmatch(text)
    if found is None:
        raise Unusable(NO_TIME)
    year, month, day, hour, minute, second, fraction, sign, hours, minutes = found.groups()
    ms = _ms(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
    if ms is None:
        raise Unusable(NO_TIME)
    if fraction:
        ms += int(f"{fraction}00"[:3])
    if sign:
        offset = (int(hours) * 60 + int(minutes or 0)) * 60_000
        ms += offset if sign == "-" else -offset
    return ms


def _ms(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int | None:
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        return None
    try:
        days = date(year, month, day).toordinal() - UNIX_EPOCH
    except ValueError:
        return None
    return days * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1_000

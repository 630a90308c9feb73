"""Defines how field values are read: words, times and numbers.

The same rules are used for the clicks topic (json.py) and for logs (export/log/columns.py). Each function converts a
value from JSON or from a file. It returns None if the value is missing or empty. It raises Unusable if the value is not
valid. The caller handles an invalid value as follows:

- A required field (user, item, time) without a valid value makes the whole message invalid.
- An optional field without a valid value is omitted from the click and counted.

docs/events.md has all rules as a table.
"""

import math
import re
from datetime import UTC, date, datetime, timedelta

LONGEST_ID = 256
"""Largest number of characters in an id, a session id or a category."""

LONGEST_WORD = 64
"""Largest number of characters in an event type."""

DEFAULT_EVENT = "view"

EXACT_BELOW = 2.0**53
"""A float64 of this size or larger cannot represent every integer, so an id that was stored as one may be wrong."""

DAY_MS = 86_400_000
UNIX_EPOCH = date(1970, 1, 1).toordinal()
EPOCH, ONE_MS = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)

SECONDS_BELOW = 100_000_000_000
"""A time below this number is in seconds. As ms, this number is in March 1973. As seconds, it is in the year 5138."""

UNITS = (("s", SECONDS_BELOW), ("ms", SECONDS_BELOW * 1_000), ("µs", SECONDS_BELOW * 1_000_000))
"""Name and upper limit of each unit. A number is in the first unit with a limit above the number, else in ns."""

NS_PER_MS = 1_000_000
TEXT = "text or dates"
CALENDAR = "YYYYMMDD digits"

DATES = (
    (19_700_101, 21_001_231),
    (1970_01_01_00_00, 2100_12_31_23_59),
    (1970_01_01_00_00_00, 2100_12_31_23_59_59),
)
"""Ranges (first, last) of numbers that are read as dates: YYYYMMDD, YYYYMMDDHHMM and YYYYMMDDHHMMSS.

As times since the epoch, these numbers would be in August 1970, in 1976 and after the year 2590.
"""

FIRST_CLICK_MS = 662_688_000_000
"""1991, the beginning of the web. An earlier time is probably not relative to the epoch: it may be a spreadsheet's day
number, the time since a session's start, or ticks of .NET or Windows. The worker refuses such a click; a log reader
reports it."""

BOUND_MS = 10**15
"""Times in ns are limited to plus or minus this value (the year 33,658), so that later arithmetic cannot overflow."""

DIGITS = "0123456789"
"""Text that may be a float ends with one of these characters, and has a point or a plus."""

WHOLE_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)\.0+")
SCIENTIFIC = re.compile(r"-?[0-9](?:\.([0-9]+)[eE]\+?|[eE]\+)([0-9]+)")
"""Without decimals only with a plus, as programs write it: 1E+12. 1E12 may be the code of a product."""

INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
FEW_DIGITS = re.compile(r"[+-]?(?:\.?[0-9]\.?){1,7}[eE].*")
"""A time in scientific notation with fewer than 8 digits is rounded to a quarter of an hour or more: a spreadsheet
shows ms as 1.73301E+12. A float of ns or ms has more digits, unless its time is that round by chance."""

USUAL_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{3})?Z")
"""What most programs write. Python's parser reads it in a quarter of the time (0.8 and 3.2 µs), and equally."""

MOMENT = re.compile(
    r"([0-9]{4})[-/]([0-9]{1,2})[-/]([0-9]{1,2})"
    r"(?:(?:T| +)([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]+))?)?"
    r"(?: ?(?:Z|UTC|GMT|([+-])([0-9]{2})(?::?([0-9]{2}))?)(?:\[[\w/+-]+\])?)?)?",
    re.IGNORECASE,
)


class Unusable(ValueError):
    """A value is not valid for its field. The message is the reason, the same text for all values with this reason."""


NO_WORD = "neither text nor a whole number"
LOST_DIGITS = "a float that is too large to be exact: write it as an integer or as text"
ROUNDED = "rounded in scientific notation: write it as an integer or as text"
NO_TIME = "no time in a known format (2024-12-01T15:30:00Z, ms since 1970)"
NO_NUMBER = "not a number >= 0"
NO_TRUTH = "neither true nor false"

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""The texts that are true or false, in any case."""


def too_long(longest: int) -> str:
    return f"longer than {longest} characters"


def word(value: object, longest: int, exact_below: float = EXACT_BELOW) -> str | None:
    """Read an id, an event type, a session or a category as text.

    - Text is not changed: blanks and leading zeros remain.
    - A whole number becomes its digits. A whole float does too: 17.0 and "17.0" become "17". pandas writes a column of
      integers in this way if one value is missing.
    - None, empty text and NaN give None.

    longest      largest number of characters
    exact_below  floats of this size or larger are not exact integers (2^24 for float32)
    Raises Unusable if the value is too long, is not exact, or is neither text nor a whole number.
    """
    kind = type(value)
    if kind is str:
        assert isinstance(value, str)
        text = _without_float(value) if ("." in value or "+" in value) and value[-1] in DIGITS else value
    elif kind is int:
        assert isinstance(value, int)
        if value.bit_length() > 4 * longest:  # checked first, because str() of a huge integer raises ValueError
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
    """Read a time. Return it in ms since the epoch, UTC, and the name of its unit.

    - For a number, the size determines the unit (UNITS). Numbers within DATES are dates.
    - Text is such a number, or ISO 8601. ISO 8601 without an offset is UTC.
    - None, empty text and NaN give None.

    The caller must check that the time is plausible.
    Raises Unusable if the value is not a time.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if text[-1] == "Z":  # no number ends so, and most times in text do
            return _of_text(text), TEXT
        if INTEGER.fullmatch(text):
            return _of_integer(int(text))
        if NUMBER.fullmatch(text):
            if FEW_DIGITS.fullmatch(text):
                raise Unusable(ROUNDED)
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
    """Read a price or a quantity, a finite number >= 0. None, empty text and NaN give None.

    Text must be a number in digits: "49.99" is valid, "49,99" and "49.99 EUR" are not.
    Raises Unusable if the value is not such a number.
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
    return read + 0.0  # + 0.0 converts -0.0 to 0.0


def truth(value: object) -> bool | None:
    """Read whether something is so: true or false, 1 or 0, or one of the texts TRUTHS. None and empty text give None.

    Raises Unusable for any other value.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        text = value.strip().lower()
        if not text:
            return None
        if text in TRUTHS:
            return TRUTHS[text]
    raise Unusable(NO_TRUTH)


def _without_float(text: str) -> str:
    if WHOLE_FLOAT.fullmatch(text):
        return _digits(float(text), EXACT_BELOW)
    found = SCIENTIFIC.fullmatch(text)
    if found is None:
        return text
    value, decimals, exponent = float(text), len(found[1] or ""), int(found[2])
    if abs(value) >= EXACT_BELOW:
        raise Unusable(LOST_DIGITS)
    if decimals < exponent:  # a spreadsheet writes all of 1234567000000 to 1234567999999 as 1.23457E+12
        raise Unusable(ROUNDED)
    return str(int(value)) if value.is_integer() else text


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
    """Convert YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS to ms since the epoch. None if the date does not exist."""
    hour, minute, second = (int(digits[at : at + 2] or 0) for at in (8, 10, 12))
    return _ms(int(digits[:4]), int(digits[4:6]), int(digits[6:8]), hour, minute, second)


def _of_text(text: str) -> int:
    if USUAL_MOMENT.fullmatch(text):
        try:
            return (datetime.fromisoformat(text) - EPOCH) // ONE_MS
        except ValueError:  # no such day
            raise Unusable(NO_TIME) from None
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
        if int(hours) > 14 or int(minutes or 0) > 59:  # no zone is farther from UTC
            raise Unusable(NO_TIME)
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

"""How ids, times, words and numbers are read: the rules of docs/events.md, value by value."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.mapping.reading import texts_of_id
from stream.wire.fields import LONGEST_ID, Unusable, number, time_ms, word

MS = 1_700_000_000_123
"""2023-11-14 22:13:20.123 UTC"""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("shoe", "shoe"),
        ("007", "007"),
        (" padded ", " padded "),
        ("", None),
        (None, None),
        (7, "7"),
        (-1, "-1"),
        (2**64, "18446744073709551616"),
        (17.0, "17"),
        (-0.0, "0"),
        (2.0**53 - 1, "9007199254740991"),
        (float("nan"), None),
        ("17.0", "17"),
        ("17.000", "17"),
        ("1.700000000000000000e+01", "17"),  # numpy.savetxt
        ("1.234567e+06", "1234567"),
        ("1.25e+00", "1.25e+00"),
        ("007.0", "007.0"),
        ("1.5", "1.5"),
        ("1.0.0", "1.0.0"),
        (".0", ".0"),
        ("1e10", "1e10"),
        ("1E5", "1E5"),  # a code of a product
        ("E+5", "E+5"),
        ("12E+5", "12E+5"),
        ("7e+00", "7"),
        ("+49", "+49"),
        ("\u0661\u0667.\u0660", "\u0661\u0667.\u0660"),
        ("x" * LONGEST_ID, "x" * LONGEST_ID),
    ],
)
def test_a_word_is_read(value: object, text: str | None) -> None:
    """Text stays unchanged, numbers become their digits, and an empty value becomes None."""
    assert word(value, LONGEST_ID) == text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (True, "neither text nor"),
        ([1], "neither text nor"),
        ({"id": 1}, "neither text nor"),
        (1.5, "neither text nor"),
        (2.0**53, "too large to be exact"),
        (float("inf"), "too large to be exact"),
        ("1.2345678901234568e+18", "too large to be exact"),
        ("1.23457E+12", "rounded in scientific notation"),
        ("1.00000e+15", "rounded in scientific notation"),
        ("1E+12", "rounded in scientific notation"),  # a spreadsheet shows 1000000000017 so
        ("-2e+15", "rounded in scientific notation"),
        ("1e+18", "too large to be exact"),  # str() of a float in Python
        ("1.23456789012345677E18", "too large to be exact"),
        ("1234567890123456789.0", "too large to be exact"),
        ("x" * (LONGEST_ID + 1), "longer than 256"),
        (10**LONGEST_ID, "longer than 256"),
    ],
)
def test_a_value_that_is_no_word_has_a_reason(value: object, why: str) -> None:
    """Ids that are not exact and values of a wrong kind are refused with the reason."""
    with pytest.raises(Unusable, match=why):
        word(value, LONGEST_ID)


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1_700_000_000, 1_700_000_000_000),
        (1_700_000_000.123, MS),
        (MS, MS),
        (float(MS), MS),
        (MS * 1_000 + 999, MS),
        (MS * 1_000_000 + 999_999, MS),
        ("1700000000", 1_700_000_000_000),
        (" 1700000000.123 ", MS),
        ("1.700000000e9", 1_700_000_000_000),
        (str(MS), MS),
        ("2023-11-14T22:13:20.123Z", MS),
        ("2023-11-14t22:13:20.123456789z", MS),
        ("2023-11-14 22:13:20.123 UTC", MS),
        ("2023-11-14T22:13:20,123", MS),
        ("2023-11-15T00:13:20.123+02:00", MS),
        ("2023-11-14 17:13:20.123 -0500", MS),
        ("2023-11-15T00:13:20.123+02", MS),
        ("2023-11-15T00:13:20.123+01:00[Europe/Paris]", MS + 3_600_000),
        ("2023-11-14T22:13:20.123Z[UTC]", MS),
        ("2023/11/14 22:13:20.123", MS),
        ("2023-11-14 22:13", 1_699_999_980_000),
        ("2023-11-14", 1_699_920_000_000),
        (20231114, 1_699_920_000_000),
        (20231114.0, 1_699_920_000_000),
        ("20231114", 1_699_920_000_000),
        (202311142213, 1_699_999_980_000),
        (20231114221320, 1_700_000_000_000),
        (20231314, 20_231_314_000),  # no such month: seconds
        (0, 0),
        (-5, -5_000),
        (45627.5, 45_627_500),
    ],
)
def test_a_time_is_read(value: object, ms: int) -> None:
    """The size determines the unit, digits of a date are that date, and text is a number or ISO 8601."""
    read = time_ms(value)
    assert read is not None
    assert read[0] == ms


@pytest.mark.parametrize(
    "value",
    [
        *("soon", "14.11.2023", "11/14/2023", "2023-13-01", "2023-02-30", "2023-11-14 25:00", "NaN", "1_700_000_000"),
        *("2023-11-14T22:13:20+99:00", "2023-11-14T22:13:20+01:75"),
        *("2023-11-14T22:13:20[Europe/Paris]", "2023-11-14T22:13:20 Europe/Paris"),  # not UTC, and how far from it?
        True,
        [MS],
        {"at": MS},
        float("inf"),
        "\u0661\u0667\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660",
    ],
)
def test_a_value_that_is_no_time_is_refused(value: object) -> None:
    """An unknown order of day and month is refused, and so are digits that are not ASCII."""
    with pytest.raises(Unusable, match="no time in a known format"):
        time_ms(value)


@pytest.mark.parametrize("value", ["1.73301E+12", "1.7e9", "2e9"])
def test_a_time_that_a_spreadsheet_has_rounded_is_refused(value: str) -> None:
    """1.73301E+12 stands for each ms of three hours, so the order of clicks is lost."""
    with pytest.raises(Unusable, match="rounded in scientific notation"):
        time_ms(value)


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["T", " "]),
)
def test_iso_times_are_what_python_reads(moment: datetime, offset_minutes: int, separator: str) -> None:
    """For any time in any zone, the result equals Python's."""
    moment = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=offset_minutes)))
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert time_ms(moment.isoformat(separator)) == (exact, "text or dates")


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        *((9, 9.0), (9.5, 9.5), (0, 0.0), (None, None), (float("nan"), None)),
        *(("49.99", 49.99), ("1e3", 1000.0), (" 5", 5.0), ("", None), ("+.5", 0.5), ("5.", 5.0)),
    ],
)
def test_a_number_is_read(value: object, amount: float | None) -> None:
    """A number may be text; an empty value becomes None."""
    assert number(value) == amount


@pytest.mark.parametrize(
    "value",
    [
        *("49,99", "1.299,00", "$5", "cheap", "NaN", "inf", "1_000", "-1", "1e999", "\u0665"),
        *(-0.5, 10**400, True, [5], Decimal(5), float("inf")),
    ],
)
def test_a_value_that_is_no_number_is_refused(value: object) -> None:
    """A decimal comma is ambiguous, and a price cannot be negative."""
    with pytest.raises(Unusable, match="not a number >= 0"):
        number(value)


def test_the_texts_of_an_id_are_its_forms() -> None:
    """As it is, and as it is read; one that cannot be read is as it is, and no value has none."""
    given = [17.0, "17.0", 17, "u", [1], True, None, ""]
    assert [texts_of_id(value) for value in given] == [
        ["17.0", "17"], ["17.0", "17"], ["17"], ["u"], ["[1]"], ["True"], [], [],
    ]  # fmt: skip


def test_an_integer_of_thousands_of_digits_is_too_long() -> None:
    """Python cannot convert it to text; the result must be Unusable, not a different error."""
    with pytest.raises(Unusable, match="longer than 256"):
        word(10**5_000, LONGEST_ID)


@given(st.text(max_size=8) | st.integers() | st.floats() | st.from_regex(r"-?[0-9]+\.0+", fullmatch=True))
def test_a_word_read_again_is_itself(value: object) -> None:
    """A value does not change if it is read twice: `eddy replay` publishes the same ids that `eddy train` read."""
    try:
        once = word(value, LONGEST_ID)
    except Unusable:
        return
    assert word(once, LONGEST_ID) == once


@given(
    text=st.from_regex(
        r"[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{3})?", fullmatch=True
    )
)
def test_the_most_usual_form_of_a_time_is_read_like_the_others(text: str) -> None:
    """With Z, Python's parser may read it; with an offset, the rules do. Also days and times that do not exist."""
    found = []
    for zone in ("Z", "+00:00"):
        try:
            found.append(time_ms(text + zone))
        except Unusable as exc:
            found.append(str(exc))
    assert found[0] == found[1]

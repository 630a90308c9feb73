"""What a log calls time -> ms since the epoch, UTC.

A number's size tells its unit: seconds, milliseconds, microseconds and nanoseconds of the years 1973 to 5138 do not
overlap. The rule is per value, so a log that mixes units is read right, and its units are told.
Dates and ISO strings are UTC unless they say otherwise.
"""

import re
from datetime import UTC, datetime

import polars as pl

from stream.errors import ConfigError
from stream.wire.fields import SECONDS_BELOW

LATEST_MS = 4_102_444_800_000
"""The year 2100: a later time is a mistake."""

UNITS = (("s", SECONDS_BELOW, 1e3), ("ms", SECONDS_BELOW * 1e3, 1.0), ("µs", SECONDS_BELOW * 1e6, 1e-3))
"""A unit's name, the number below which it is meant, and the ms that it has; numbers beyond the last are ns."""

NANOSECOND = ("ns", 1e-6)
TEXT = "text or dates"
FORMATS = ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")


def milliseconds(times: pl.Series) -> pl.DataFrame:
    """n times as a log has them -> `time_ms` (n,) Int64, null where it is no time, and `unit` (n,) String."""
    frame = pl.DataFrame({"time": times})
    if isinstance(times.dtype, pl.Datetime | pl.Date):
        as_ms = pl.col("time").cast(pl.Datetime("ms")).cast(pl.Int64)
        return frame.select(time_ms=as_ms, unit=pl.lit(TEXT))
    number = pl.col("time").cast(pl.Float64, strict=False)
    frame = frame.with_columns(number=pl.when(number.is_finite()).then(number))
    size, scale, unit = pl.col("number").abs(), pl.lit(NANOSECOND[1]), pl.lit(NANOSECOND[0])
    for name, below, ms in reversed(UNITS):
        scale = pl.when(size < below).then(pl.lit(ms)).otherwise(scale)
        unit = pl.when(size < below).then(pl.lit(name)).otherwise(unit)
    time_ms = (pl.col("number") * scale).round().cast(pl.Int64, strict=False)
    frame = frame.with_columns(time_ms=time_ms, unit=unit)
    if times.dtype == pl.String and frame["number"].null_count():
        known = pl.col("number").is_not_null()
        frame = frame.with_columns(
            time_ms=pl.when(known).then("time_ms").otherwise(_from_text(pl.col("time"))),
            unit=pl.when(known).then("unit").otherwise(pl.lit(TEXT)),
        )
    return frame.select("time_ms", "unit")


def _from_text(text: pl.Expr) -> pl.Expr:
    plain = text.str.strip_chars().str.replace(r"^(\d{4})[-/](\d\d?)[-/](\d\d?)T?", "$1-$2-$3 ").str.replace("  ", " ")
    zoned = plain.str.replace("( UTC|Z)$", "+0000").str.replace(r"([+-]\d\d):(\d\d)$", "$1$2")
    moments = [
        (zoned if "%z" in form else plain)
        .str.to_datetime(form, strict=False, time_unit="ms", time_zone="UTC" if "%z" in form else None)
        .dt.replace_time_zone(None)
        for form in FORMATS
    ]
    day = plain.str.to_date("%Y-%m-%d ", strict=False).cast(pl.Datetime("ms"))
    return pl.coalesce(*moments, day).cast(pl.Int64)


def parse_time(text: str) -> int:
    """A moment on the command line, ISO or a number since the epoch -> ms. Raises ConfigError."""
    try:
        number = float(text)
        size = abs(number)
        scale = next((ms for _, below, ms in UNITS if size < below), NANOSECOND[1])
        return round(number * scale)
    except (ValueError, OverflowError):  # not a number, or inf
        pass
    try:
        moment = datetime.fromisoformat(re.sub(" UTC$", "+00:00", text).replace("/", "-"))
    except ValueError as exc:
        raise ConfigError(f"time {text!r} is neither ISO (2017-10-03T03:00:00) nor a number of s or ms") from exc
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def iso(ms: int | None) -> str:
    """A moment for people, UTC to the second."""
    return "the beginning or end" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")

"""Converts a column of a file to words, numbers or times, by the rules of the clicks topic (stream/wire/fields.py).

The rules are applied once to each different value of a column. Usual times are an exception: they rarely repeat, so
they are computed for the whole column at once. A property test checks that both give the same result.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from export.arrays import I32
from stream.wire.fields import DATES, EXACT_BELOW, NS_PER_MS, TEXT, UNITS, Unusable, number, time_ms, word

EXACT_BELOW_FLOAT32 = 2.0**24

USUAL_ISO = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,9})?(Z| UTC)?$"

Value = Callable[[Any], Any]
"""A cell of a file -> its value (LogFile.value)."""


class Read(NamedTuple):
    """The result of reading a column of n cells.

    values  (n,) null if the cell is empty or not usable
    why     (n,) String, why the cell is not usable; null if it is usable or empty
    """

    values: pl.Series
    why: pl.Series


def words(column: pl.Series, longest: int, value: Value) -> Read:
    """Read ids, event types, sessions or categories: String values of at most `longest` characters."""
    column = _simple(column)
    exact_below = EXACT_BELOW_FLOAT32 if column.dtype == pl.Float32 else EXACT_BELOW
    if column.dtype.is_decimal():
        column = column.cast(pl.String).str.replace(r"\.0+$", "")
    return _distinct(column, lambda cell: word(value(cell), longest, exact_below), pl.String())


def numbers(column: pl.Series, value: Value) -> Read:
    """Read prices: Float64 values."""
    column = _simple(column)
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)
    return _distinct(column, lambda cell: number(value(cell)), pl.Float64())


def times(column: pl.Series, value: Value) -> tuple[Read, pl.Series]:
    """Read times: Int64 values in ms since the epoch, UTC; and (n,) String, the unit of each cell."""
    if isinstance(column.dtype, pl.Datetime | pl.Date):
        ms = column.cast(pl.Datetime("ms")).cast(pl.Int64)
        return Read(ms, nulls(len(ms))), nulls(len(ms)).fill_null(TEXT)
    column = _simple(column)
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)
    plain = _plain_times(column)
    rest = pl.select(pl.when(plain["ms"].is_null()).then(column)).to_series()
    units: dict[Any, str] = {}

    def read(cell: Any) -> int | None:
        found = time_ms(value(cell))
        if found is None:
            return None
        units[cell] = found[1]
        return found[0]

    others = _distinct(rest, read, pl.Int64())
    found = pl.Series(list(units), dtype=rest.dtype), pl.Series(list(units.values()), dtype=pl.String)
    unit = rest.replace_strict(*found, default=None, return_dtype=pl.String) if units else nulls(len(rest))
    return Read(plain["ms"].fill_null(others.values), others.why), plain["unit"].fill_null(unit)


def _plain_times(column: pl.Series) -> pl.DataFrame:
    """The columns `ms` and `unit` of the usual times; null for all other cells.

    Usual times are numbers that do not look like a date (20241201), and ISO 8601 in UTC with seconds. A log of a
    million ISO times is read in 2 s this way, and in 7 s cell by cell.
    """
    cell = pl.col("cell")
    integer: pl.Expr = pl.lit(None, pl.Int64)
    seconds: pl.Expr = pl.lit(None, pl.Float64)
    moment: pl.Expr = pl.lit(None, pl.Int64)
    if column.dtype == pl.String:
        integer = pl.when(cell.str.contains("^[0-9]{1,18}$")).then(cell.cast(pl.Int64, strict=False))
        whole = cell.str.slice(0, 10) + " " + cell.str.slice(11, 8)
        whole = whole.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms", strict=False).cast(pl.Int64)
        fraction = (cell.str.extract(r"\.([0-9]{1,3})").fill_null("") + "000").str.slice(0, 3).cast(pl.Int64)
        moment = pl.when(cell.str.contains(USUAL_ISO)).then(whole + fraction)
    elif column.dtype.is_integer():
        integer = cell.cast(pl.Int64, strict=False)
    elif column.dtype.is_float():
        number = cell.cast(pl.Float64)
        is_whole = number == number.floor()
        integer = pl.when(is_whole).then(number.cast(pl.Int64, strict=False))
        seconds = pl.when(~is_whole & (number.abs() < UNITS[0][1])).then(number)
    frame = pl.DataFrame({"cell": column}).select(integer=integer, seconds=seconds, moment=moment)
    n, size = pl.col("integer"), pl.col("integer").abs()
    ms: pl.Expr = n // NS_PER_MS
    unit: pl.Expr = pl.lit("ns")
    for (name, below), scaled in zip(reversed(UNITS), (n // 1_000, n, n * 1_000), strict=True):
        ms = pl.when(size < below).then(scaled).otherwise(ms)
        unit = pl.when(size < below).then(pl.lit(name)).otherwise(unit)
    is_date = pl.any_horizontal(n.is_between(first, last) for first, last in DATES)
    is_plain = n.is_not_null() & ~is_date & (size < 2**62)
    from_seconds = (pl.col("seconds") * 1_000 + 0.5).floor().cast(pl.Int64, strict=False)
    return frame.select(
        ms=pl.when(is_plain).then(ms).otherwise(pl.coalesce(from_seconds, "moment")),
        unit=pl.when(is_plain)
        .then(unit)
        .when(from_seconds.is_not_null())
        .then(pl.lit(UNITS[0][0]))
        .when(pl.col("moment").is_not_null())
        .then(pl.lit(TEXT)),
    )


def _simple(column: pl.Series) -> pl.Series:
    """The column with a type that the rules know: text, bytes, integer, float without NaN, decimal or boolean."""
    if column.dtype.is_float():
        return column.fill_nan(None)
    if column.dtype.is_integer() or column.dtype.is_decimal() or column.dtype in (pl.String, pl.Binary, pl.Boolean):
        return column
    return column.cast(pl.String, strict=False)


def _distinct(column: pl.Series, read: Callable[[Any], Any], kind: pl.DataType) -> Read:
    """Call `read` once for each different cell, and use the result for all equal cells."""
    cells = column.drop_nulls().unique()
    values: list[Any] = []
    why: list[str | None] = []
    for cell in cells.to_list():
        try:
            values.append(read(cell))
            why.append(None)
        except Unusable as exc:
            values.append(None)
            why.append(str(exc))
    if not values:
        return Read(nulls(len(column)).cast(kind), nulls(len(column)))

    def spread(found: list[Any], kind: pl.DataType) -> pl.Series:
        return column.replace_strict(cells, pl.Series(found, dtype=kind), default=None, return_dtype=kind)

    return Read(spread(values, kind), spread(why, pl.String()) if any(why) else nulls(len(column)))


def nulls(count: int) -> pl.Series:
    """A String column of n nulls."""
    return pl.Series([None], dtype=pl.String).new_from_index(0, count)


class Index:
    """Numbers names by first appearance, over all batches of a log."""

    def __init__(self) -> None:
        self._index: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def add(self, names: pl.Series) -> I32:
        """The indices of names (m,) String: (m,) int32, -1 for null. New names get the next indices."""
        distinct = names.drop_nulls().unique(maintain_order=True)
        index = self._index
        found = [index.setdefault(name, len(index)) for name in distinct.to_list()]
        if not found:
            return np.full(len(names), -1, np.int32)
        return names.replace_strict(distinct, pl.Series(found, dtype=pl.Int32), default=-1).to_numpy()

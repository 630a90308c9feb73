"""Makes the notes about a log, one line each: what was dropped or left out, and what looks implausible."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from export.arrays import I64
from export.log.joined import Joins
from export.log.times import iso
from stream.log_lines import counted, printable
from stream.wire.fields import DEFAULT_EVENT, TEXT

SHOWN = 40
"""Maximum characters of a value in a note."""

MIN_CLICKS = 100
"""Minimum clicks for notes about times and users. In a shorter log one user can have a fifth of the clicks."""

SHORT_MS = 600_000
"""A log that spans less than 10 minutes probably has its times in another unit."""

LARGE_SHARE = 0.2
"""Minimum share of all clicks for which any user is reported."""

PLACEHOLDER_SHARE = 0.01
"""Minimum share of all clicks for which a user or an item with a placeholder as name is reported."""

PLACEHOLDERS = {
    "null", "none", "nan", "na", "n/a", "undefined", "unknown", "anonymous", "guest", "(not set)", "", "-", "\\n",
}  # fmt: skip
"""Texts that programs write where there is no value; \\N is that of MySQL and Hive. In lower case."""

ZEROS = {"0", "-1"}
"""Names that can be real users. They count as placeholders if they have MANY_TIMES the clicks of the mean user."""

MANY_TIMES = 5

NOT_SIMILAR = "(?!.*(?:time|date|day|start|begin|end$|duration|length|count|num|visitor))"
SIMILAR = {
    "event": re.compile(
        rf"{NOT_SIMILAR}(?!.*id$)(?:.*(?:event|(?<!trans)action|behaviou?r|activity)|type$|verb$)", re.I
    ),
    "session": re.compile(rf"{NOT_SIMILAR}(?:.*(?:session|visit)|sid$)", re.I),
}
"""Patterns for other names of the event type column and the session column."""


@dataclass
class ReadStats:
    """Statistics of the rows that were read, and notes about the files.

    rows             all rows, also the dropped ones
    dropped          reason -> rows that are not clicks
    units            unit of the time -> rows that are clicks
    left_out         "COLUMN is REASON" -> rows whose value of an optional column is not usable
    examples         a reason of `dropped` or key of `left_out` -> one such value
    lines            notes about the files, without counts
    columns          the columns that the log has, by Eddy's names
    files            path of each file -> the optional columns that it has
    without_session  rows without a session, also those of files without a session column
    paths            field of a mapping -> where it is, as text
    seen             the fields of the mapping that have a value in a row
    joins            which anonymous ids are users
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    files: dict[str, set[str]] = field(default_factory=dict)
    without_session: int = 0
    paths: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    joins: Joins = field(default_factory=Joins)

    def add(self, line: str) -> None:
        """Add a note about a file, unless it is there already."""
        if line not in self.lines:
            self.lines.append(line)

    def notes(self) -> list[str]:
        """All notes, in the order in which they are printed."""
        notes = list(self.lines)
        for column in sorted(set().union(*self.files.values())):
            without = [name for name, columns in self.files.items() if column not in columns]
            if without:
                have = counted(len(without), "file has", "files have")
                notes.append(f"{have} no column {column!r}, which others have, such as {printable(without[0])}")
        notes += [
            f"no row has a value for {name}, which the mapping has at {ways}: is the path right?"
            for name, ways in self.paths.items()
            if name not in self.seen and self.rows
        ]
        notes += [
            f"dropped {counted(count, 'row')}: {reason}{self._example(reason)}"
            for reason, count in self.dropped.items()
        ]
        if len(self.units) > 1 or not self.units.keys() <= {"s", "ms", TEXT}:
            counts = ", ".join(f"{count:,} in {unit}" for unit, count in self.units.most_common())
            notes.append(f"units of the times, by their size: {counts}")
        if self.joins.users:
            notes.append(f"{counted(self.joins.users, 'user')} with clicks from before the login, by an anonymous id")
        if self.without_session and "session" in self.columns:
            have = counted(self.without_session, "row has", "rows have")
            notes.append(f"{have} no session: those of one user are one session")
        for problem, count in self.left_out.items():
            instead = f"read as {DEFAULT_EVENT!r}" if problem.startswith("event type") else "left out"
            notes.append(f"{problem} in {counted(count, 'row')}{self._example(problem)}: {instead}")
        return notes

    def example(self, of: str, cells: pl.Series) -> None:
        """Keep the first non-null cell as the example of a reason, unless it has one already."""
        if of not in self.examples and len(cells := cells.drop_nulls()):
            self.examples[of] = printable(str(cells[0]))[:SHOWN]

    def _example(self, of: str) -> str:
        return f", such as {self.examples[of]!r}" if of in self.examples else ""


def similar_column(what: str, names: Sequence[str]) -> str | None:
    """The first name that is similar to usual names of the `event` or `session` column; None if no name is."""
    return next((name for name in names if SIMILAR[what].match(name)), None)


def implausible_times(first_ms: int, last_ms: int, clicks: int, too_early: int, dates: bool) -> list[str]:
    """A note if clicks are older than the web, if all of them are within minutes, or if their times are only dates.

    first_ms, last_ms  time of the first click and of the last click
    clicks             count of the clicks
    too_early          count of the clicks before FIRST_CLICK_MS
    dates              whether all of them are at midnight, UTC
    """
    span = f"from {iso(first_ms)} to {iso(last_ms)}"
    if too_early:
        return [
            f"{counted(too_early, 'click is', 'clicks are')} dated before 1991 ({too_early / clicks:.1%}; the log goes "
            f"{span}): are the times day numbers of a spreadsheet, or do they count from another year than 1970?"
        ]
    if clicks >= MIN_CLICKS and 0 < last_ms - first_ms < SHORT_MS:
        return [f"the log spans {(last_ms - first_ms) / 1000:.0f} s ({span}): are its times in another unit?"]
    if clicks >= MIN_CLICKS and dates:
        return [
            "all times are dates without a time of day: a user's clicks of one date keep the order of the rows and are "
            "one session"
        ]
    return []


def implausible_users(users: Sequence[str], clicks: I64) -> list[str]:
    """A note for each user who is probably not one person. clicks (users,) int64, clicks of each user."""
    total = int(clicks.sum())
    if total < MIN_CLICKS:
        return []
    lines = []
    for user in np.flatnonzero(clicks >= PLACEHOLDER_SHARE * total).tolist():
        name, count = users[user], int(clicks[user])
        share = f"user {printable(name)[:SHOWN]!r} has {count / total:.1%} of all clicks"
        many = count > MANY_TIMES * total / len(users)
        if name.strip().lower() in PLACEHOLDERS or (name in ZEROS and many):
            lines.append(f"{share}: if it stands for unknown users, leave these rows out: they count as one user")
        elif count > LARGE_SHARE * total:
            lines.append(f"{share}: it may be a bot, or stand for many users")
    return lines


def implausible_items(items: Iterable[str], clicks: I64) -> list[str]:
    """A note for each item that stands for unknown ones. clicks (items,) int64, clicks of each item."""
    total, names = int(clicks.sum()), list(items)
    if total < MIN_CLICKS:
        return []
    often = np.flatnonzero(clicks >= PLACEHOLDER_SHARE * total).tolist()
    return [
        f"item {printable(names[item])[:SHOWN]!r} has {clicks[item] / total:.1%} of all clicks: if it stands for "
        "unknown items, leave these rows out: it is learned and recommended as one item"
        for item in often
        if names[item].strip().lower() in PLACEHOLDERS
    ]

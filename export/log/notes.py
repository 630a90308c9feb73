"""What is worth knowing about a log, a line each: what was dropped or left out, and what looks implausible."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from export.arrays import I64
from export.log.files import printable
from export.log.times import iso
from stream.wire.fields import DEFAULT_EVENT, TEXT

SHOWN = 40
"""Characters of a value that a line shows."""

MIN_CLICKS = 100
"""In a shorter log one user may well have a fifth of the clicks, and all of them lie within minutes."""

SHORT_MS = 600_000
"""A log that spans less than 10 minutes has its times in another unit, more likely than not."""

LARGE_SHARE = 0.2
"""Of all clicks, from which on one user is reported."""

PLACEHOLDER_SHARE = 0.01
"""Of all clicks, from which on a user is reported whose name stands for no user."""

PLACEHOLDERS = {"null", "none", "nan", "na", "n/a", "undefined", "unknown", "anonymous", "guest", "(not set)", "", "-"}
ZEROS = {"0", "-1"}
"""May be users like others; placeholders if they have many times the clicks of the mean user."""

MANY_TIMES = 5

NOT_SIMILAR = "(?!.*(?:time|date|day|start|begin|end$|duration|length|count|num|visitor))"
SIMILAR = {
    "event": re.compile(
        rf"{NOT_SIMILAR}(?!.*id$)(?:.*(?:event|(?<!trans)action|behaviou?r|activity)|type$|verb$)", re.I
    ),
    "session": re.compile(rf"{NOT_SIMILAR}(?:.*(?:session|visit)|sid$)", re.I),
}
"""Names that logs give to the column of event types or of sessions."""


@dataclass
class ReadStats:
    """Counts of what was read, and lines about it.

    dropped   rows that are no clicks, by reason
    units     kept rows, by the unit of their time
    left_out  values of optional columns that are not usable: which, and why
    examples  a value for each such text
    columns   the optional columns that the log has
    """

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    without_session: int = 0

    def add(self, line: str) -> None:
        """A line, once."""
        if line not in self.lines:
            self.lines.append(line)

    def notes(self) -> list[str]:
        """One line for each thing worth knowing."""
        notes = list(self.lines)
        notes += [f"dropped {count:,} rows: {reason}{self._example(reason)}" for reason, count in self.dropped.items()]
        if len(self.units) > 1 or not self.units.keys() <= {"s", "ms", TEXT}:
            counts = ", ".join(f"{count:,} in {unit}" for unit, count in self.units.most_common())
            notes.append(f"times by their size: {counts}")
        if self.without_session:
            notes.append(f"{self.without_session:,} rows have no session: those of a user are taken for one")
        for values, count in self.left_out.items():
            instead = f"taken for {DEFAULT_EVENT!r}" if values.startswith("event types") else "left out"
            notes.append(f"{count:,} {values}{self._example(values)}: {instead}")
        return notes

    def example(self, of: str, cells: pl.Series) -> None:
        """Remembers the first of some cells, unless there is an example already."""
        if of not in self.examples and len(cells := cells.drop_nulls()):
            self.examples[of] = printable(str(cells[0]))[:SHOWN]

    def _example(self, of: str) -> str:
        return f", such as {self.examples[of]!r}" if of in self.examples else ""


def similar_column(what: str, names: Sequence[str]) -> str | None:
    """The first name that looks like that of the `event` or `session` column."""
    return next((name for name in names if SIMILAR[what].match(name)), None)


def implausible_times(first_ms: int, last_ms: int, clicks: int, too_early: int) -> list[str]:
    """A line where clicks are older than the web, or all of them lie within minutes.

    first_ms, last_ms  of the earliest and the latest
    clicks             how many there are
    too_early          how many of them are dated before FIRST_CLICK_MS
    """
    span = f"from {iso(first_ms)} to {iso(last_ms)}"
    if too_early:
        return [
            f"{too_early:,} clicks ({too_early / clicks:.1%}) are dated before 1991 (the log goes {span}): "
            "are the times day numbers of a spreadsheet, or the time since something else than 1970?"
        ]
    if clicks >= MIN_CLICKS and 0 < last_ms - first_ms < SHORT_MS:
        return [f"the log spans {(last_ms - first_ms) / 1000:.0f} s ({span}): are its times in another unit?"]
    return []


def implausible_users(users: Sequence[str], clicks: I64) -> list[str]:
    """A line for each user who is hardly one person. clicks (users,): how many each has."""
    total = int(clicks.sum())
    if total < MIN_CLICKS:
        return []
    lines = []
    for user in np.flatnonzero(clicks >= PLACEHOLDER_SHARE * total).tolist():
        name, count = users[user], int(clicks[user])
        share = f"user {printable(name)[:SHOWN]!r} has {count / total:.1%} of all clicks"
        many = count > MANY_TIMES * total / len(users)
        if name.strip().lower() in PLACEHOLDERS or (name in ZEROS and many):
            lines.append(f"{share}: does it stand for users who are not known? They are taken for one")
        elif count > LARGE_SHARE * total:
            lines.append(f"{share}: is it a bot, or does it stand for many?")
    return lines

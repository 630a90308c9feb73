"""Judges a click together with the user's last clicks: several statistics, one calibrated p-value.

    statistics  -> the p-value of each: the share of all held-out sessions in which it was at least as high after
                   about as many clicks, or at any click
    together    -> one score: -log of the smallest, and half of what the others are beyond -log .001
    persistence -> what the scores of the session's clicks are beyond -log .01, in all: one more statistic. The others
                   see the last clicks, and do not grow with a session that stays unusual
    the score   -> the p-value of the click: the share of held-out sessions with a click whose score is as high. So the
                   nominal rate holds for all statistics together, without Bonferroni's loss

A session counts once, however many clicks it has. So a bot among the held-out clicks is one session, and not the norm.

Sources of the combination: Tippett 1931 (the smallest p-value) and Fisher 1932 (the sum of the logarithms), calibrated
as one score by inductive conformal prediction, because the statistics depend on each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np

from stream.detect.alert import Why
from stream.detect.detector import Evidence, Fields, Judged
from stream.detect.pvalue import Pools
from stream.detect.statistics import (
    CLASSES,
    FILLS,
    NONE,
    OF_SESSIONS,
    PERSISTENCE,
    SMALLEST_SCALES,
    STATISTICS,
    begins_run,
    fill_class,
    sentence,
    statistics,
    usually,
)
from stream.detect.tail import F32, F64, I32, I64, Tail, Tails, unpack
from stream.detect.windows import PER_NAT, WINDOWS, Bools, Sequence, Windows, add_excess, slide, starts_of
from stream.errors import ArtifactError
from stream.manifest import Manifest
from stream.state.row import Index, Rows

COUNTS = np.where(OF_SESSIONS, 1, FILLS)
"""Number of the tails of each statistic: one for each class, or one for whole sessions."""

TAILS = int(COUNTS.sum()) + 2
"""Number of the tails of a Behaviour."""

FLOOR, MORE = -np.log(0.001), 0.5
"""What a further statistic is beyond FLOOR, nats, counts as much as MORE of it."""

SPOKE = 0.01
"""An alert names the statistics with a p-value of at most this, and clicks with such a one count for PERSISTENCE."""


@dataclass(frozen=True)
class Behaviour:
    """The calibration of the statistics: their largest values in held-out sessions.

    parts       for each statistic, for each class or for whole sessions: its largest value in each session
    persistent  the largest persistence of each session
    combined    the highest score of each session
    """

    parts: list[list[Tail]]
    persistent: Tail
    combined: Tail

    @classmethod
    def fit(cls, values: F32, fill: I64, session: I64, fold: I64, ends: F32 | None = None) -> Self:
        """Calibrate on n held-out clicks, session after session.

        values   (n, S) float32, as `statistics` returns them
        fill     (n,) int64, as `fill_class` returns it; it does not fall within a session
        session  (n,) int64, number of each click's session, ascending
        fold     (n,) int64, 0 or 1, the same for all clicks of a user. The p-values of one fold come from the other:
                 those of clicks among themselves would be too large for what is new
        ends     (s,) float32, the score of the end of each session, NONE = none; None if ends are not scored. The end
                 of a session counts as one more statistic of it
        """
        each, lasting = np.zeros(values.shape), np.zeros(len(values))
        for mine, other in _folds(fold):
            parts = _parts(values[other], fill[other], session[other])
            each[mine] = _each(_lookup(parts), values[mine], fill[mine])
        more = excess(each)
        found = persistence(more, _over_sessions(more, session))
        for mine, other in _folds(fold):
            lasting[mine] = _lasting(Tail.fit(_largest(found[other], session[other])[0]), found[mine])
        strongest, starts = _largest(together(np.column_stack([each, lasting])).astype(np.float32), session)
        if ends is not None:
            strongest = np.maximum(strongest, _of_ends(ends, fold[starts]))
        return cls(_parts(values, fill, session), Tail.fit(_largest(found, session)[0]), Tail.fit(strongest))

    def each(self, values: F32, fill: I64) -> F64:
        """-log of the p-value of each statistic (n, S), nats."""
        return _each(self._table, values, fill)

    def nats(self, each: F64, persistence: F32) -> tuple[F64, F64]:
        """-log of the combined p-value (n,), and of that of the persistence (n,), nats.

        each         (n, S) as `each` returns it
        persistence  (n,) as `persistence` returns it
        """
        lasting = _lasting(self.persistent, persistence)
        score = together(np.column_stack([each, lasting])).astype(np.float32)
        return self.combined.nats_of(score), lasting

    @cached_property
    def _table(self) -> Tails:
        return _lookup(self.parts)

    def tails(self) -> list[Tail]:
        """All tails, in the order of a file."""
        return [*(tail for part in self.parts for tail in part), self.persistent, self.combined]

    @classmethod
    def of(cls, tails: list[Tail]) -> Self:
        """The opposite of `tails`."""
        ends = COUNTS.cumsum().tolist()
        return cls([tails[start:end] for start, end in pairwise([0, *ends])], *tails[-2:])


def together(each: F64) -> F64:
    """The score (n,) of clicks with the -log p of each statistic (n, S), nats."""
    largest = each.max(1)
    others = np.maximum(each - FLOOR, 0).sum(1) - np.maximum(largest - FLOOR, 0)
    found: F64 = largest + MORE * others
    return found


def excess(each: F64) -> I64:
    """How far the scores of clicks (n,) are beyond -log SPOKE, in 1 / PER_NAT nats, by the -log p of each (n, S)."""
    more: I64 = np.rint(np.maximum(together(each) + np.log(SPOKE), 0) * PER_NAT).astype(np.int64)
    return more


def persistence(more: I64, total: I64) -> F32:
    """How long and how far each click's session has been unusual (n,); NONE for a click that is not.

    The square root: a sum over hundreds of clicks has so long a tail that one session of the held-out ones could hide
    all that come later.

    more   (n,) int64, as `excess` returns it
    total  (n,) int64, its sum over the session, up to the click
    """
    found: F32 = np.where(more > 0, np.sqrt(total / PER_NAT), NONE).astype(np.float32)
    return found


def _lasting(tail: Tail, persistence: F32) -> F64:
    """-log of the p-value of each persistence (n,), nats; 0 for NONE."""
    found = np.zeros(len(persistence))
    some = np.flatnonzero(persistence > NONE)
    found[some] = tail.nats_of(persistence[some])
    return found


def _over_sessions(values: I64, session: I64) -> I64:
    """The sum (n,) of the values (n,) of each session up to each click. session: (n,) ascending"""
    starts = np.append(True, session[1:] != session[:-1])
    sums = values.cumsum()
    found: I64 = sums - (sums - values)[np.maximum.accumulate(np.where(starts, np.arange(len(values)), 0))]
    return found


def _folds(fold: I64) -> Iterator[tuple[Bools, Bools]]:
    """Each fold, and the clicks whose sessions it is compared with: those of the other one."""
    for own in (0, 1):
        mine = fold == own
        if mine.any():
            yield mine, mine if mine.all() else ~mine  # a log can have one user


def _largest(values: F32, group: I64) -> tuple[F32, Index]:
    """The largest of n values (n, ...) in each group (g, ...), and the first position of each group (g,).

    group  (n,) ascending
    """
    starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    return np.maximum.reduceat(values, starts, axis=0), starts


def _parts(values: F32, fill: I64, session: I64) -> list[list[Tail]]:
    """The tails of each statistic, for each class. A session without a click of the class has the score -inf there."""
    by_class, starts = _largest(values, session * FILLS + fill)
    number = np.unique(session[starts], return_inverse=True)[1]
    whole = np.full((number[-1] + 1, FILLS, values.shape[1]), -np.inf, np.float32)
    whole[number, fill[starts]] = by_class
    return [
        [Tail.fit(whole[:, :, column].max(1), scale)]
        if OF_SESSIONS[column]
        else [Tail.fit(whole[:, index, column], scale) for index in range(FILLS)]
        for column, scale in enumerate(SMALLEST_SCALES)
    ]


def _of_ends(ends: F32, fold: I64) -> F32:
    """-log of the p-value of the end of each session (s,), nats, by the sessions of the other fold. fold: (s,)"""
    found = np.zeros(len(ends), np.float32)
    for own in (0, 1):
        mine = (fold == own) & (ends > NONE)
        other = fold != own if (fold != own).any() else fold == own
        found[mine] = Tail.fit(ends[other]).nats_of(ends[mine])
    return found


def _lookup(parts: list[list[Tail]]) -> Tails:
    return Tails([tail for part in parts for tail in part])


def _each(table: Tails, values: F32, fill: I64) -> F64:
    """-log of the p-value of each statistic (n, S), nats."""
    which = COUNTS.cumsum() - COUNTS + np.where(OF_SESSIONS, 0, fill[:, None])
    found: F64 = table.nats_of(which.ravel(), values.ravel()).reshape(values.shape)
    found[values == NONE] = 0.0
    return found


class BehaviourDetector:
    """A Detector that uses all statistics."""

    row_fields = WINDOWS

    def __init__(self, pools: Pools, behaviour: Behaviour, category: I32) -> None:
        """category  (V + 1,) int32, the category of each item, -1 = none; the last one is the unknown item's"""
        self.behaviour, self.held_out = behaviour, behaviour.combined.size
        self.pools, self._category = pools, category

    @classmethod
    def load(cls, directory: Path, manifest: Manifest) -> Self:
        """Read calibration.npz. Raises ArtifactError if it is not usable."""
        try:
            with np.load(directory / "calibration.npz", allow_pickle=False) as file:
                tails = unpack(file, len(manifest.calibration) + TAILS)
                category = np.append(file["category"], -1).astype(np.int32)
            if len(category) != manifest.items + 1:
                raise ValueError(f"it has {len(category) - 1} categories for {manifest.items} items")
            pools = Pools.of(manifest.calibration, tails[:-TAILS], manifest.event_types)
        except (KeyError, ValueError, OSError, BadZipFile) as exc:
            raise ArtifactError(f"model {directory}: calibration.npz is unreadable ({exc}); train it again") from exc
        return cls(pools, Behaviour.of(tails[-TAILS:]), category)

    def judge(self, seen: Evidence, before: Fields, rows: Rows) -> Judged:
        item_nats = self.pools.nats(seen.surprise, seen.event_type, seen.clicks_before)
        sequence, starts = Sequence(seen.owner, len(rows)), starts_of(seen.clicks_before, seen.gap_ms)
        begins = begins_run(seen.recent, self._category)
        windows = slide(
            before, rows, sequence, starts, item_nats, seen.event_surprise, seen.gap_ms, begins, seen.same_item
        )
        values, fill = statistics(windows, seen.recent, len(self._category) - 1), fill_class(windows.filled)
        each = self.behaviour.each(values, fill)
        more = excess(each)
        total = add_excess(before, rows, sequence, starts, more)
        nats, lasting = self.behaviour.nats(each, persistence(more, total))
        return Judged(nats, each.argmax(1), partial(self._why, values, each, lasting, fill, windows))

    def _why(self, values: F32, each: F64, lasting: F64, fill: I64, windows: Windows, click: int) -> Why:
        p_values = np.exp(-each[click])
        strongest = np.argsort(-each[click], kind="stable").tolist()
        spoke = {STATISTICS[i]: float(p_values[i]) for i in strongest if p_values[i] <= SPOKE}
        first = strongest[0]
        said = sentence(STATISTICS[first], float(values[click, first]), windows, click)
        median = self.behaviour.parts[first][0 if OF_SESSIONS[first] else fill[click]].median()
        said += "" if median is None else usually(STATISTICS[first], median, int(windows.filled[click]) - 1)
        if lasting[click] >= -np.log(SPOKE):
            spoke[PERSISTENCE] = float(np.exp(-lasting[click]))
            said += "; much of the session was unusual" if lasting[click] > each[click, first] else ""
        return Why(CLASSES[fill[click]], self.held_out, spoke, said)

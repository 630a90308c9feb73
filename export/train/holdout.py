"""The held-out split: a log -> training clicks, and its newest part as the held-out slice.

The held-out slice is used to choose the best epoch, to evaluate and to calibrate. The rule: the slice is evaluated as
in production, so items first seen in the slice are unknown items.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from export.arrays import I32, I64, Flags
from export.dataset.cooccurrence import Counted
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, birth_period, drawn, encode
from export.log.log import GAP_EDGES_MS, Log, Vocabulary
from export.measure.ranking import JUDGED
from export.train.cold_items import Catalogued
from export.train.warm_start import Older, counted_by, first_unseen, joined, reindexed
from stream.errors import ConfigError
from stream.lists.rules import NO_CATEGORY

HELD_OUT, AT_MOST = 0.1, 1 / 3
"""Share of the clicks that is held out: HELD_OUT if that spans SERVED_MS, otherwise more, up to AT_MOST."""

SERVED_MS = 24 * 3_600_000
"""Minimum time in production before the next model is trained, ms."""

SMALLEST_LOG = 200
"""Minimum clicks of a log. A smaller log cannot be split into a training part and a calibration part."""


class HeldOut(NamedTuple):
    """A log, split into a training part and a held-out slice.

    clicks      all clicks of the log
    cut_ms      time of the split, ms: the held-out slice begins here
    head        training part: the clicks before cut_ms
    seen        all clicks of the users who click in the slice; items first seen in the slice are the unknown item V
    known       (V + 1,) bool, True for items that a model trained on `head` knows; False for the unknown item
    popularity  popularity over all clicks, no recency correction; includes the clicks that an older model counted
    counted     co-occurrence counts of the older model, over this vocabulary; None without an older model
    category    (V,) int64, category of each item in the log; NO_CATEGORY = none
    """

    vocabulary: Vocabulary
    clicks: Clicks
    cut_ms: int
    head: Clicks
    seen: Clicks
    known: Flags
    popularity: Recency
    counted: Counted | None
    category: I64

    @property
    def tail(self) -> Clicks:
        """The clicks of the held-out slice alone, with items as in `seen`; users start from a zero state there."""
        return self.seen.where(self.seen.time_ms >= self.cut_ms)

    def with_items(self, catalogued: Catalogued) -> "HeldOut":
        """This split with the cold items of a catalogue appended to the vocabulary; items with a category are known."""
        items = len(catalogued.items)
        known = np.append(catalogued.category != NO_CATEGORY, False)
        known[: len(self.known) - 1] |= self.known[:-1]
        return self._replace(
            vocabulary=Vocabulary(catalogued.items, self.vocabulary.event_types, self.vocabulary.gap_edges_ms),
            seen=known_only(known, _of_users(self.clicks, self.cut_ms)),
            known=known,
            counted=self.counted and reindexed(self.counted, np.arange(len(self.vocabulary.items)), items),
            category=catalogued.category,
        )


def hold_out(log: Log, older: Older | None = None) -> HeldOut:
    """Split a log into a training part and a held-out slice (step 1 of export/pipeline.py).

    older  model that the training starts from: its items stay in the vocabulary, and clicks that it was trained on are
           not in the slice
    Raises ConfigError if the log is too small or has no next clicks to train on.
    """
    _check(log)
    vocabulary = vocabulary_of(log) if older is None else joined(older, vocabulary_of(log), log)
    items = len(vocabulary.items)
    clicks = encode(log, vocabulary, birth_period(log.time_ms))
    cut_ms = held_out_from(clicks.time_ms)
    counted = before = None
    known = np.zeros(items + 1, np.bool_)
    if older is not None:
        cut_ms = first_unseen(older, cut_ms, int(clicks.time_ms.max()))
        counted = counted_by(older, vocabulary)
        both = np.bincount(clicks.item[clicks.time_ms <= older.until_ms], minlength=items)
        before = np.maximum(0.0, counted.clicks - both)
        known[:items] = counted.clicks > 0
        clicks = replace(clicks, fresh=clicks.fresh & (counted.clicks[clicks.item] == 0))
    head = clicks.where(clicks.time_ms < cut_ms)
    known[head.item] = True
    seen = known_only(known, _of_users(clicks, cut_ms))
    category = categories(log, vocabulary)
    held_out = HeldOut(vocabulary, clicks, cut_ms, head, seen, known, Recency(None, before), counted, category)
    if not len(head) or not (held_out.tail.target >= 0).any():
        raise ConfigError("the newest part of the log has no user with two clicks: the log is too short to train on")
    return held_out


def held_out_from(time_ms: I64) -> int:
    """Time at which the held-out slice begins, ms. time_ms is (n,) int64.

    The slice is the newest tenth of the clicks. If that spans less than a day, the slice is extended to a day, up to a
    third of the clicks. The slice decides the best epoch, the recency correction, the temperature and the bias
    weight for clicks that are as far ahead as the slice is long. In a log of two days a tenth is three hours, and in
    three hours a news site hardly changes.
    """
    tenth, third = np.quantile(time_ms, [1 - HELD_OUT, 1 - AT_MOST])
    begins: int = math.ceil(max(min(tenth, time_ms.max() - SERVED_MS + 1), third))
    if (time_ms >= begins).mean() <= AT_MOST:
        return begins
    later = time_ms[time_ms > begins]  # many clicks have the same time, such as a date: keep them on one side
    return int(later.min()) if len(later) else begins


def halves(seen: Clicks, cut_ms: int) -> tuple[I64, I64]:
    """Rows of `seen` whose next click is in the held-out slice, in two halves.

    returns  every second row, to fit the gates; and of the remaining rows at most JUDGED, to evaluate on
    """
    later = np.flatnonzero((seen.target >= 0) & np.append(seen.time_ms[1:] >= cut_ms, False))
    return later[::2], drawn(later[1::2], JUDGED)


def vocabulary_of(log: Log) -> Vocabulary:
    """Items by descending count, ties by first appearance in time; event types likewise."""
    items = [log.items[i] for i in _ranked(log.item, log.time_ms)]
    event_types = tuple(log.event_types[i] for i in _ranked(log.event_type, log.time_ms))
    return Vocabulary(items, event_types, GAP_EDGES_MS)


def _ranked(index: I32, time_ms: I64) -> I64:
    counts = np.bincount(index)
    first = np.full(len(counts), np.iinfo(np.int64).max)
    np.minimum.at(first, index, time_ms)
    order = np.lexsort((first, -counts))
    return order[counts[order] > 0]


def categories(log: Log, vocabulary: Vocabulary) -> I64:
    """(V,) int64, category of each item in its last click; NO_CATEGORY = none, or the log has no category column."""
    index = {item: i for i, item in enumerate(vocabulary.items)}
    of_name = np.array([index.get(item, -1) for item in log.items], np.int64)
    category = np.full(len(index), NO_CATEGORY, np.int64)
    if log.category is not None:
        named = np.flatnonzero(log.category != NO_CATEGORY)
        named = named[np.argsort(log.time_ms[named], kind="stable")]
        category[of_name[log.item[named]]] = log.category[named]
    return category


def _of_users(clicks: Clicks, cut_ms: int) -> Clicks:
    """All clicks of the users who click at or after cut_ms."""
    return clicks.where(np.isin(clicks.user, clicks.user[clicks.time_ms >= cut_ms]))


def known_only(known: Flags, clicks: Clicks) -> Clicks:
    """The clicks with all items where `known` (V + 1,) bool is False replaced by the unknown item V."""
    items = len(known) - 1
    item = np.where(known[clicks.item], clicks.item, items)
    target = np.where((clicks.target >= 0) & ~known[clicks.target], items, clicks.target)
    return replace(clicks, item=item, target=target)


def new_items(clicks: Clicks) -> int:
    """How many new items exist at the same time, at least 1.

    This is the mean count of items first seen in a period (windows.birth_period), over the periods in which an item can
    be fresh.
    """
    born = len(np.unique(clicks.item[clicks.fresh]))
    span = int(clicks.time_ms.max() - clicks.time_ms.min())
    periods = max(1, span // birth_period(clicks.time_ms) - 1)
    return max(1, round(born / periods))


def _check(log: Log) -> None:
    """Raises ConfigError with the reason if a log cannot be trained on."""
    if len(log) < SMALLEST_LOG:
        raise ConfigError(f"the log has {len(log):,} clicks; at least {SMALLEST_LOG} are needed to train and calibrate")
    if len(np.unique(log.item)) < 2:
        raise ConfigError("the log has a single item: there is nothing to recommend")
    if not (log.user[1:] == log.user[:-1]).any():
        raise ConfigError(
            "no user of the log has two clicks, so there is no next click to train on; is the user column right?"
        )
    if log.time_ms.min() == log.time_ms.max():
        raise ConfigError(
            "all clicks of the log have the same time, so they have no order; give another --time-col, or --in-order "
            "if the rows are in time order"
        )

"""A log in two: what is learned from, and its newest part, which is held out to choose, to judge and to calibrate with.

The rule: what is held out is met as it will be in service, so items born in it are unknown there.
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
from export.train.warm_start import Older, counted_by, first_unseen, joined, placed
from stream.errors import ConfigError
from stream.lists.rules import NO_CATEGORY

HELD_OUT, AT_MOST = 0.1, 1 / 3
"""Shares of the clicks that are held out: the first where that spans SERVED_MS, else up to the second."""

SERVED_MS = 24 * 3_600_000
"""How long a model serves, at least, before the next one is trained."""

SMALLEST_LOG = 200
"""Fewer clicks cannot be split into something to learn from and something to calibrate with."""


class HeldOut(NamedTuple):
    """A log with its newest part held out.

    head     the clicks before cut_ms
    seen     the users of the held-out slice with all their clicks, as a model of the head meets them: items born later
             are unknown
    known    (V + 1,) bool, the items that are not
    popularity  of all clicks alike, those that an older model has counted among them
    counted  what the older model has counted, over the vocabulary; None without one
    category (V,) of each item by the log, NO_CATEGORY = none
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
        """The slice itself, as a model of the head meets it; its users begin there."""
        return self.seen.where(self.seen.time_ms >= self.cut_ms)

    def with_items(self, catalogued: Catalogued) -> "HeldOut":
        """The same with the catalogue's new items at the end; all that have a category are known."""
        items = len(catalogued.items)
        known = np.append(catalogued.category != NO_CATEGORY, False)
        known[: len(self.known) - 1] |= self.known[:-1]
        return self._replace(
            vocabulary=Vocabulary(catalogued.items, self.vocabulary.event_types, self.vocabulary.gap_edges_ms),
            seen=known_only(known, _of_users(self.clicks, self.cut_ms)),
            known=known,
            counted=self.counted and placed(self.counted, np.arange(len(self.vocabulary.items)), items),
            category=catalogued.category,
        )


def hold_out(log: Log, older: Older | None = None) -> HeldOut:
    """Step 1: what is learned from and what is judged on. Raises ConfigError if nothing can be learned from the log.

    older  a model that the training starts from: its items stay, and what it has seen is not judged on
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
        raise ConfigError("the newest part of the log holds no user with two clicks: too short to train on")
    return held_out


def held_out_from(time_ms: I64) -> int:
    """When the held-out slice begins: the newest tenth of the clicks (n,), and as near to a day as a third of them is.

    What is chosen on the slice, the best epoch, whether popularity passes, how far the network is to be trusted, is
    chosen for clicks so far ahead. On a log of two days a tenth is three hours, in which a news site hardly changes.
    """
    tenth, third = np.quantile(time_ms, [1 - HELD_OUT, 1 - AT_MOST])
    begins: int = math.ceil(max(min(tenth, time_ms.max() - SERVED_MS + 1), third))
    if (time_ms >= begins).mean() <= AT_MOST:
        return begins
    later = time_ms[time_ms > begins]  # many clicks of one time, such as a date: all of them lie on one side
    return int(later.min()) if len(later) else begins


def halves(seen: Clicks, cut_ms: int) -> tuple[I64, I64]:
    """The rows of `seen` whose next click is held out: every other one to fit gates on, at most JUDGED to judge on."""
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
    """(V,) the category of each item, as its last click names it; NO_CATEGORY = none, or the log has no such column."""
    index = {item: i for i, item in enumerate(vocabulary.items)}
    place = np.array([index.get(item, -1) for item in log.items], np.int64)
    category = np.full(len(index), NO_CATEGORY, np.int64)
    if log.category is not None:
        named = np.flatnonzero(log.category != NO_CATEGORY)
        named = named[np.argsort(log.time_ms[named], kind="stable")]
        category[place[log.item[named]]] = log.category[named]
    return category


def _of_users(clicks: Clicks, cut_ms: int) -> Clicks:
    """The users of the held-out slice with all their clicks."""
    return clicks.where(np.isin(clicks.user, clicks.user[clicks.time_ms >= cut_ms]))


def known_only(known: Flags, clicks: Clicks) -> Clicks:
    """The clicks as a model meets them that knows the items where `known` (V + 1,); others are its unknown item V."""
    items = len(known) - 1
    item = np.where(known[clicks.item], clicks.item, items)
    target = np.where((clicks.target >= 0) & ~known[clicks.target], items, clicks.target)
    return replace(clicks, item=item, target=target)


def new_items(clicks: Clicks) -> int:
    """How many items are new at a time: born per period, on average over the periods in which an item can be fresh."""
    born = len(np.unique(clicks.item[clicks.fresh]))
    span = int(clicks.time_ms.max() - clicks.time_ms.min())
    periods = max(1, span // birth_period(clicks.time_ms) - 1)
    return max(1, round(born / periods))


def _check(log: Log) -> None:
    """Raises ConfigError if nothing can be learned from the log, with what it lacks."""
    if len(log) < SMALLEST_LOG:
        raise ConfigError(f"the log has {len(log):,} clicks; at least {SMALLEST_LOG} are needed to train and calibrate")
    if len(np.unique(log.item)) < 2:
        raise ConfigError("the log has a single item: there is nothing to recommend")
    if not (log.user[1:] == log.user[:-1]).any():
        raise ConfigError(
            "no user of the log has two clicks: there is no next click to learn from; is the user column right?"
        )
    if log.time_ms.min() == log.time_ms.max():
        raise ConfigError(
            "all clicks of the log have the same time: nothing is earlier or later; take another --time-col, or say "
            "--in-order if the rows are in time order"
        )

"""The logs of the benchmark, each split by time, with the counters and labels of all clicks.

The labels of the training part end at the cut: nothing after it is known there. Labels of the test part end with the
log. Clicks whose label is unknown are not judged.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import polars as pl

from bench.datasets import read
from export.ahead.counters import counters_of
from export.ahead.upcoming import MINUTE, Upcoming, upcoming
from export.arrays import F32, I64
from export.dataset.windows import Clicks, encode
from export.log.log import Log, read_log
from export.train.holdout import vocabulary_of
from stream.model.gaps import SESSION_GAP_MS


class Source(NamedTuple):
    """How a log is read and judged.

    frame    its clicks, with the columns of the log reader
    share    of the clicks, the oldest, that are the training part
    intent   name of the intent's event type; None = the log has one event type
    returns  days within which a return is judged; () = the log is too short
    over_ms  a session without a click for so long at the end of the log counts as over
    what     what the log is
    """

    frame: Callable[[], pl.DataFrame]
    share: float
    intent: str | None
    returns: tuple[int, ...]
    over_ms: int
    what: str


GLOBO_USERS = 20
"""Every so many-th user of the news site is in the benchmark."""


def _taobao(file: str) -> pl.DataFrame:
    names = {"user": "user_id", "item": "item_id", "action": "event_type"}
    return read(file).rename(names).with_columns(timestamp=pl.col("ts") * 1000)


def _rees46() -> pl.DataFrame:
    at = pl.col("event_time").str.to_datetime("%Y-%m-%d %H:%M:%S UTC").dt.epoch("ms")
    return read("rees46_2019_oct_sample.csv.gz").rename({"product_id": "item_id"}).with_columns(timestamp=at)


def _retailrocket() -> pl.DataFrame:
    names = {"visitorid": "user_id", "itemid": "item_id", "event": "event_type"}
    return read("retailrocket_5000_visitors.csv.gz").rename(names)


def _trivago() -> pl.DataFrame:
    names = {"reference": "item_id", "action_type": "event_type"}
    return read("trivago_100k.parquet").rename(names).with_columns(pl.col("timestamp") * 1000)


def _globo() -> pl.DataFrame:
    clicks = read("globo_clicks.parquet").rename({"article_id": "item_id"})
    return clicks.filter(pl.col("user_id") % GLOBO_USERS == 0)


SOURCES = {
    "taobao": Source(
        lambda: _taobao("taobao_2_hours.csv.gz"), 0.5, "buy", (), SESSION_GAP_MS, "two hours of a shop, all users"
    ),
    "taobao-users": Source(
        lambda: _taobao("taobao_114_users.csv.gz"), 0.6, "buy", (1,), SESSION_GAP_MS, "nine days of 114 users of a shop"
    ),
    "rees46": Source(
        _rees46, 0.5, "purchase", (), 5 * MINUTE,
        "three hours of a shop, half of the clicks in the last 15 minutes; five minutes without a click end a session "
        "at the end of the log, because nobody saw half an hour",
    ),
    "retailrocket": Source(
        _retailrocket, 0.5, "transaction", (7,), SESSION_GAP_MS, "138 days of 5,000 visitors of a shop, 46 purchases"
    ),
    "trivago": Source(_trivago, 0.7, "clickout item", (), SESSION_GAP_MS, "two days of a hotel search, 10 event types"),
    "globo": Source(
        _globo, 0.6, None, (1,), SESSION_GAP_MS, f"12 days of a news site, one of {GLOBO_USERS} users, one event type"
    ),
}  # fmt: skip


class Part(NamedTuple):
    """Clicks of one part, sorted by (user, time).

    away_s  seconds since the session before, -1 = none
    rest_ms  from the click to the end of what is known
    """

    user: I64
    event_type: I64
    counters: F32
    away_s: F32
    rest_ms: I64
    label: Upcoming


class Split(NamedTuple):
    """A log in two parts. intent is the index of its event type."""

    train: Part
    test: Part
    event_types: tuple[str, ...]
    intent: int | None
    cut_ms: int
    log: Log


def split_of(name: str) -> Split:
    """Read and split a log. Users keep their counters over the cut, as in production."""
    source = SOURCES[name]
    frame = source.frame()
    columns = [c for c in ("user_id", "item_id", "event_type", "timestamp") if c in frame.columns]
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "log.parquet"
        frame.select(columns).sort("timestamp", maintain_order=True).write_parquet(path)
        log = read_log(path)
    cut_ms = int(np.quantile(log.time_ms, source.share))
    earlier = log.between(None, cut_ms)
    vocabulary = vocabulary_of(earlier)
    event_types = vocabulary.event_types
    intent = None if source.intent is None else event_types.index(source.intent)
    clicks = encode(log, vocabulary, 1)
    before = clicks.time_ms < cut_ms
    return Split(
        _part(clicks.where(before), len(event_types), intent, cut_ms, source.over_ms),
        _part(clicks, len(event_types), intent, int(clicks.time_ms.max()), source.over_ms, ~before),
        event_types,
        intent,
        cut_ms,
        log,
    )


def _part(
    clicks: Clicks, event_types: int, intent: int | None, until_ms: int, over_ms: int, judged: np.ndarray | None = None
) -> Part:
    user, time_ms = clicks.user, clicks.time_ms
    counters = counters_of(user, time_ms, clicks.event_type, clicks.item, event_types)
    label = upcoming(user, time_ms, clicks.event_type, event_types, intent, until_ms, over_ms)
    opens = np.maximum.accumulate(np.where(counters[:, 0] == 1, np.arange(len(user)), 0))
    away = np.where(counters[:, 4] > 0, counters[opens, 2], -1).astype(np.float32)
    whole = Part(user.astype(np.int64), clicks.event_type.astype(np.int64), counters, away, until_ms - time_ms, label)
    if judged is None:
        return whole
    return Part(*(column[judged] for column in whole[:-1]), label.where(judged))

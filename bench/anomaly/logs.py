"""The logs of the benchmark: clicks to train on, and later clicks to evaluate on, as columns with common names.

The later clicks begin with a warm-up, the last clicks before the cut: they build the users' states and are not judged.
"""

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.anomaly.clicks import I32, I64, Clicks, Flags, by_user
from bench.command import run_eddy, say
from bench.datasets import DAY_MS, globo, rees46, taobao
from bench.report import DATA_DIRECTORY, ROOT
from stream.manifest import FORMAT

SCRATCH = ROOT / ".cache" / "anomaly"
GLOBO_DAY = 3
GLOBO_USERS = 4
"""Every so many-th user of the news site is in the benchmark, in the training too."""


class Source(NamedTuple):
    """How a log is read: its file, its training and its later clicks with the columns of the log reader, and a text."""

    file: str
    read: Callable[[], tuple[pl.DataFrame, pl.DataFrame, str]]
    warm_up_ms: int


def _globo() -> tuple[pl.DataFrame, pl.DataFrame, str]:
    split = globo(GLOBO_DAY)
    some = pl.col("user_id") % GLOBO_USERS == 0
    return split.train.filter(some), split.test.filter(some), f"{split.what}; one of {GLOBO_USERS} users"


def _rees46() -> tuple[pl.DataFrame, pl.DataFrame, str]:
    split = rees46(0.3)
    return split.train, split.test, split.what


def _taobao() -> tuple[pl.DataFrame, pl.DataFrame, str]:
    split = taobao(0.5)
    return split.train, split.test, split.what


SOURCES = {
    "globo": Source("globo_clicks.parquet", _globo, DAY_MS),
    "rees46": Source("rees46_sessions.parquet", _rees46, 30 * DAY_MS),
    "taobao": Source("taobao_2_hours.csv.gz", _taobao, 0),
}


@dataclass(frozen=True)
class Log:
    """A log as columns.

    train        the clicks to train on, in time order
    later        the warm-up and the clean slice, in time order
    begins       row of `later` with the first click of the clean slice
    items        names of the items of both parts; users, event_types and categories in the same way
    """

    name: str
    what: str
    train: Clicks
    later: Clicks
    begins: int
    users: list[str]
    items: list[str]
    event_types: list[str]
    categories: list[str]

    @property
    def start_ms(self) -> int:
        return int(self.later.time_ms[self.begins])

    @property
    def end_ms(self) -> int:
        return int(self.later.time_ms[-1])

    @cached_property
    def clean_session(self) -> I64:
        """(n,) number of the session of each click of `later`; -1 = the session began in the warm-up."""
        found = by_user(self.later)
        starts = np.flatnonzero(np.diff(found.session, prepend=-1))
        began = found.order[starts] >= self.begins  # by session
        number = np.where(began, np.cumsum(began) - 1, -1)
        sessions = np.empty(len(self.later), np.int64)
        sessions[found.order] = number[found.session]
        return sessions

    @cached_property
    def category_of(self) -> I32:
        """(V,) int32, category of each item, -1 = none."""
        found = np.full(len(self.items), -1, np.int32)
        for part in (self.train, self.later):
            found[part.item] = part.category
        return found

    @cached_property
    def popularity(self) -> npt.NDArray[np.float64]:
        """(V,) share of each item of the training clicks."""
        counts = np.bincount(self.train.item, minlength=len(self.items)).astype(float)
        return counts / counts.sum()

    @cached_property
    def trained(self) -> Flags:
        """(V,) bool, the item has training clicks."""
        return self.popularity > 0

    @property
    def view(self) -> int:
        """The most frequent event type."""
        return int(np.bincount(self.train.event_type).argmax())

    def event_type(self, *names: str) -> int | None:
        """Index of the first of the names that the log has; None if it has none."""
        return next((self.event_types.index(name) for name in names if name in self.event_types), None)


def read(name: str) -> Log | None:
    """Read a log of SOURCES; None, with a message, if its file is missing."""
    source = SOURCES[name]
    if not (DATA_DIRECTORY / source.file).is_file():
        say(f"{name} is left out: {DATA_DIRECTORY / source.file} does not exist; set EDDY_DATA to its directory")
        return None
    train, test, what = source.read()
    return columns(name, what, train, test, source.warm_up_ms)


def columns(name: str, what: str, train: pl.DataFrame, test: pl.DataFrame, warm_up_ms: int) -> Log:
    """Convert the two parts of a log. The columns `event_type` and `category` may be missing."""
    train, test = (part.sort("timestamp", maintain_order=True) for part in (train, test))
    cut_ms = int(test["timestamp"][0])
    warm = train.filter(pl.col("timestamp") >= cut_ms - warm_up_ms) if warm_up_ms else train.clear()
    later = pl.concat([warm, test])
    frame = pl.concat([train, later])
    names: dict[str, list[str]] = {}
    indices: dict[str, I32] = {}
    for column in ("user_id", "item_id", "event_type", "category"):
        if column not in frame.columns:
            names[column] = ["view"] if column == "event_type" else []
            indices[column] = np.full(len(frame), 0 if column == "event_type" else -1, np.int32)
            continue
        values = frame[column].cast(pl.String)
        distinct = values.unique(maintain_order=True).drop_nulls()
        names[column] = distinct.to_list()
        index = values.replace_strict(distinct, np.arange(len(distinct)), default=-1, return_dtype=pl.Int32)
        indices[column] = index.to_numpy().astype(np.int32)
    both = Clicks(
        indices["user_id"],
        indices["item_id"],
        indices["event_type"],
        indices["category"],
        frame["timestamp"].to_numpy().astype(np.int64),
    )
    n = len(train)
    return Log(
        name,
        what,
        both.take(np.arange(n)),
        both.take(np.arange(n, len(both))),
        len(warm),
        names["user_id"],
        names["item_id"],
        names["event_type"],
        names["category"],
    )


def trained_model(name: str, options: str) -> Path:
    """The model of the training clicks of a log. The same log and options are trained only once."""
    source = SOURCES[name]
    train, _, what = source.read()
    key = json.dumps([FORMAT, name, what, len(train), options])
    directory = SCRATCH / hashlib.sha256(key.encode()).hexdigest()[:12]
    model = directory / name / "1"
    if not (model / "manifest.json").is_file():
        say(f"{name}: training on {len(train):,} clicks; the model stays in {directory.relative_to(ROOT)}")
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "train.parquet"
        train.write_parquet(path)
        run_eddy("train", path, "--out", model, *shlex.split(options))
        path.unlink()
    return model

"""Measures whether `because` names the right click: whether the list changes more without it than without another.

Where a user has more clicks than a row remembers, `because` steps the remembered ones only. Here the whole history is
stepped, with all clicks but the named one, and with all but another of the remembered clicks, drawn at random among
those on other items: two clicks on one item, or on items that the model does not know, often count the same. The judged
item is the first one of the list. For comparison, the last click is named always. Histories of at most as many clicks
as a row has are counted apart: there `because` steps all of them, so the named click is right but for ties.

    python -m bench.because [--datasets taobao-users,retailrocket] [--seed 0] [--json]

Exit code 1 if fewer than 80 % of the named clicks move the item more than the other one.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.command import run_eddy, say
from bench.datasets import split_of
from bench.report import RESULTS, Figures, kept, write_report
from export.arrays import I64
from export.log.log import Log, read_log
from stream.detect.windows import NO_GAP
from stream.model.gaps import gap_bucket
from stream.model.runtime import Model, load_model
from stream.past.because import Because
from stream.past.clicks import Names, Past, item_hashes, type_hashes
from stream.settings import RECENT_ITEMS

RESULT = RESULTS / "because.json"
GOAL = 0.8
LONGEST = 400
"""Clicks of the longest history."""

PER_USER = 5


class History(NamedTuple):
    """The clicks of a user up to one moment, oldest first, each (L,) int64: rows of the log's names, and times."""

    item: I64
    event_type: I64
    time_ms: I64

    def without(self, click: int) -> "History":
        return History(*(np.delete(column, click) for column in self))


class Judge:
    """Steps histories of one log with one model."""

    def __init__(self, model: Model, log: Log) -> None:
        self._model, self._log, self._because = model, log, Because(model)
        self._items, self._types = item_hashes(log.items), type_hashes(log.event_types)
        self._item = np.array([model.index.get(name, len(model.items)) for name in log.items])
        known = {name: i for i, name in enumerate(model.manifest.event_types)}
        self._type = np.array([known.get(name, len(known)) for name in log.event_types])

    def scores(self, history: History) -> tuple[I64, dict[int, float]]:
        """The model's items after a history, best first, and the log-probability of each."""
        model = self._model
        gap = gap_bucket(_gaps(history), np.arange(len(history.item)) == 0, model.gap_edges_ms)
        new = [np.zeros((1, *part.shape), part.dtype) for part in model.manifest.state]
        after = model.step(self._item[history.item][None], self._type[history.event_type][None], gap[None], new)
        state = dict(zip(model.state_names, (value[:, -1] for value in after), strict=True))
        items, log_probs = model.score([state[name] for name in model.score_inputs], len(model.items))
        return items[0], dict(zip(items[0].tolist(), log_probs[0].tolist(), strict=True))

    def moved(self, history: History, rng: np.random.Generator) -> dict[str, bool] | None:
        """Whether the named click, and the last one, move the first item of the list more than another click does.

        None if no click is named, or all remembered clicks are on one item.
        """
        items, every = self.scores(history)
        first = int(items[0])
        [named] = self._because.of(self._past(history), items[:1], 1)
        remembered = self._item[history.item[-RECENT_ITEMS:]][::-1]  # by clicks ago; unknown items are one
        if not named or len(np.unique(remembered)) == 1:
            return None
        last = len(history.item) - 1

        def fall(clicks_ago: int) -> float:
            return every[first] - self.scores(history.without(last - clicks_ago))[1][first]

        def more(clicks_ago: int) -> bool:
            other = int(rng.choice(np.flatnonzero(remembered != remembered[clicks_ago])))
            return fall(clicks_ago) > fall(other)

        return {"named": more(named[0]["clicks_ago"]), "last click": more(0)}

    def _past(self, history: History) -> Past:
        """What a row remembers of a history."""
        some = slice(-RECENT_ITEMS, None)
        gap_ms = np.where(np.arange(len(history.item)) == 0, NO_GAP, _gaps(history))
        return Past(Names(self._items[history.item[some]], self._types[history.event_type[some]]), gap_ms[some])


def _gaps(history: History) -> I64:
    return np.diff(history.time_ms, prepend=history.time_ms[0])


def histories(log: Log, lengths: range, most: int, rng: np.random.Generator) -> list[History]:
    """Histories of users up to one of their clicks, at most PER_USER of each user, of lengths drawn from `lengths`.

    log   sorted by (user, time)
    most  number of histories
    """
    starts = np.flatnonzero(np.append(True, log.user[1:] != log.user[:-1]))
    found = []
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(log)], strict=True):
        longest = min(end - start, lengths.stop - 1)
        if longest >= lengths.start:
            possible = np.arange(lengths.start, longest + 1)
            for length in rng.choice(possible, min(PER_USER, len(possible)), replace=False).tolist():
                columns = (log.item, log.event_type, log.time_ms)
                found.append(History(*(column[start : start + length].astype(np.int64) for column in columns)))
    return [found[at] for at in rng.permutation(len(found))[:most].tolist()]


def measure(dataset: str, seed: int, most: int, options: list[str]) -> Figures:
    split = split_of(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for name, part in (("train", split.train), ("test", split.test)):
            part.write_parquet(directory / f"{name}.parquet")
        say(f"{dataset}: training")
        model = directory / "model" / "1"
        run_eddy("train", directory / "train.parquet", "--out", model, "--seed", seed, *split.flags, *options)
        log = read_log(directory / "test.parquet")
        judge, rng = Judge(load_model(model, "cpu"), log), np.random.default_rng(seed)
        found: Figures = {}
        for name, lengths in (
            ("all remembered", range(2, RECENT_ITEMS + 1)),
            ("longer", range(RECENT_ITEMS + 1, LONGEST)),
        ):
            chosen = histories(log, lengths, most, rng)
            say(f"{dataset}: judging {len(chosen)} histories, {name}")
            judged = [one for history in chosen if (one := judge.moved(history, rng)) is not None]
            found[name] = {"histories": len(chosen), "judged": len(judged)}
            found[name] |= {
                way: round(float(np.mean([one[way] for one in judged])), 4) if judged else None
                for way in ("named", "last click")
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="taobao-users,retailrocket", help="comma-separated names [%(default)s]")
    parser.add_argument("--histories", type=int, default=500, help="most histories, long and short [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of training and choice [%(default)s]")
    parser.add_argument("--train", default="", help='more options for `eddy train`, such as "--epochs 1"')
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    results = kept(given.out, "results")
    for dataset in given.datasets.split(","):
        results[dataset] = measure(dataset, given.seed, given.histories, shlex.split(given.train))
    failures = [
        f"{dataset}, {name}: {one['named']} of the named clicks move the item more than another; the goal is {GOAL}"
        for dataset, of_log in results.items()
        for name, one in of_log.items()
        if one["named"] is not None and one["named"] < GOAL
    ]
    conditions = {"judged": "the first item of the list", "seed": given.seed, "histories": given.histories}
    report = write_report(given.out, "bench.because", conditions, results, failures)
    print(json.dumps(report) if given.json else json.dumps(results, indent=2))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

"""The held-out slice judged as `eddy evaluate` judges a later log: the same engine, graphs, baselines and figures.

A network that was not trained on the slice becomes a whole model directory for it, with the earlier sessions as the
baselines' and VS-KNN's setting chosen among those; so no method has learned from the slice. Two things were chosen on
it, the network's best epoch and, on every other click, the mixture's gates: report/page.py says so to the reader.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.arrays import F32, I64
from export.dataset.sessions import Visits
from export.evaluate import baselines
from export.evaluate.baselines import choose_vsknn, save_baselines
from export.evaluate.evaluate import evaluate
from export.log.log import Log, Vocabulary
from export.model.directory import Facts, Pools, write_model
from export.network.network import Network
from export.progress import Progress
from stream.errors import ConfigError

LARGEST = 50_000
"""Clicks judged, the earliest of the slice: enough for intervals of a percent, a minute for all methods."""

NEW = "\x00new"
"""Behind the name of an item that the vocabulary has and the network has not learned."""

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Findings:
    """What the training measured, plain enough for JSON.

    epochs       one object for each epoch, with any of loss, recall20, mrr20 beside its `epoch`
    best_epoch   the one that was kept
    held_out     what `evaluate` says of the held-out slice; empty if it was not asked
    vsknn_setting  of the baseline, chosen on the newest of the earlier sessions
    calibration  (alpha, share of later held-out clicks with a p-value of at most alpha, calibrated on the earlier ones)
    ablations    what was left out -> the figures of the lists without it, as ablation.py gives them
    """

    epochs: Sequence[Mapping[str, float]] = ()
    best_epoch: int = 0
    held_out: Mapping[str, Any] = field(default_factory=dict)
    vsknn_setting: Mapping[str, Any] = field(default_factory=dict)
    calibration: Sequence[tuple[float, float]] = ()
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def judge_held_out(
    directory: Path,
    network: Network,
    vocabulary: Vocabulary,
    found: Pools,
    earlier: Visits,
    tail: Log,
    known: set[str],
    watch: Progress,
) -> Findings:
    """How the network and the baselines rank the clicks of the slice, users from a zero state.

    directory  holds the network's graphs; becomes a whole model
    found      what the surprise was calibrated to
    earlier    the sessions before the slice, which the baselines know
    tail       the slice
    known      the items that the network knows: others of the vocabulary are new to it
    """
    setting = choose_vsknn(earlier)
    save_baselines(directory, earlier, setting)
    write_model(directory, network, vocabulary, found, (baselines.FILE,), Facts({}, {}))
    names = [name if name in known else f"{name}{NEW}" for name in tail.items]
    keep = np.zeros(len(tail), np.bool_)
    keep[tail.in_time_order()[:LARGEST]] = True
    try:
        figures = evaluate(directory, replace(tail, items=names).where(keep), exclude_recent=0, watch=watch)
    except ConfigError:  # no session of the slice has two clicks
        figures = {}
    else:
        figures["remarks"] = [line.replace(repr(NEW)[1:-1], "") for line in figures["remarks"]]
    return Findings(held_out=figures, vsknn_setting=asdict(setting))


def calibration_curve(surprise: F32, time_ms: I64) -> list[tuple[float, float]]:
    """How often the later half of the clicks has a p-value of at most alpha, calibrated on the earlier half.

    surprise, time_ms  (n,) of held-out clicks; fewer than 4 give no curve
    returns            (alpha, share) for each alpha of CURVE that a p-value can reach
    """
    order = np.argsort(time_ms, kind="stable")
    earlier, later = np.split(surprise[order], [len(order) // 2])
    if len(earlier) < 2:
        return []
    pool = np.sort(earlier)
    above = len(pool) - np.searchsorted(pool, later, "left")
    p_value = (1 + above) / (1 + len(pool))
    return [(alpha, float((p_value <= alpha).mean())) for alpha in CURVE if alpha >= 1 / (1 + len(pool))]

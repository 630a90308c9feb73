"""Evaluates a network on the held-out slice, with the engine, graphs, baselines and metrics of `eddy evaluate`.

The network was not trained on the slice. It is written as a complete model directory. The baselines have the earlier
sessions, and the setting of VS-KNN is chosen on these, so no method has learned from the slice. Two choices were made
on the slice: the best epoch of the network and, on every second click, the gates of the mixture. The report states it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from export.arrays import F32, I64
from export.dataset.sessions import Sessions
from export.evaluate import baselines
from export.evaluate.baselines import choose_vsknn, save_baselines
from export.evaluate.evaluate import evaluate
from export.log.log import Log, Vocabulary
from export.model.calibrate import Calibrated
from export.model.directory import Facts, write_model
from export.network.network import Network
from export.progress import Progress
from stream.errors import ConfigError
from stream.manifest import Shortlist

LARGEST = 50_000
"""The earliest clicks of the slice that are judged: enough for intervals of a percent, in a minute for all methods."""

NEW = "\x00new"
"""Suffix of the name of an item that is in the vocabulary but not known to the network."""

CURVE = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Findings:
    """The measurements of a training, in types that JSON can encode.

    epochs         one object per epoch, with `epoch` and any of loss, recall20, mrr20
    best_epoch     the epoch whose weights were kept
    held_out       result of `evaluate` on the held-out slice; empty if it was not evaluated
    vsknn_setting  setting of the baseline, chosen on the newest of the earlier sessions
    calibration    (alpha, realised false-alarm rate): calibrated on the earlier half of the held-out clicks, measured
                   on the later half
    ablations      removed part -> metrics of the lists without it, from ablation.py
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
    found: Calibrated,
    earlier: Sessions,
    tail: Log,
    known: set[str],
    watch: Progress,
    shortlist: Shortlist | None,
) -> Findings:
    """Evaluate the network and the baselines on the slice; users start from a zero state.

    directory  has the network's graphs; this function completes it to a model directory
    found      what the detector compares clicks with
    earlier    the sessions before the slice, for the baselines
    tail       the slice
    known      the items with training clicks; all other items of the vocabulary count as unknown
    shortlist  what the directory's shortlist.onnx is, if it has one
    """
    watch.say("choosing the setting of VS-KNN, one of the baselines")
    setting = choose_vsknn(earlier)
    save_baselines(directory, earlier, setting)
    write_model(directory, network, vocabulary, found, (baselines.FILE,), Facts({}, {}), shortlist)
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
    """The realised false-alarm rates: calibrated on the earlier half of the clicks, measured on the later half.

    surprise, time_ms  (n,) of held-out clicks; the curve is empty if n < 4
    returns            (alpha, share of clicks with a p-value of at most alpha), for each alpha of CURVE that is not
                       smaller than the smallest possible p-value
    """
    order = np.argsort(time_ms, kind="stable")
    earlier, later = np.split(surprise[order], [len(order) // 2])
    if len(earlier) < 2:
        return []
    pool = np.sort(earlier)
    above = len(pool) - np.searchsorted(pool, later, "left")
    p_value = (1 + above) / (1 + len(pool))
    return [(alpha, float((p_value <= alpha).mean())) for alpha in CURVE if alpha >= 1 / (1 + len(pool))]

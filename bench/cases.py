"""Networks that are trained without the held-out slice of public logs, and the clicks on which they are evaluated.

Only the training part of each log is read (bench/datasets.py), so the test part is not seen. The weights are saved in
.cache and loaded again for the same clicks, settings and PyTorch version.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.datasets import split_of
from bench.inputs import trained, untrained
from bench.report import ROOT
from export.arrays import F32, F64, I32, I64, Flags
from export.dataset.cooccurrence import session_starts
from export.dataset.windows import Clicks
from export.fit.heads import SurpriseExamples, fitted_surprise, states_before
from export.fit.mixture import mixed
from export.log.log import Log, Vocabulary, read_log
from export.measure.ranking import row_batches
from export.network.network import Network
from export.network.states import memories
from export.network.surprise import SurpriseHead
from export.train.checkpoint import training_key
from export.train.holdout import hold_out, new_items
from export.train.settings import TrainSettings

SCRATCH = ROOT / ".cache" / "heads"
EPOCHS = {"bolcom": 5, "rees46": 4, "yoochoose64": 3, "diginetica": 3}
"""Maximum epochs: enough to show differences between heads, in minutes instead of an hour."""

ALPHAS = (0.05, 0.01, 0.001)
LARGEST = 30_000
"""Maximum clicks evaluated, the earliest ones: the exact softmax costs O(V) per click."""


class Case(NamedTuple):
    """A network, and the clicks on which its heads are fitted and evaluated.

    learned  the training clicks
    weight   (n,) float64, weight of each training click
    judged   all clicks of the users of the held-out slice
    later    bool, True for the clicks of `judged` that are evaluated
    ids      (m,) int32, items of the evaluated clicks, before new items were replaced by the unknown item
    live     count of new items that exist at the same time (holdout.new_items)
    """

    network: Network
    vocabulary: Vocabulary
    learned: Clicks
    weight: F64
    judged: Clicks
    later: Flags
    ids: I32
    live: int


def case_of(dataset: str, seed: int, reuse: bool) -> Case:
    split = split_of(dataset)
    directory = SCRATCH / dataset
    directory.mkdir(parents=True, exist_ok=True)
    split.train.write_parquet(directory / "train.parquet")
    log = read_log(directory / "train.parquet", in_order="--in-order" in split.flags)
    return held_out_case(log, directory, EPOCHS[dataset], seed, reuse)


def held_out_case(log: Log, directory: Path, epochs: int, seed: int, reuse: bool) -> Case:
    """Split and train (steps 1 and 2 of export/pipeline.py); the weights are saved in `directory`."""
    held_out = hold_out(log)
    clicks, head, seen = held_out.clicks, held_out.head, held_out.seen
    settings = TrainSettings.for_log(len(clicks), None, epochs, seed)
    key = training_key(log, held_out.category, asdict(settings), None)
    path = directory / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    if reuse and path.is_file():
        network = untrained(held_out, settings)
        with np.load(path) as file:
            network.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files})
    else:
        network = trained(held_out, settings)
        np.savez(path, **{name: value.numpy() for name, value in network.state_dict().items()})
    served = mixed(network, held_out, seed)
    later = earliest(seen.time_ms, seen.time_ms >= held_out.cut_ms)
    ids = clicks.item[np.isin(clicks.user, seen.user)][later]
    weight = served.recency.weights(head.time_ms)
    return Case(served.network, held_out.vocabulary, head, weight, seen, later, ids, new_items(clicks))


def earliest(time_ms: I64, among: Flags) -> Flags:
    """(n,) bool, True for the earliest clicks where `among` (n,) is True, at most LARGEST."""
    rows = np.flatnonzero(among)
    chosen = rows[np.argsort(time_ms[rows], kind="stable")[:LARGEST]]
    return np.isin(np.arange(len(time_ms)), chosen)


@torch.no_grad()
def surprises(network: Network, head: nn.Module, clicks: Clicks, rows: I64) -> tuple[F32, F32]:
    """Surprises (m,), nats, of the clicks at rows (m,), ascending: of the head alone, and of the mixture as served."""
    states = states_before(network, clicks, rows)
    remembered = memories(clicks, rows[states.has_preceding.numpy()] - 1, network.mixture.remembered)
    recent, session = (torch.zeros(len(rows), part.shape[1], dtype=torch.int32) for part in remembered)
    recent[states.has_preceding], session[states.has_preceding] = (torch.from_numpy(part) for part in remembered)
    begins = torch.from_numpy(session_starts(clicks)[rows])
    session[begins] = 0  # such a click has no earlier clicks in its session
    item, _, _ = clicks.inputs(rows)
    alone, served = [], []
    for some in row_batches(len(rows), network.sizes.items):
        own = head(item[some], states.at(some)).view(-1, 1)
        alone.append(-torch.log(own[:, 0] + 1e-30))
        served.append(network.mixture.surprise(own, item[some], recent[some], session[some]))
    return torch.cat(alone).numpy(), torch.cat(served).numpy()


def two_levels(case: Case, examples: SurpriseExamples, clusters: I64, seed: int) -> SurpriseHead:
    return fitted_surprise(case.network, examples, clusters, case.live, torch.Generator().manual_seed(seed))


def mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None

"""Checks that four implementations of a model agree on every click of a log.

The implementations: PyTorch on whole sequences (the reference), PyTorch step by step, the ONNX graphs step by step, and
the serving engine. Compared are the surprise of each click, the 20 best items after it, and their log-probabilities.
Two lists are equal if they have the same items in the same order. Items whose log-probabilities differ by less than
twice the tolerance may be swapped, because float32 can rank them either way. Exit code 1 if a difference is larger.

    python -m bench.graph_parity MODEL LOG [--item-col NAME ...] [--json]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bench.report import RESULTS, write_report
from export.arrays import F64, I64
from export.dataset.windows import Clicks, Windows, birth_period, encode
from export.evaluate.columns import log_columns
from export.log.log import ColumnNames, Log, Vocabulary, read_log
from export.measure.metrics import K
from export.model.graph import BATCH_MULTIPLE, CLICK, SCORE_STATE, ClickGraphs, open_graph, score_state
from export.model.parity import TOLERANCE
from export.network.mixture import session_before
from export.network.network import Network, Step, Surprise
from export.network.states import memories, outputs
from export.network.weights import load_network
from export.ranking.exact import Score
from stream.errors import EddyError
from stream.model.runtime import Model, load_model
from stream.worker.served import open_engine

RESULT = RESULTS / "graph_parity.json"
ROWS = 1024
"""Number of states that PyTorch scores in one batch: their logits over the catalogue must fit into memory."""


class Outputs(NamedTuple):
    """The results of one implementation for n clicks, in the order of `Clicks`.

    surprise   (n,) nats, of each click under the state before it
    items      (n, k) int64, best first, from the state after the click
    log_probs  (n, k) nats
    """

    surprise: NDArray[np.floating[Any]]
    items: I64
    log_probs: NDArray[np.floating[Any]]

    @classmethod
    def empty(cls, count: int, k: int) -> "Outputs":
        return cls(np.empty(count), np.empty((count, k), np.int64), np.empty((count, k)))


@torch.no_grad()
def by_sequences(network: Network, clicks: Clicks) -> tuple[tuple[torch.Tensor, ...], F64]:
    """PyTorch on whole sequences: the inputs of score.onnx after each click (n, ...), and the surprise of each (n,)."""
    every = np.arange(len(clicks))
    remembered = (torch.from_numpy(part) for part in memories(clicks, every, network.mixture.remembered))
    after = (outputs(network, Windows(clicks), every), *remembered)
    first = torch.from_numpy(np.append(True, clicks.user[1:] != clicks.user[:-1])).unsqueeze(1)
    out, recent, session = (torch.where(first, torch.zeros_like(part), part.roll(1, dims=0)) for part in after)
    item = torch.from_numpy(clicks.item).long()
    own = session_before(torch.from_numpy(clicks.gap).long(), session)
    parts = [
        network.mixture.surprise(network.surprise(item[rows], out[rows]), item[rows], recent[rows], own[rows]).numpy()
        for rows in _chunks(len(clicks))
    ]
    return after, np.concatenate(parts).astype(np.float64)


@torch.no_grad()
def by_steps(network: Network, clicks: Clicks, k: int) -> Outputs:
    """PyTorch step by step: the modules from which the graphs are exported, one click of each user at a time."""
    step, judge, score = Step(network).eval(), Surprise(network).eval(), Score(network).eval()
    found = Outputs.empty(len(clicks), k)
    states = network.zero_state(_users(clicks))
    for rows, users in _by_ordinal(clicks):
        ids = clicks.inputs(rows)
        before = tuple(part[users] for part in states)
        (surprise, _), after = judge(*ids, *score_state(before)), step(*ids, *before)
        for part, value in zip(states, after, strict=True):
            part[users] = value
        items, log_probs = score(after[0], *after[-2:], torch.tensor([k]))
        found.surprise[rows], found.items[rows], found.log_probs[rows] = surprise, items, log_probs
    return found


def by_graphs(directory: Path, network: Network, clicks: Clicks, k: int) -> Outputs:
    """The ONNX graphs without the engine, one click of each user at a time, in batches unlike the engine's."""
    graphs, score = ClickGraphs(directory), open_graph(directory / "score.onnx")
    found = Outputs.empty(len(clicks), k)
    names = [part.name for part in network.state]
    states = [part.numpy() for part in network.zero_state(_users(clicks))]
    for rows, users in _by_ordinal(clicks):
        pad = (0, -len(rows) % BATCH_MULTIPLE)
        columns = {name: np.pad(getattr(clicks, name).astype(np.int64)[rows], pad) for name in CLICK}
        before = {name: np.pad(part[users], (pad, (0, 0))) for name, part in zip(names, states, strict=True)}
        surprise, _, after = graphs(columns, before)
        for part, value in zip(states, after, strict=True):
            part[users] = value[: len(rows)]
        read = {name: part[: len(rows)] for name, part in zip(names, after, strict=True) if name in SCORE_STATE}
        items, log_probs = score.run(None, {**read, "k": np.array([k])})
        found.surprise[rows], found.items[rows], found.log_probs[rows] = surprise[: len(rows)], items, log_probs
    return found


def by_engine(directory: Path, model: Model, log: Log, k: int, seed: int = 0) -> Outputs:
    """The worker's engine on the log in time order, with all users interleaved, in cycles of 1 to 1,000 clicks."""
    engine = open_engine(model, directory, k=k, exclude_recent=0, alpha=0.001, forget_after_days=0)
    found, order, rng = Outputs.empty(len(log), k), log.in_time_order(), np.random.default_rng(seed)
    clicks = log_columns(log, engine.encoder)
    start = 0
    while start < len(log):
        end = min(start + int(rng.integers(1, 1_001)), len(log))
        cycle = engine.process(clicks.take(np.arange(start, end)), now_ms=int(clicks.time_ms[end - 1]))
        engine.commit(cycle)
        rows, decided = order[start:end], cycle.decisions
        found.surprise[rows], found.items[rows], found.log_probs[rows] = (
            decided.surprise,
            decided.lists.items,
            decided.lists.log_probs,
        )
        start = end
    return found


def _users(clicks: Clicks) -> int:
    return len(np.unique(clicks.user))


def _ordinals(clicks: Clicks) -> tuple[I64, I64]:
    """For each click (n,): its index among the clicks of its user, and the number of its user."""
    first = np.append(True, clicks.user[1:] != clicks.user[:-1])
    starts = np.flatnonzero(first)
    user = np.cumsum(first) - 1
    return np.arange(len(clicks)) - starts[user], user


def _by_ordinal(clicks: Clicks) -> Iterator[tuple[NDArray[np.intp], I64]]:
    """Yield the first clicks of all users, then all second clicks, ...: rows of the clicks, numbers of the users."""
    ordinal, user = _ordinals(clicks)
    order = np.argsort(ordinal, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(ordinal))[:-1]):
        yield rows, user[rows]


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))


class Difference(NamedTuple):
    """The differences between one implementation and PyTorch on whole sequences.

    log_prob     nats, largest difference in the log-probability of a listed item
    surprise     nats, largest difference in the surprise of a click
    reordered    number of clicks whose list differs only by items within the tolerance
    wrong_lists  number of clicks whose list differs by more
    """

    log_prob: float
    surprise: float
    reordered: int
    wrong_lists: int

    def within(self, tolerance: float) -> bool:
        return self.log_prob <= tolerance and self.surprise <= tolerance and not self.wrong_lists


def exact_model(directory: Path) -> Model:
    """The model with score.onnx, also where a worker on a CPU runs shortlist.onnx: bench.rounded compares the two."""
    return replace(load_model(directory, "cpu"), _score=open_graph(directory / "score.onnx"))


@torch.no_grad()
def differences(network: Network, log: Log, vocabulary: Vocabulary, directory: Path) -> dict[str, Difference]:
    """Compare each implementation with PyTorch on whole sequences, over every click of the log."""
    clicks = encode(log, vocabulary, birth_period(log.time_ms))
    k = min(K, len(vocabulary.items))
    after, surprise = by_sequences(network, clicks)
    found = {
        "torch steps": by_steps(network, clicks, k),
        "ONNX steps": by_graphs(directory, network, clicks, k),
        "engine": by_engine(directory, exact_model(directory), log, k),
    }
    listed = {name: np.empty((len(clicks), k)) for name in found}
    reference = Outputs.empty(len(clicks), k)
    for rows in _chunks(len(clicks)):
        whole = network.log_probs(*(part[rows] for part in after))
        best = torch.topk(whole, k)
        reference.items[rows], reference.log_probs[rows] = best.indices, best.values
        for name, one in found.items():
            listed[name][rows] = whole.gather(1, torch.from_numpy(one.items[rows]))
    reference = reference._replace(surprise=surprise)
    return {name: _difference(one, reference, listed[name]) for name, one in found.items()}


def _difference(one: Outputs, reference: Outputs, listed: F64) -> Difference:
    """Compare one implementation with the reference.

    listed  (n, k) log-probabilities by the reference of the items that the implementation lists
    """
    differs = one.items != reference.items
    far = differs & (np.abs(listed - reference.log_probs) > 2 * TOLERANCE)
    return Difference(
        float(np.abs(one.log_probs - listed).max()),
        float(np.abs(one.surprise - reference.surprise).max()),
        int((differs.any(1) & ~far.any(1)).sum()),
        int(far.any(1).sum()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="directory written by `eddy train`")
    parser.add_argument("log", type=Path, help="click log; every click is compared")
    for name in ColumnNames._fields:
        parser.add_argument(f"--{name}-col", help=f"name of the log's {name} column")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        names = ColumnNames(*(getattr(given, f"{name}_col") for name in ColumnNames._fields))
        log, model = read_log(given.log, names), load_model(given.model, "cpu")
        vocabulary = Vocabulary(model.items, model.manifest.event_types, model.manifest.gap_edges_ms)
        found = differences(load_network(given.model), log, vocabulary, given.model)
    except EddyError as exc:
        print(f"graph_parity: {exc}", file=sys.stderr)
        return 2
    wrong = [f"{name}: {one._asdict()}" for name, one in found.items() if not one.within(TOLERANCE)]
    conditions = {
        "data": given.log.name,
        "clicks": len(log),
        "users": len(np.unique(log.user)),
        "items": len(model.items),
        "cell": model.manifest.cell,
        "hidden": model.manifest.state[0].shape[0],
        "reference": "torch on whole sequences, float32",
        "tolerance": TOLERANCE,
    }
    results = {name: one._asdict() for name, one in found.items()}
    report = write_report(given.out, "bench.graph_parity", conditions, results, wrong)
    print(f"{'':12}{'log-prob':>10}{'surprise':>10}{'reordered':>11}{'wrong':>7}   of {len(log):,} clicks")
    for name, one in found.items():
        print(f"{name:12}{one.log_prob:>10.1e}{one.surprise:>10.1e}{one.reordered:>11,}{one.wrong_lists:>7,}")
    if given.json:
        print(json.dumps(report))
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

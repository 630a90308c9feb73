"""One model, one log, four ways: torch on whole sequences = torch steps = ONNX steps = the serving engine, per click.

Every click of the log is judged: the surprise it came with, the 20 best items after it and their log-probabilities. Two
lists are the same if they hold the same items in the same order, but for neighbours whose log-probabilities lie within
twice the tolerance of each other: float32 may order those either way. Exit code 1 where a way differs by more.

    python -m bench.graph_parity MODEL LOG [--item-col NAME ...] [--json]
"""

import argparse
import json
import sys
from collections.abc import Iterator
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
from export.model.graph import BATCH_MULTIPLE, SCORE_STATE, open_graph
from export.model.parity import TOLERANCE
from export.network.mixture import visit_so_far
from export.network.network import Network, Score, Step
from export.network.states import memories, outputs
from export.network.weights import load_network
from stream.errors import EddyError
from stream.model.runtime import Model, load_model
from stream.worker.served import open_engine

RESULT = RESULTS / "graph_parity.json"
ROWS = 1024
"""States scored at a time by torch: their logits over the catalogue must fit."""


class Ways(NamedTuple):
    """What one way says of n clicks, in the order of `Clicks`.

    surprise   (n,) nats, of the click under the state before it
    items      (n, k) int64, best first, of the state after it
    log_probs  (n, k)
    """

    surprise: NDArray[np.floating[Any]]
    items: I64
    log_probs: NDArray[np.floating[Any]]

    @classmethod
    def empty(cls, count: int, k: int) -> "Ways":
        return cls(np.empty(count), np.empty((count, k), np.int64), np.empty((count, k)))


@torch.no_grad()
def by_sequences(network: Network, clicks: Clicks) -> tuple[tuple[torch.Tensor, ...], F64]:
    """What score.onnx reads after each click (n, ...), from whole sequences, and the surprise of each click (n,)."""
    every = np.arange(len(clicks))
    remembered = (torch.from_numpy(part) for part in memories(clicks, every))
    after = (outputs(network, Windows(clicks), every), *remembered)
    first = torch.from_numpy(np.append(True, clicks.user[1:] != clicks.user[:-1])).unsqueeze(1)
    out, recent, visit = (torch.where(first, torch.zeros_like(part), part.roll(1, dims=0)) for part in after)
    item = torch.from_numpy(clicks.item).long()
    own = visit_so_far(torch.from_numpy(clicks.gap).long(), visit)
    parts = [
        network.mixture.surprise(network.surprise(item[rows], out[rows]), item[rows], recent[rows], own[rows]).numpy()
        for rows in _chunks(len(clicks))
    ]
    return after, np.concatenate(parts).astype(np.float64)


@torch.no_grad()
def by_steps(network: Network, clicks: Clicks, k: int) -> Ways:
    """The modules that become the graphs, run by torch itself, click after click."""
    step, score, ways = Step(network).eval(), Score(network).eval(), Ways.empty(len(clicks), k)
    states = network.zero_state(_users(clicks))
    for rows, users in _by_ordinal(clicks):
        ids = clicks.inputs(rows)
        surprise, *after = step(*ids, *(part[users] for part in states))
        for part, value in zip(states, after, strict=True):
            part[users] = value
        items, log_probs, _ = score(after[0], *after[-2:], torch.tensor([k]))
        ways.surprise[rows], ways.items[rows], ways.log_probs[rows] = surprise, items, log_probs
    return ways


def by_graphs(directory: Path, network: Network, clicks: Clicks, k: int) -> Ways:
    """step.onnx and score.onnx by hand, click after click, in batches of users that the engine would not form."""
    step, score = open_graph(directory / "step.onnx"), open_graph(directory / "score.onnx")
    ways = Ways.empty(len(clicks), k)
    names = [part.name for part in network.state]
    states = [part.numpy() for part in network.zero_state(_users(clicks))]
    for rows, users in _by_ordinal(clicks):
        pad = (0, -len(rows) % BATCH_MULTIPLE)
        columns = {name: getattr(clicks, name).astype(np.int64) for name in ("item", "event_type", "gap")}
        feed = {name: np.pad(column[rows], pad) for name, column in columns.items()}
        feed |= {name: np.pad(part[users], (pad, (0, 0))) for name, part in zip(names, states, strict=True)}
        surprise, *after = step.run(None, feed)
        for part, value in zip(states, after, strict=True):
            part[users] = value[: len(rows)]
        read = {name: part[: len(rows)] for name, part in zip(names, after, strict=True) if name in SCORE_STATE}
        items, log_probs, _ = score.run(None, {**read, "k": np.array([k])})
        ways.surprise[rows], ways.items[rows], ways.log_probs[rows] = surprise[: len(rows)], items, log_probs
    return ways


def by_engine(directory: Path, model: Model, log: Log, k: int, seed: int = 0) -> Ways:
    """The worker's engine on the log in time order, users interleaved, in cycles of 1 to 1,000 clicks."""
    engine = open_engine(model, directory, k=k, exclude_recent=0, alpha=0.001)
    ways, order, rng = Ways.empty(len(log), k), log.in_time_order(), np.random.default_rng(seed)
    clicks = log_columns(log, engine.encoder)
    start = 0
    while start < len(log):
        end = min(start + int(rng.integers(1, 1_001)), len(log))
        cycle = engine.process(clicks.take(np.arange(start, end)), now_ms=int(clicks.time_ms[end - 1]))
        engine.commit(cycle)
        rows, decided = order[start:end], cycle.decisions
        ways.surprise[rows], ways.items[rows], ways.log_probs[rows] = (
            decided.surprise,
            decided.lists.items,
            decided.lists.log_probs,
        )
        start = end
    return ways


def _users(clicks: Clicks) -> int:
    return len(np.unique(clicks.user))


def _ordinals(clicks: Clicks) -> tuple[I64, I64]:
    """Of each click: the how many-th of its user it is, and its user's number."""
    first = np.append(True, clicks.user[1:] != clicks.user[:-1])
    starts = np.flatnonzero(first)
    user = np.cumsum(first) - 1
    return np.arange(len(clicks)) - starts[user], user


def _by_ordinal(clicks: Clicks) -> Iterator[tuple[NDArray[np.intp], I64]]:
    """All users' first clicks, then all second ones ...: rows of the clicks, numbers of the users."""
    ordinal, user = _ordinals(clicks)
    order = np.argsort(ordinal, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(ordinal))[:-1]):
        yield rows, user[rows]


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + ROWS) for start in range(0, count, ROWS))


class Difference(NamedTuple):
    """One way against torch on whole sequences.

    log_prob         largest difference (nats) in the log-probability of an item of a list
    surprise         largest difference (nats) in the surprise of a click
    reordered        clicks whose list differs by neighbours that are too near to each other to tell apart
    wrong_lists      clicks whose list differs by more than that
    """

    log_prob: float
    surprise: float
    reordered: int
    wrong_lists: int

    def within(self, tolerance: float) -> bool:
        return self.log_prob <= tolerance and self.surprise <= tolerance and not self.wrong_lists


@torch.no_grad()
def differences(network: Network, log: Log, vocabulary: Vocabulary, directory: Path) -> dict[str, Difference]:
    """Each of the other three ways against torch on whole sequences, over every click of the log."""
    clicks = encode(log, vocabulary, birth_period(log.time_ms))
    k = min(K, len(vocabulary.items))
    after, surprise = by_sequences(network, clicks)
    ways = {
        "torch steps": by_steps(network, clicks, k),
        "ONNX steps": by_graphs(directory, network, clicks, k),
        "engine": by_engine(directory, load_model(directory, "cpu"), log, k),
    }
    of_lists = {name: np.empty((len(clicks), k)) for name in ways}
    reference = Ways.empty(len(clicks), k)
    for rows in _chunks(len(clicks)):
        whole = network.log_probs(*(part[rows] for part in after))
        best = torch.topk(whole, k)
        reference.items[rows], reference.log_probs[rows] = best.indices, best.values
        for name, way in ways.items():
            of_lists[name][rows] = whole.gather(1, torch.from_numpy(way.items[rows]))
    return {name: _difference(way, reference._replace(surprise=surprise), of_lists[name]) for name, way in ways.items()}


def _difference(way: Ways, reference: Ways, of_list: F64) -> Difference:
    """of_list (n, k): the reference's log-probability of each item that the way lists."""
    other = way.items != reference.items
    far = other & (np.abs(of_list - reference.log_probs) > 2 * TOLERANCE)
    return Difference(
        float(np.abs(way.log_probs - of_list).max()),
        float(np.abs(way.surprise - reference.surprise).max()),
        int((other.any(1) & ~far.any(1)).sum()),
        int(far.any(1).sum()),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="directory written by `eddy train`")
    parser.add_argument("log", type=Path, help="the log whose every click is judged")
    for name in ColumnNames._fields:
        parser.add_argument(f"--{name}-col", help=f"the log's column of the {name}")
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
    wrong = [f"{way}: {found[way]._asdict()}" for way in found if not found[way].within(TOLERANCE)]
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
    results = {way: difference._asdict() for way, difference in found.items()}
    report = write_report(given.out, "bench.graph_parity", conditions, results, wrong)
    print(f"{'':12}{'log-prob':>10}{'surprise':>10}{'reordered':>11}{'wrong':>7}   of {len(log):,} clicks")
    for way, d in found.items():
        print(f"{way:12}{d.log_prob:>10.1e}{d.surprise:>10.1e}{d.reordered:>11,}{d.wrong_lists:>7,}")
    if given.json:
        print(json.dumps(report))
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

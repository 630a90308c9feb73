"""The parity check of a model: its ONNX graphs must compute the same values as torch.

The rule: torch on a whole sequence = torch step by step = ONNX step by step = ONNX on a whole sequence. If they differ,
manifest.json is not written, and a directory without manifest.json is not a model.
"""

from pathlib import Path

import numpy as np
import torch

from export.ahead.network import AheadHead
from export.arrays import F32
from export.measure.metrics import K
from export.model.graph import CLICK, SCORE_STATE, ClickGraphs, open_graph, score_state
from export.network.network import Network, Step, Surprise
from export.ranking.shortlist import Ranking
from stream.errors import ArtifactError
from stream.manifest import AHEAD, SHORTLIST
from stream.model.ahead import INPUTS

TOLERANCE = 1e-5
"""Largest difference in log-probability (nats) between torch and ONNX; both compute in float32."""

ROUNDED = 0.02
"""The same for a list of shortlist.onnx one of whose outputs was rounded to another byte."""

SHORTEST = 0.01
"""Shortest length of h that widens the tolerance further."""


def check_parity(directory: Path, network: Network, users: int = 16, clicks: int = 24, seed: int = 0) -> None:
    """Compare torch sequence, torch steps, ONNX steps and ONNX sequence: surprise, state, log-probabilities, top 20.

    The inputs are random clicks. The heads read the direction of h, and rounding errors change the direction of a short
    h more. If the shortest h has a length below 1, as in a network of four units, the tolerance is divided by it.

    Raises ArtifactError with the name and the size of the difference.
    """
    rng = np.random.default_rng(seed)
    sizes = network.sizes
    item = rng.integers(0, sizes.items + 1, (users, clicks))
    event_type = rng.integers(0, sizes.event_types + 1, (users, clicks))
    gap = rng.integers(0, sizes.gaps, (users, clicks))
    graphs, score = ClickGraphs(directory), open_graph(directory / "score.onnx")
    k = min(K, sizes.items)
    names = [part.name for part in network.state]
    torch_step, torch_surprise = Step(network).eval(), Surprise(network).eval()
    with torch.no_grad():
        x = network.embed(*(torch.from_numpy(column) for column in (item, event_type, gap)))
        outs, _ = network.cell.sequence(x, network.cell.zero_state(users))
        unsure = max(1.0, 1 / float(outs.norm(dim=2).min().clamp(min=SHORTEST)))
        torch_state = network.zero_state(users)
        onnx_state = [part.numpy() for part in torch_state]
        for t in range(clicks):
            columns = dict(zip(CLICK, (item[:, t], event_type[:, t], gap[:, t]), strict=True))
            ids = {name: torch.from_numpy(column) for name, column in columns.items()}
            surprises = torch_surprise(*ids.values(), *score_state(torch_state))
            torch_state = torch_step(*ids.values(), *torch_state)
            *got, onnx_state = graphs(columns, dict(zip(names, onnx_state, strict=True)))
            for ours, theirs in zip(got, surprises, strict=True):
                _same(directory, "surprise", ours, theirs.numpy(), unsure)
            for name, ours, theirs in zip(names, onnx_state, torch_state, strict=True):
                _same(directory, f"state {name}", ours, theirs.numpy())
            _same(directory, "state over the sequence", onnx_state[0], outs[:, t].numpy())
            feed = dict(zip(SCORE_STATE, score_state(tuple(onnx_state)), strict=True))
            items, log_probs = score.run(None, {**feed, "k": np.array([k])})
            expected = network.log_probs(network.output(outs[:, t]), *torch_state[-2:])
            # Both checks together: the same top k, except for items whose log-probabilities differ by the tolerance.
            _same(directory, f"top {k} log-probability", log_probs, torch.topk(expected, k).values.numpy(), unsure)
            _same(directory, f"top {k} items", log_probs, expected.gather(1, torch.from_numpy(items)).numpy(), unsure)
        sequence = dict(zip(CLICK, (item, event_type, gap), strict=True))
        zeros = {name: part.numpy() for name, part in zip(names, network.zero_state(users), strict=True)}
        whole = open_graph(directory / "step.onnx").run(None, {**sequence, **zeros})
        for name, ours, theirs in zip(names, whole, onnx_state, strict=True):
            _same(directory, f"state {name} over the sequence", ours[:, -1], theirs)


@torch.no_grad()
def check_shortlist(
    directory: Path, network: Network, ranking: Ranking, users: int = 16, clicks: int = 24, seed: int = 0
) -> None:
    """Compare shortlist.onnx with its torch module, whose lists are not the exact ones, after random clicks.

    An output on the edge between two bytes may be rounded either way, so a few lists may differ by ROUNDED. What the
    module loses against exact lists is measured apart (fit/shortlist.py).

    Raises ArtifactError with the size of the difference.
    """
    rng, sizes = np.random.default_rng(seed), network.sizes
    graph, step, k = open_graph(directory / SHORTLIST), Step(network).eval(), torch.tensor([min(K, sizes.items)])
    state, differences = network.zero_state(users), []
    for _ in range(clicks):
        bounds = (sizes.items + 1, sizes.event_types + 1, sizes.gaps)
        state = step(*(torch.from_numpy(rng.integers(0, bound, users)) for bound in bounds), *state)
        read = score_state(state)
        feed = {name: part.numpy() for name, part in zip((*SCORE_STATE, "k"), (*read, k), strict=True)}
        log_probs, theirs = graph.run(None, feed)[1], ranking(*read, k)[1].numpy()
        differences.append(np.abs(log_probs - theirs).max(axis=1))
    found = np.concatenate(differences)
    typical, worst = float(np.quantile(found, 0.9)), float(found.max())
    if not (typical <= 10 * TOLERANCE and worst <= ROUNDED):
        raise ArtifactError(
            f"model {directory}: the log-probabilities of {SHORTLIST} differ by {worst:.2g} between torch and ONNX "
            f"(allowed {ROUNDED:g}, and {10 * TOLERANCE:g} for nine lists of ten); no manifest was written, so the "
            "directory is not a model"
        )


@torch.no_grad()
def check_ahead(directory: Path, head: AheadHead, clicks: int = 512, seed: int = 0) -> None:
    """Compare ahead.onnx with its torch module on random counters, small and large.

    Raises ArtifactError with the name and the size of the difference.
    """
    rng = np.random.default_rng(seed)
    counters = np.exp(rng.uniform(0, 12, (clicks, head.counters))).round().astype(np.float32)
    event_type = rng.integers(0, head.event_types + 1, clicks)
    [found] = open_graph(directory / AHEAD).run(None, dict(zip(INPUTS, (counters, event_type), strict=True)))
    expected = head(torch.from_numpy(counters), torch.from_numpy(event_type)).numpy()
    _same(directory, f"a probability of {AHEAD}", found, expected, 10)  # exp and log of sums, of counters up to 160,000


def _same(directory: Path, what: str, ours: F32, theirs: F32, unsure: float = 1.0) -> None:
    worst = float(np.abs(ours - theirs).max())
    if not worst <= TOLERANCE * unsure * max(1.0, float(np.abs(theirs).max()) / 4):
        raise ArtifactError(
            f"model {directory}: {what} differs by {worst:.2g} between torch and ONNX (allowed {TOLERANCE:g}); "
            "no manifest was written, so the directory is not a model"
        )

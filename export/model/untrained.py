"""A complete model with random weights, for tests and trials of the worker."""

from pathlib import Path

import numpy as np
import torch

from export.ahead.network import AheadHead, layout
from export.ahead.upcoming import EDGES_MS
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model.calibrate import Calibrated
from export.model.directory import Facts, write_model
from export.model.onnx import write_graphs
from export.model.trace import Traces
from export.network.mixture import AGES, Mixture
from export.network.network import Network, Sizes
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count
from stream.detect.behaviour import Behaviour
from stream.detect.pvalue import ALL, HISTORIES, pool_name
from stream.detect.statistics import FILLS, STATISTICS
from stream.detect.tail import Tail
from stream.detect.windows import LAST
from stream.manifest import Ahead, Manifest, Shortlist


def write_untrained(
    directory: Path,
    items: list[str],
    event_types: list[str],
    hidden: int = 16,
    seed: int = 0,
    cell: str = "lstm",
    remembered: int = AGES,
    ranked: int | None = None,
    ahead: Ahead | None = None,
) -> Manifest:
    """Write a complete model directory with random weights and synthetic calibration pools.

    ranked  write a shortlist of so many items too (fit/shortlist.py); there are no clicks that choose it
    ahead   write ahead.onnx too, and this of it into the manifest
    """
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(items=list(items), event_types=tuple(event_types), gap_edges_ms=GAP_EDGES_MS)
    sizes = Sizes(len(items), len(event_types), len(GAP_EDGES_MS) + 2, hidden, cell)
    network = untrained_network(sizes, rng, seed, remembered)
    shortlist = None if ranked is None else Shortlist(ranked, 0.0, 0)
    head = None if ahead is None else untrained_head(len(event_types), seed)
    write_graphs(directory, network, vocabulary, Traces(), shortlist, head)
    mean = float(np.log(len(items) + 1))
    names = [ALL, *(pool_name(event_type, history) for event_type in event_types for history in (None, *HISTORIES))]
    pools = {name: Tail.fit(rng.normal(mean, 0.5, 20_000).astype(np.float32)) for name in names}
    calibration = Calibrated(pools, _behaviour(rng, len(event_types)), rng.integers(-1, 5, len(items)), None)
    facts = Facts({"untrained": True, "seed": seed}, {})
    return write_model(
        directory,
        network,
        vocabulary,
        calibration,
        (),
        facts,
        shortlist,
        ahead=ahead,
    )


def untrained_network(sizes: Sizes, rng: np.random.Generator, seed: int = 0, remembered: int = AGES) -> Network:
    """A network with random weights and all its heads. rng draws the neighbours, seed the weights."""
    torch.manual_seed(seed)
    items = sizes.items
    network = Network(sizes)
    with torch.no_grad():
        for rows in (network.event_rows, network.gap_rows):
            rows.normal_(std=0.5)
    known = network.item_rows[:-1].detach()
    clusters = balanced_clusters(known.numpy(), cluster_count(items), seed)
    network.surprise = SurpriseHead(clusters, known, network.item_bias[:-1], new_items=10)
    near = rng.integers(0, items, (2, items + 2, NEIGHBOURS), np.int32)
    share = rng.dirichlet(np.ones(NEIGHBOURS + 1), (2, items + 2))[..., 1:].astype(np.float32)
    share[:, [0, -1]] = 0.0
    following, around = (Neighbours(*table, np.ones(items + 2, np.float32)) for table in zip(near, share, strict=True))
    network.mixture = Mixture(Counted(following, around, np.ones(items)), remembered)
    network.mixture.gates[0] = -3.0
    return network


def untrained_head(event_types: int, seed: int) -> AheadHead:
    """A head of ahead.onnx with random weights, whose outputs depend on all its inputs."""
    generator = torch.Generator().manual_seed(seed)
    width, units, logits = layout(event_types)["timers"].stop, 96, event_types + 1 + len(EDGES_MS) + 1
    served = event_types + 1 + 3
    sizes = {
        "hidden": (units, width), "hidden_bias": (units,), "linear": (logits, width), "bias": (logits,),
        "out": (logits, units), "mean": (width,), "offset": (served,), "table": (event_types + 1, served),
    }  # fmt: skip
    drawn = {name: torch.randn(size, generator=generator) * 0.2 for name, size in sizes.items()}
    half, scale, timers = torch.full((served,), 0.5), torch.full((width,), 0.5), torch.tensor([60.0, 30.0, 1.0, -1.0])
    return AheadHead(event_types, **drawn, scale=scale, timers=timers, slope=half + 0.5, trust=half).eval()


def _behaviour(rng: np.random.Generator, event_types: int, clicks: int = 60_000) -> Behaviour:
    """The calibration of statistics as they are for random clicks half a minute apart, four in a session."""
    values = {
        "clicks": rng.exponential(1.0, clicks),
        "event types": rng.gamma(LAST, np.log(event_types + 1), clicks),
        "regular gaps": rng.normal(0.0, 3.0, clicks),
        "rate": rng.normal(0.0, 5.0, clicks),
        "one item": 1 + rng.binomial(LAST - 1, 0.2, clicks),
        "twins": rng.binomial(LAST - 1, 0.05, clicks),
        "category run": rng.geometric(0.5, clicks),
        "steady pace": rng.normal(0.0, 3.0, clicks),
    }
    number = np.arange(clicks)
    columns = np.stack([values[name] for name in STATISTICS], axis=1).astype(np.float32)
    return Behaviour.fit(columns, number % FILLS, number // 4, number // 4 % 2)

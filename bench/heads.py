"""Compares the two-level surprise head with the exact softmax that it approximates, by clusters and new-item share.

Each network is trained on the training part of a log without its held-out slice, as in the first training of `eddy
train`. It is evaluated on the slice: likelihood, calibration (the earlier half of the slice calibrates the later half)
and CPU time of surprise.onnx. The test parts of the logs are not read.

    python -m bench.heads [--datasets bolcom,rees46,yoochoose64,diginetica] [--seeds 0,1,2] [--reuse] [--json]

--reuse loads the networks that an earlier run saved for the same clicks, settings and PyTorch version.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.cases import ALPHAS, EPOCHS, LARGEST, Case, case_of, mean, surprises, two_levels
from bench.command import say
from bench.cpu import cpu_us, memory, running
from bench.new_items import SCRAPED, unknown_items
from bench.report import RESULTS, Figures, kept, write_report
from export.arrays import F32, I64
from export.dataset.windows import Windows, drawn
from export.evaluate.held_out import calibration_curve
from export.fit.heads import surprise_examples
from export.measure.ranking import ranking_quality
from export.model.graph import open_graph
from export.model.onnx import write_graphs
from export.model.trace import Traces
from export.network.network import Network
from export.network.states import memories, outputs
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count

Logits = Callable[[Tensor], Tensor]
"""Outputs (B, H) -> calibrated logits of all V items, (B, V)."""

RESULT = RESULTS / "heads.json"
FACTORS = (1, 2, 4, 8)
"""Cluster counts that are compared, in units of sqrt(V); surprise.cluster_count uses 4."""

RANKED = 8_000
"""Maximum clicks, a random sample of the evaluated ones, for which lists are ranked."""

BATCH, REPEATS = 256, 20


# -- the exact softmax against two levels -----------------------------------------------------------------------------


class ExactHead(nn.Module):
    """The exact softmax over the ranking head's logits, O(V): the likelihood that the two-level head approximates."""

    columns: Tensor  # (H, V + 1)
    bias: Tensor  # (V + 1,)
    share: Tensor  # (V + 1,) 1, and 1 / live for the unknown item

    def __init__(self, network: Network, live: int) -> None:
        super().__init__()
        sharpness = 1 / network.mixture.temperature
        share = torch.ones(network.sizes.items + 1)
        share[-1] = 1 / live
        self.register_buffer("columns", (network.item_rows.detach() * sharpness).t().contiguous())
        self.register_buffer("bias", network.item_bias.detach() * network.mixture.bias_weight)
        self.register_buffer("share", share)

    def forward(self, item: Tensor, out: Tensor) -> Tensor:
        """Same interface as SurpriseHead: item (B,) int64, out (B, H) -> probability of each item (B,)."""
        probabilities = torch.softmax(torch.addmm(self.bias, out, self.columns), dim=1)
        return probabilities.gather(1, item.unsqueeze(1)).squeeze(1) * torch.index_select(self.share, 0, item)


def two_level_logits(network: Network, head: SurpriseHead) -> Logits:
    """The two-level head as a function from outputs (B, H) to log-probabilities of all V items (B, V)."""
    cluster, count = head.cluster[:-1], head.top.out_features - 1

    def logits(out: Tensor) -> Tensor:
        within = network.calibrated_logits(out)
        within = within - within.max(dim=1, keepdim=True).values
        whole = torch.zeros(len(out), count).index_add_(1, cluster, within.exp()).log()
        top = torch.log_softmax(head.top(out), dim=1)[:, :count]
        return within + (top - whole)[:, cluster]

    return logits


@torch.no_grad()
def ranked_by(case: Case, logits: Logits) -> Figures:
    """recall@20 and MRR@20 of lists ranked by `logits`, alone and in the mixture, where the next item is known."""
    network, judged, items = case.network, case.judged, case.network.sizes.items
    rows = drawn(np.flatnonzero(case.later & (judged.gap > 0) & (judged.item < items)), RANKED) - 1
    out, target = outputs(network, Windows(judged), rows), judged.target[rows]
    remembered = memories(judged, rows, network.mixture.remembered)
    recent, session = (torch.from_numpy(part) for part in remembered)
    alone = ranking_quality(target, items, lambda some: logits(out[some]))
    served = ranking_quality(
        target, items, lambda some: network.mixture.mixed(logits(out[some]), recent[some], session[some])
    )
    measures = ("recall20", "mrr20", "recall20_served", "mrr20_served")
    return {name: round(value, 4) for name, value in zip(measures, (*alone, *served), strict=True)}


def judged_by(case: Case, head: nn.Module) -> tuple[Figures, F32]:
    """Likelihood and calibration of a head on the evaluated clicks, and its surprises without the mixture, nats."""
    rows = np.flatnonzero(case.later)
    alone, served = surprises(case.network, head, case.judged, rows)
    follows, known = case.judged.gap[rows] > 0, case.judged.item[rows] < case.network.sizes.items
    shares = dict(calibration_curve(served, case.judged.time_ms[rows]))
    return {
        "nll_next_known": mean(alone[follows & known]),
        "nll_first_known": mean(alone[~follows & known]),
        "nll_all": mean(alone),
        "nll_next_known_served": mean(served[follows & known]),
        "nll_all_served": mean(served),
        "share_of_p": {str(alpha): shares.get(alpha) for alpha in ALPHAS},
    }, alone


def popularity_clusters(items: int, count: int) -> I64:
    """(V,) int64, clusters of equal size by popularity, which is the order of the vocabulary."""
    return np.arange(items, dtype=np.int64) * count // items


def likelihood(case: Case, seed: int) -> dict[str, Figures]:
    """Figures of the exact softmax and of the two-level heads, by count and kind of clusters.

    The figures are likelihood and calibration on all evaluated clicks, and the quality of lists ranked by the head.
    """
    network, items = case.network, case.network.sizes.items
    examples = surprise_examples(network, case.learned, case.weight, seed)
    found: dict[str, Figures] = {}
    found["exact"], exact = judged_by(case, ExactHead(network, case.live))
    found["exact"] |= ranked_by(case, network.calibrated_logits)
    ways = by_two_means(network, seed)
    ways["popularity, 4 sqrt(V)"] = popularity_clusters(items, cluster_count(items))
    for name, clusters in ways.items():
        began = time.process_time()
        head = two_levels(case, examples, clusters, seed)
        took = time.process_time() - began
        its, alone = judged_by(case, head)
        count = int(clusters.max()) + 1
        more = {"clusters": count, "fit_seconds": round(took, 1), "rank_correlation": ranks_agree(alone, exact)}
        found[name] = {**its, **more, **ranked_by(case, two_level_logits(network, head))}
    return found


def by_two_means(network: Network, seed: int) -> dict[str, I64]:
    """2-means clusters (V,) of the known items, one entry per cluster count in FACTORS."""
    rows = network.item_rows[:-1].detach().numpy()
    root = math.sqrt(len(rows))
    return {f"2-means, {factor} sqrt(V)": balanced_clusters(rows, round(factor * root), seed) for factor in FACTORS}


def ranks_agree(one: F32, other: F32) -> float:
    """Spearman's rank correlation of two arrays (m,)."""
    a, b = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (one, other))
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


# -- CPU time ---------------------------------------------------------------------------------------------------------


def costs(case: Case, seed: int) -> dict[str, Figures]:
    """CPU microseconds per click of surprise.onnx per head, one thread, batches of BATCH clicks, heads interleaved."""
    network, items = case.network, case.network.sizes.items
    rows, known_bias = network.item_rows[:-1].detach(), network.item_bias[:-1].detach()
    heads: dict[str, nn.Module] = {"exact": ExactHead(network, case.live)}
    for name, clusters in by_two_means(network, seed).items():  # the weights do not affect the cost
        heads[name] = SurpriseHead(clusters, rows, known_bias, case.live)
    runs: dict[str, Callable[[], object]] = {}
    rng = np.random.default_rng(seed)
    pick = rng.choice(np.flatnonzero(case.judged.item < items), BATCH)
    item, event_type, gap = (part.numpy() for part in case.judged.inputs(pick))
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, head) in enumerate(heads.items()):
            network.surprise = head.eval()  # type: ignore[assignment]
            write_graphs(Path(scratch) / "heads" / str(number), network, case.vocabulary, Traces())
            graph = open_graph(Path(scratch) / "heads" / str(number) / "surprise.onnx")
            h = np.tanh(rng.normal(size=(BATCH, network.sizes.hidden))).astype(np.float32)
            remembered = memory(BATCH, items, network.mixture.remembered, rng)
            click = {"item": item, "event_type": event_type, "gap": gap}
            runs[name] = running(graph, {**click, "h": h, **remembered})
    return {name: {"surprise_us_per_click": its} for name, its in cpu_us(runs, BATCH, REPEATS).items()}


# -- all of it --------------------------------------------------------------------------------------------------------


def measure(dataset: str, seeds: list[int], reuse: bool) -> Figures:
    """Figures by head, means over the seeds; new items and CPU costs are measured on the first seed only."""
    runs: list[dict[str, Figures]] = []
    found: Figures = {}
    for seed in seeds:
        case = case_of(dataset, seed, reuse)
        say(f"heads: {dataset}, seed {seed}: {len(case.learned):,} clicks, {case.network.sizes.items:,} items")
        runs.append(likelihood(case, seed))
        if seed == seeds[0]:
            found["unknown"] = unknown_items(case, seed)
            cost = costs(case, seed)
            found |= {"items": case.network.sizes.items, "hidden": case.network.sizes.hidden}
            found["judged_clicks"] = int(case.later.sum())
    heads = {name: over_seeds([run[name] for run in runs]) | cost.get(name, {}) for name in runs[0]}
    return {**found, "seeds": seeds, "heads": heads}


def over_seeds(runs: list[Figures]) -> Figures:
    """Means of the figures over the seeds, and the likelihood of each seed."""
    means: Figures = {}
    for key, first in runs[0].items():
        if isinstance(first, dict):
            means[key] = over_seeds([run[key] for run in runs])
        else:
            means[key] = None if first is None else round(statistics.fmean(run[key] for run in runs), 4)
    if len(runs) > 1 and "nll_all" in means:
        means["nll_all_by_seed"] = [run["nll_all"] for run in runs]
    return means


def table(dataset: str, its: Figures) -> str:
    columns = ("next", "first", "all", "served:", "all", "p<=.05", ".01", ".001")
    lines = [f"{dataset:24}{''.join(f'{column:>8}' for column in columns)}{'us':>7}"]
    for name, one in its["heads"].items():
        keys = ("nll_next_known", "nll_first_known", "nll_all", "nll_next_known_served", "nll_all_served")
        cells = [one[key] for key in keys] + list(one["share_of_p"].values())
        shown = "".join(f"{'-' if cell is None else format(cell, '.4f'):>8}" for cell in cells)
        lines.append(f"  {name:22}{shown}{one.get('step_us_per_click', ''):>7}")
    if its["unknown"]:
        lines += [f"  {key:22}{value}" for key, value in its["unknown"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=",".join(EPOCHS), help="comma-separated names [%(default)s]")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds of the trainings [%(default)s]")
    parser.add_argument("--reuse", action="store_true", help="load the networks that an earlier run saved")
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = kept(RESULT, "results")
    report: dict[str, Any] = {}
    conditions = {"batch": BATCH, "threads": 1, "epochs": EPOCHS, "largest": LARGEST, "scraper_clicks": SCRAPED}
    for dataset in given.datasets.split(","):
        results[dataset] = measure(dataset, [int(seed) for seed in given.seeds.split(",")], given.reuse)
        report = write_report(RESULT, "bench.heads", conditions, results, [])
        if not given.json:
            print(table(dataset, results[dataset]), flush=True)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()

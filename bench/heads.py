"""Compares the two-level surprise head with the exact softmax that it approximates, by clusters and new-item share.

Each network is trained on the training part of a log without its held-out slice, as in the first training of `eddy
train`. It is evaluated on the slice: likelihood, calibration (the earlier half of the slice calibrates the later half)
and CPU time of step.onnx. The test parts of the logs are not read.

    python -m bench.heads [--datasets bolcom,rees46,yoochoose64,diginetica] [--seeds 0,1,2] [--reuse] [--json]

--reuse loads the networks that an earlier run saved for the same clicks, settings and PyTorch version.
"""

import argparse
import hashlib
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn

from bench import quality
from bench.inputs import trained, untrained
from bench.quality import Figures
from bench.report import RESULTS, ROOT, write_report
from export.arrays import F32, F64, I32, I64, Flags
from export.dataset.cooccurrence import new_visits
from export.dataset.windows import Clicks, Windows, drawn
from export.evaluate.held_out import calibration_curve
from export.fit.heads import Meetings, fitted_surprise, meetings, states_before
from export.fit.mixture import mixed
from export.log.log import Log, Vocabulary, read_log
from export.measure.ranking import places, ranking_quality
from export.model.graph import open_graph
from export.model.onnx import write_graphs
from export.network.mixture import STATE
from export.network.network import Network
from export.network.states import memories, outputs
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count
from export.train.checkpoint import training_key
from export.train.holdout import hold_out, new_items
from export.train.settings import TrainSettings
from stream.detect.pvalue import Calibration

Logits = Callable[[Tensor], Tensor]
"""Outputs (B, H) -> calibrated logits of all V items, (B, V)."""

RESULT = RESULTS / "heads.json"
SCRATCH = ROOT / ".cache" / "heads"
EPOCHS = {"bolcom": 5, "rees46": 4, "yoochoose64": 3, "diginetica": 3}
"""Maximum epochs: enough to show differences between heads, in minutes instead of an hour."""

FACTORS = (1, 2, 4, 8)
"""Cluster counts that are compared, in units of sqrt(V); surprise.cluster_count uses 4."""

ALPHAS = (0.05, 0.01, 0.001)
LARGEST = 30_000
"""Maximum clicks evaluated, the earliest ones: the exact softmax costs O(V) per click."""

RANKED = 8_000
"""Maximum clicks, a random sample of the evaluated ones, for which lists are ranked."""

BATCH, REPEATS, ROUNDS = 256, 20, 5
AT_LEAST, SCRAPED = 3, 20
"""Minimum clicks of a user in the figures by user; maximum clicks of a scraper."""


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


# -- networks ---------------------------------------------------------------------------------------------------------


def case_of(dataset: str, seed: int, reuse: bool) -> Case:
    split = quality.split_of(dataset)
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


@torch.no_grad()
def surprises(network: Network, head: nn.Module, clicks: Clicks, rows: I64) -> tuple[F32, F32]:
    """Surprises (m,), nats, of the clicks at rows (m,), ascending: of the head alone, and of the mixture as served."""
    states = states_before(network, clicks, rows)
    remembered = memories(clicks, rows[states.later.numpy()] - 1)
    recent, visit = (torch.zeros(len(rows), part.shape[1], dtype=torch.int32) for part in remembered)
    recent[states.later], visit[states.later] = (torch.from_numpy(part) for part in remembered)
    visit[torch.from_numpy(new_visits(clicks)[rows])] = 0  # a click that begins a session has an empty session
    item, _, _ = clicks.inputs(rows)
    alone, served = [], []
    for some in places(len(rows), network.sizes.items):
        own = head(item[some], states.at(some))
        alone.append(-torch.log(own + 1e-30))
        served.append(network.mixture.surprise(own, item[some], recent[some], visit[some]))
    return torch.cat(alone).numpy(), torch.cat(served).numpy()


def two_level_logits(network: Network, head: SurpriseHead) -> Logits:
    """The two-level head as a function from outputs (B, H) to log-probabilities of all V items (B, V)."""
    cluster, count = head.cluster[:-1], head.top.out_features - 1

    def logits(out: Tensor) -> Tensor:
        within = network.cooled(out)
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
    recent, visit = (torch.from_numpy(part) for part in memories(judged, rows))
    alone = ranking_quality(target, items, lambda some: logits(out[some]))
    served = ranking_quality(
        target, items, lambda some: network.mixture.mixed(logits(out[some]), recent[some], visit[some])
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


def mean(values: npt.NDArray[Any]) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def popularity_clusters(items: int, count: int) -> I64:
    """(V,) int64, clusters of equal size by popularity, which is the order of the vocabulary."""
    return np.arange(items, dtype=np.int64) * count // items


def likelihood(case: Case, seed: int) -> dict[str, Figures]:
    """Figures of the exact softmax and of the two-level heads, by count and kind of clusters.

    The figures are likelihood and calibration on all evaluated clicks, and the quality of lists ranked by the head.
    """
    network, items = case.network, case.network.sizes.items
    met = meetings(network, case.learned, case.weight, seed)
    found: dict[str, Figures] = {}
    found["exact"], exact = judged_by(case, ExactHead(network, case.live))
    found["exact"] |= ranked_by(case, network.cooled)
    ways = by_two_means(network, seed)
    ways["popularity, 4 sqrt(V)"] = popularity_clusters(items, cluster_count(items))
    for name, clusters in ways.items():
        began = time.process_time()
        head = two_levels(case, met, clusters, seed)
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


def two_levels(case: Case, met: Meetings, clusters: I64, seed: int) -> SurpriseHead:
    return fitted_surprise(case.network, met, clusters, case.live, torch.Generator().manual_seed(seed))


def ranks_agree(one: F32, other: F32) -> float:
    """Spearman's rank correlation of two arrays (m,)."""
    a, b = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (one, other))
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


# -- CPU time ---------------------------------------------------------------------------------------------------------


def costs(case: Case, seed: int) -> dict[str, Figures]:
    """CPU time of step.onnx per head: microseconds per click, one thread, batches of BATCH users, heads interleaved."""
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
            write_graphs(Path(scratch) / "heads" / str(number), network, case.vocabulary)
            graph = open_graph(Path(scratch) / "heads" / str(number) / "step.onnx")
            cell = {part.name: np.tanh(rng.normal(size=(BATCH, *part.shape))) for part in network.cell.state}
            feed = {name: value.astype(np.float32) for name, value in cell.items()}
            feed |= {"item": item, "event_type": event_type, "gap": gap, **memory(BATCH, items, rng)}
            runs[name] = running(graph, feed)
    return {name: {"step_us_per_click": its} for name, its in cpu_us(runs, BATCH, REPEATS).items()}


def memory(batch: int, items: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Mixture memory of users who clicked random items, by its tensor names in the graphs."""
    recent, visit = (np.zeros((batch, *part.shape), part.dtype) for part in STATE)
    recent[:] = rng.integers(0, items + 1, recent.shape)
    visit[:] = 3
    return {part.name: value for part, value in zip(STATE, (recent, visit), strict=True)}


def running(graph: onnxruntime.InferenceSession, feed: dict[str, npt.NDArray[Any]]) -> Callable[[], object]:
    return lambda: graph.run(None, feed)


def cpu_us(runs: dict[str, Callable[[], object]], each: int, repeats: int) -> dict[str, float]:
    """Median over ROUNDS of the CPU microseconds of a run, divided by its `each` parts; the runs are interleaved."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            began = time.process_time()
            for _ in range(repeats):
                run()
            took[name].append((time.process_time() - began) / repeats / each * 1e6)
    return {name: float(f"{statistics.median(times[1:]):.3g}") for name, times in took.items()}  # the first warms up


# -- new items --------------------------------------------------------------------------------------------------------


def unknown_items(case: Case, seed: int) -> Figures | None:
    """Effect of the new-item share on the surprise of honest clicks on new items and of a scraper's clicks.

    A simulated scraper clicks only unknown items, with the gaps of an honest user.

    returns  None if the evaluated clicks contain no new items
    """
    network, items = case.network, case.network.sizes.items
    rows = np.flatnonzero(case.later)
    if not (case.judged.item[rows] == items).any():
        return None
    count = np.bincount(case.ids[case.judged.item[rows] == items])
    part = count[count > 0] / count.sum()
    met = meetings(network, case.learned, case.weight, seed)
    clusters = balanced_clusters(network.item_rows[:-1].detach().numpy(), cluster_count(items), seed)
    head = two_levels(case, met, clusters, seed)
    _, served = surprises(network, head, case.judged, rows)
    order = np.argsort(case.judged.time_ms[rows], kind="stable")
    rows, served = rows[order], served[order]
    new = case.judged.item[rows] == items
    scraping = scrapers(case)
    _, scraped = surprises(network, head, scraping, np.arange(len(scraping)))
    half = len(rows) // 2
    found: Figures = {
        "share_of_clicks": round(float(new.mean()), 4),
        "new_items": case.live,
        "distinct": len(part),
        "perplexity_of_their_ids": round(float(np.exp(-(part * np.log(part)).sum())), 1),
    }
    for shared in (1, case.live, 4 * case.live):
        extra = math.log(shared) - math.log(case.live)
        # The mixture's other components give an unknown item no mass, so the share changes its surprise by a constant.
        mine, theirs = served + np.where(new, extra, 0).astype(np.float32), scraped + np.float32(extra)
        calibration = Calibration(("all",), [np.sort(mine[:half])])
        p_value = calibration.p_values(mine[half:], np.zeros(len(mine) - half, np.int64))
        p_scraped = calibration.p_values(theirs, np.zeros(len(theirs), np.int64))
        found[f"shared by {shared}"] = {
            "nll_all": mean(mine),
            "nats_new": mean(mine[new]),
            "nats_known": mean(mine[~new]),
            "share_of_p": {str(a): mean(p_value <= a) for a in ALPHAS},
            "share_of_p_new": {str(a): mean(p_value[new[half:]] <= a) for a in ALPHAS},
            "share_of_p_scraper": {str(a): mean(p_scraped <= a) for a in ALPHAS},
            "auc_click": auc(theirs, mine),
            "auc_user": auc(by_user(theirs, scraping.user), by_user(mine, case.judged.user[rows])),
        }
    return found


def scrapers(case: Case) -> Clicks:
    """Simulated scrapers: the evaluated users with at least AT_LEAST clicks, all items replaced by the unknown item."""
    judged = case.judged
    starts = np.flatnonzero(np.append(True, judged.user[1:] != judged.user[:-1]))
    place = np.arange(len(judged)) - np.repeat(starts, np.diff(np.append(starts, len(judged))))
    long_enough = np.isin(judged.user, judged.user[place >= AT_LEAST - 1])
    them = judged.where(long_enough & (place < SCRAPED))
    return replace(them, item=np.full_like(them.item, case.network.sizes.items))


def by_user(surprise: F32, user: npt.NDArray[np.integer[Any]]) -> F32:
    """The mean surprise of each user with at least AT_LEAST clicks."""
    _, index, count = np.unique(user, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=surprise) / count
    return np.asarray(means[count >= AT_LEAST], np.float32)


def auc(positive: F32, negative: F32) -> float:
    """Area under the ROC curve: probability that a positive value is above a negative one; ties count half."""
    below = np.sort(negative)
    wins = (np.searchsorted(below, positive, "left") + np.searchsorted(below, positive, "right")) / 2
    return round(float(wins.mean() / max(1, len(below))), 4)


# -- all of it --------------------------------------------------------------------------------------------------------


def measure(dataset: str, seeds: list[int], reuse: bool) -> Figures:
    """Figures by head, means over the seeds; new items and CPU costs are measured on the first seed only."""
    runs: list[dict[str, Figures]] = []
    found: Figures = {}
    for seed in seeds:
        case = case_of(dataset, seed, reuse)
        quality.say(f"heads: {dataset}, seed {seed}: {len(case.learned):,} clicks, {case.network.sizes.items:,} items")
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
    results = quality.kept(RESULT, "results")
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

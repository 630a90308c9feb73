"""The surprise head against the exact softmax it stands for, its clusters, and what a new item's share does.

Networks are trained on all but the held-out slice of a log's training part, as `eddy train` does before it goes over
the whole log, and judged on that: likelihood, calibration (the slice's earlier half calibrates the later one) and CPU
time of step.onnx. The test parts are not read.

    python -m bench.heads [--datasets bolcom,rees46,yoochoose64,diginetica] [--seeds 0,1,2] [--reuse] [--json]

--reuse takes the networks that an earlier run left of the same clicks, settings and PyTorch.
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
"""Outputs (B, H) -> what a head says of all V items, cooled, (B, V)."""

RESULT = RESULTS / "heads.json"
SCRATCH = ROOT / ".cache" / "heads"
EPOCHS = {"bolcom": 5, "rees46": 4, "yoochoose64": 3, "diginetica": 3}
"""At most: enough for heads to differ, minutes instead of an hour."""

FACTORS = (1, 2, 4, 8)
"""Clusters tried, times sqrt(V); 4 is what network.cluster_count takes."""

ALPHAS = (0.05, 0.01, 0.001)
LARGEST = 30_000
"""Clicks judged, the earliest: the exact softmax costs V for each."""

RANKED = 8_000
"""Of them drawn to be ranked."""

BATCH, REPEATS, ROUNDS = 256, 20, 5
AT_LEAST, SCRAPED = 3, 20
"""Users of at least AT_LEAST clicks are judged as users; a scraper makes SCRAPED at most."""


class Case(NamedTuple):
    """A network and what its heads are fitted and judged on.

    learned  the clicks it was trained on; weight (n,) of each
    judged   whole histories; later (m,) bool: those that are judged
    ids      (m,) int32, the judged clicks' items before what is new became one unknown item
    live     how many new items there are at a time (pipeline.new_items)
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
    """Steps 1 and 2 of export.pipeline; the network's own weights are kept in `directory`."""
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
    """(n,) bool: the LARGEST earliest of the clicks that are `among` them."""
    rows = np.flatnonzero(among)
    chosen = rows[np.argsort(time_ms[rows], kind="stable")[:LARGEST]]
    return np.isin(np.arange(len(time_ms)), chosen)


# -- the exact softmax against two levels -----------------------------------------------------------------------------


class ExactHead(nn.Module):
    """The flat ranking head as the likelihood of the next item: what the two-level head approximates, at O(V)."""

    columns: Tensor  # (H, V + 1)
    bias: Tensor  # (V + 1,)
    share: Tensor  # (V + 1,) of one of the items that share the last place

    def __init__(self, network: Network, live: int) -> None:
        super().__init__()
        sharpness = 1 / network.mixture.temperature
        share = torch.ones(network.sizes.items + 1)
        share[-1] = 1 / live
        self.register_buffer("columns", (network.item_rows.detach() * sharpness).t().contiguous())
        self.register_buffer("bias", network.item_bias.detach() * network.mixture.bias_weight)
        self.register_buffer("share", share)

    def forward(self, item: Tensor, out: Tensor) -> Tensor:
        """As SurpriseHead: item (B,), out (B, H) -> (B,)."""
        probabilities = torch.softmax(torch.addmm(self.bias, out, self.columns), dim=1)
        return probabilities.gather(1, item.unsqueeze(1)).squeeze(1) * torch.index_select(self.share, 0, item)


@torch.no_grad()
def surprises(network: Network, head: nn.Module, clicks: Clicks, rows: I64) -> tuple[F32, F32]:
    """Nats of the clicks at rows (m,), ascending: by the head alone, and mixed with what the last items bring."""
    states = states_before(network, clicks, rows)
    remembered = memories(clicks, rows[states.later.numpy()] - 1)
    recent, visit = (torch.zeros(len(rows), part.shape[1], dtype=torch.int32) for part in remembered)
    recent[states.later], visit[states.later] = (torch.from_numpy(part) for part in remembered)
    visit[torch.from_numpy(new_visits(clicks)[rows])] = 0  # of the click's own visit
    item, _, _ = clicks.inputs(rows)
    alone, served = [], []
    for some in places(len(rows), network.sizes.items):
        own = head(item[some], states.at(some))
        alone.append(-torch.log(own + 1e-30))
        served.append(network.mixture.surprise(own, item[some], recent[some], visit[some]))
    return torch.cat(alone).numpy(), torch.cat(served).numpy()


def two_level_logits(network: Network, head: SurpriseHead) -> Logits:
    """All items by the two levels: their log-probabilities."""
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
    """recall@20 and MRR@20 of lists in the order of a head, by itself and mixed, at clicks that a known one follows."""
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
    """Likelihood and calibration of a head on the judged clicks, and its own surprise at them."""
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
    """(V,) equal shares of the catalogue in order of popularity, which is the order of the vocabulary."""
    return np.arange(items, dtype=np.int64) * count // items


def likelihood(case: Case, seed: int) -> dict[str, Figures]:
    """The exact softmax, and two levels by number and kind of clusters: what each says of the judged clicks.

    Likelihood and calibration of all judged clicks, and what a list in the head's order would be worth.
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
    """The clusters (V,) of the known items, by how many there are."""
    rows = network.item_rows[:-1].detach().numpy()
    root = math.sqrt(len(rows))
    return {f"2-means, {factor} sqrt(V)": balanced_clusters(rows, round(factor * root), seed) for factor in FACTORS}


def two_levels(case: Case, met: Meetings, clusters: I64, seed: int) -> SurpriseHead:
    return fitted_surprise(case.network, met, clusters, case.live, torch.Generator().manual_seed(seed))


def ranks_agree(one: F32, other: F32) -> float:
    """Spearman's rank correlation."""
    a, b = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (one, other))
    return round(float(np.corrcoef(a, b)[0, 1]), 4)


# -- CPU time ---------------------------------------------------------------------------------------------------------


def costs(case: Case, seed: int) -> dict[str, Figures]:
    """CPU microseconds per click of step.onnx, one thread, BATCH users at a time, the heads in turn."""
    network, items = case.network, case.network.sizes.items
    rows, known_bias = network.item_rows[:-1].detach(), network.item_bias[:-1].detach()
    heads: dict[str, nn.Module] = {"exact": ExactHead(network, case.live)}
    for name, clusters in by_two_means(network, seed).items():  # what the head has learned changes no cost
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
    """What the mixture remembers of users who clicked random items, by the names it has in the graphs."""
    recent, visit = (np.zeros((batch, *part.shape), part.dtype) for part in STATE)
    recent[:] = rng.integers(0, items + 1, recent.shape)
    visit[:] = 3
    return {part.name: value for part, value in zip(STATE, (recent, visit), strict=True)}


def running(graph: onnxruntime.InferenceSession, feed: dict[str, npt.NDArray[Any]]) -> Callable[[], object]:
    return lambda: graph.run(None, feed)


def cpu_us(runs: dict[str, Callable[[], object]], each: int, repeats: int) -> dict[str, float]:
    """Median over ROUNDS of the CPU microseconds for one of `each` parts of a run, the runs in turn."""
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
    """What the share of a new item in the unknown item's mass does, to honest clicks on new items and to a scraper's.

    A scraper clicks items that nobody has seen before, with the gaps of an honest user.
    None without clicks on new items.
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
        # An unknown item has no part in what the last items bring, so its surprise moves by the log of the share alone.
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
    """The judged users of enough clicks, each as a new user all of whose items are unknown."""
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
    """How often a positive value lies above a negative one; ties count half."""
    below = np.sort(negative)
    wins = (np.searchsorted(below, positive, "left") + np.searchsorted(below, positive, "right")) / 2
    return round(float(wins.mean() / max(1, len(below))), 4)


# -- all of it --------------------------------------------------------------------------------------------------------


def measure(dataset: str, seeds: list[int], reuse: bool) -> Figures:
    """Figures by head, means over the seeds, and the new items and costs of the first one."""
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
    """Means of the figures, and the likelihood of each seed."""
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
    parser.add_argument("--datasets", default=",".join(EPOCHS), help="which, by comma [%(default)s]")
    parser.add_argument("--seeds", default="0,1,2", help="of the trainings, by comma [%(default)s]")
    parser.add_argument("--reuse", action="store_true", help="take the networks that an earlier run left")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
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

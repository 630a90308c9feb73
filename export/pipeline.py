"""A click log -> a model directory: the whole training, in the order in which it must happen.

1. The newest part of the log is held out (train/holdout.py).
2. The network is trained on the rest; the held-out slice says after which epoch it was best, and how far it is to be
   trusted beside what the user's last items bring (network/mixture.py).
3. Heads are fitted, graphs converted, and the slice calibrates the surprise through the ONNX graph: clicks that were
   not trained on, met as they will be met in service.
4. The same number of epochs over the whole log, so that the served model knows the newest items too.
5. Heads and graphs again, the parity gate, the baselines' sessions, and last the manifest and the report page.
Ctrl-C ends step 2 or 4 and goes on to step 5 with the best model of step 2, without step 4 where it comes in step 3.
"""

import math
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from export.dataset.popularity import Recency
from export.dataset.windows import Clicks
from export.evaluate import baselines
from export.evaluate.ablation import ablations
from export.evaluate.baselines import save_baselines
from export.evaluate.held_out import Findings, calibration_curve, judge_held_out
from export.evaluate.vsknn import VsKnnSetting
from export.fit.heads import fit_heads
from export.fit.mixture import clicks_of, count_on, mix
from export.fit.popularity_shift import best_recency, shift_bias
from export.log.log import GAP_EDGES_MS, Log
from export.log.times import iso
from export.model.calibrate import pools, surprises
from export.model.directory import Facts, Pools, write_model
from export.model.onnx import write_graphs
from export.model.writable import check_place
from export.network.network import Network, Sizes
from export.progress import Progress
from export.report.page import About, write_report
from export.train.checkpoint import NAMES, Checkpoint, remove_checkpoints, training_key, training_place
from export.train.cold_items import how_placed, with_catalogue, with_new_items
from export.train.epochs import fit
from export.train.holdout import HeldOut, halves, hold_out, new_items
from export.train.interrupts import Interrupts
from export.train.settings import TrainSettings
from export.train.warm_start import Older, check_older, known_to, visits_since, warm_network
from stream import DISTRIBUTION
from stream.detect.pvalue import ALL
from stream.lists.rules import NO_CATEGORY
from stream.manifest import Manifest
from stream.settings import Settings


def train_model(
    directory: Path,
    log: Log,
    settings: TrainSettings,
    progress: Progress,
    resume: bool = False,
    older: Older | None = None,
    catalogue: Path | None = None,
) -> Manifest:
    """Train on a log and write a model directory, .../NAME/VERSION.

    resume     go on from the checkpoints that a training to the same directory left when it was killed
    older      start from this model's weights (train/warm_start.py)
    catalogue  file of items with their categories: those that no click is of get a row from it (train/cold_items.py)

    Raises ConfigError if the directory cannot be written or holds a model already or the log cannot be learned from,
    ArtifactError if a graph disagrees with the network.
    """
    check_place(directory)
    torch.manual_seed(settings.seed)
    held_out = hold_out(log, older)
    vocabulary, clicks, cut_ms, head, _, _, popularity, counted, category = held_out
    tail = held_out.tail
    catalogued = None if catalogue is None else with_catalogue(catalogue, vocabulary.items)
    if catalogued is not None:
        category = catalogued.category[: len(vocabulary.items)]
    named = len(np.unique(category[category != NO_CATEGORY]))
    like = f", {named:,} categories" if named else ""
    progress.say(f"{len(clicks):,} clicks, {len(vocabulary.items):,} items{like}")
    gaps = len(GAP_EDGES_MS) + 2
    sizes = Sizes(len(vocabulary.items), len(vocabulary.event_types), gaps, settings.hidden, settings.cell)
    if older is not None:
        check_older(older, sizes, vocabulary)
        progress.say(
            f"starting from {older.label}, which was trained until {iso(older.until_ms)}; "
            + known_to(older, [vocabulary.items[i] for i in np.unique(clicks.item)])
        )
        if older.visits is None:
            progress.say(f"{older.label} has no sessions that can be read: the baselines know this log's alone")

    def start() -> Network:
        return Network(sizes) if older is None else warm_network(older, sizes, vocabulary)

    def widened(network: Network, learned: Clicks) -> Network:
        if catalogued is None:
            return network
        return with_new_items(network, clicks_of(learned, network.sizes.items, counted), catalogued.category)

    place = training_place(directory)
    if resume and not any((place / name).is_file() for name in NAMES):
        progress.say(f"{place} has no checkpoint to go on from: starting anew")
    key = training_key(log, category, asdict(settings), None if older is None else older.identity)
    first, second = (Checkpoint(place / name, key, resume) for name in NAMES)
    with Interrupts(progress) as interrupts:
        with interrupts.allowed() as watched:
            chosen = fit(start(), head, tail, settings, watched, popularity, first, category=category)
        recency = best_recency(chosen.network, head, tail, popularity)
        progress.say(recency.describe())
        network = widened(shift_bias(chosen.network, head, recency), head)
        if catalogued is not None:
            progress.say(how_placed(catalogued.category, len(vocabulary.items)))
            held_out = held_out.with_items(catalogued)
        served = held_out.vocabulary
        count_on(network, head, recency, held_out.counted, older)
        quality = mix(network, held_out.seen, cut_ms, settings.seed)
        progress.say(f"held-out slice: recall@20 {quality['recall20']:.4f}, MRR@20 {quality['mrr20']:.4f}")
        progress.say("measuring what each part of the model is worth there")
        _, judged = halves(held_out.seen, cut_ms)
        shift = recency.shift(head.item, head.time_ms, sizes.items)
        worth = ablations(network, held_out.seen, judged, shift)
        calibration, findings = _calibrate(network, held_out, recency, log, older, settings.seed, progress)

        if not chosen.interrupted and not interrupts.came:
            torch.manual_seed(settings.seed)
            whole_log = replace(settings, epochs=chosen.best_epoch)
            with interrupts.allowed() as watched:
                whole = fit(start(), clicks, None, whole_log, watched, popularity, second, category=category)
            if not whole.interrupted:
                mixture, network = network.mixture, widened(shift_bias(whole.network, clicks, recency), clicks)
                network.mixture = mixture
        count_on(network, clicks, recency, held_out.counted, older)
        fit_heads(network, clicks, recency.weights(clicks.time_ms), new_items(clicks), settings.seed)
        progress.say("converting and checking the graphs")
        write_graphs(directory, network, served)
        save_baselines(directory, visits_since(older, log, served.items), VsKnnSetting(**findings.vsknn_setting))
        training = {
            "from": iso(int(log.time_ms.min())),
            "until": iso(int(log.time_ms.max())),
            "clicks": len(clicks),
            "users": len(np.unique(clicks.user)),
            "held_out_clicks": len(tail),
            "best_epoch": chosen.best_epoch,
            "clicks_per_s": round(chosen.clicks_per_s),
            "recency": recency.describe(),
            "categories": named,
            "from_model": None if older is None else older.label,
            "items_without_clicks": len(served.items) - sizes.items,
            "settings": asdict(settings),
            "torch": torch.__version__.partition("+")[0],
        }
        facts = Facts(training, quality)
        manifest = write_model(directory, network, served, calibration, (baselines.FILE,), facts)
        findings = replace(findings, epochs=chosen.epochs, best_epoch=chosen.best_epoch, ablations=worth)
        about = About(log.name, iso(time.time_ns() // 1_000_000), version(DISTRIBUTION))
        write_report(directory, manifest, findings, about)
        remove_checkpoints(place)
    warning = calibration_warning(len(calibration[ALL]), len(clicks), Settings(model=str(directory)).alpha)
    if warning:
        progress.say(warning)
    return manifest


def calibration_warning(held_out: int, clicks: int, alpha: float) -> str | None:
    """What to do where so few held-out clicks of a log cannot give a p-value of alpha; None where they can."""
    smallest = 1 / (1 + held_out)
    if smallest <= alpha:
        return None
    digit = 10.0 ** math.floor(math.log10(smallest))
    enough = math.ceil((1 / alpha - 1) * clicks / held_out)
    return (
        f"with {held_out:,} held-out clicks no anomaly can be reported at alpha {alpha:g}, the worker's default: train "
        f"on more clicks (at least {enough:,}) or start the worker with --alpha {math.ceil(smallest / digit) * digit:g}"
    )


def _calibrate(
    network: Network,
    held_out: HeldOut,
    recency: Recency,
    log: Log,
    older: Older | None,
    seed: int,
    progress: Progress,
) -> tuple[Pools, Findings]:
    """Pools of surprise on the held-out slice, by the graph of a network that has not seen it; and how it judged."""
    vocabulary, _, cut_ms, head, seen, known, _, _, _ = held_out
    progress.say("fitting the heads and converting them, to calibrate")
    fit_heads(network, head, recency.weights(head.time_ms), new_items(held_out.clicks), seed)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "held-out" / "0"
        write_graphs(directory, network, vocabulary)
        surprise, later = surprises(directory / "step.onnx", network.state, seen), seen.time_ms >= cut_ms
        found = pools(surprise, seen, later, vocabulary)
        progress.say("judging the held-out slice beside the baselines")
        names = {vocabulary.items[i] for i in np.flatnonzero(known)}
        earlier = visits_since(older, log.between(None, cut_ms), vocabulary.items)
        tail = log.between(cut_ms, None)
        findings = judge_held_out(directory, network, vocabulary, found, earlier, tail, names, progress)
        return found, replace(findings, calibration=calibration_curve(surprise[later], seen.time_ms[later]))

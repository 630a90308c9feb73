"""The training of a model, from a click log to a model directory. The order of the steps matters.

1. Hold out the newest part of the log, the held-out slice (train/holdout.py).
2. Train the network on the rest. The slice decides the best epoch.
3. Fit the mixture on one half of the slice, and evaluate it on the other half (fit/mixture.py).
4. Fit the heads and export the graphs. The surprises of the slice, computed by these graphs, calibrate the anomalies:
   these clicks were not trained on, as in production. Compare the model with the baselines on the slice.
5. Train again from the beginning on the whole log, for the best number of epochs, so that the served model knows the
   newest items too.
6. Fit the heads, also the one of what a user does next (ahead/choose.py), export the graphs again, check their parity,
   and write the model. The manifest comes last, and then
   the training report.

Ctrl-C ends step 2 or step 5, and the training continues with the best network of step 2. After a Ctrl-C before step 5,
step 5 is skipped. A process that is killed leaves the checkpoints of steps 2 and 5; `resume` continues from them. A
directory without a manifest is not a model.
"""

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from export.ahead.choose import FittedAhead, fit_ahead
from export.evaluate import baselines
from export.evaluate.ablation import ablations
from export.evaluate.baselines import save_baselines
from export.evaluate.held_out import Findings, calibration_curve, judge_held_out
from export.evaluate.vsknn import VsKnnSetting
from export.fit.heads import fit_heads
from export.fit.mixture import Mixed, count_cooccurrence, mixed, with_final_popularity
from export.fit.shortlist import LARGE, choose_shortlist
from export.log.log import GAP_EDGES_MS, Log
from export.log.times import iso
from export.model.calibrate import Calibrated, calibrated, calibration_warning, surprises
from export.model.directory import Facts, write_model
from export.model.onnx import write_graphs
from export.model.trace import Traces
from export.network.network import Network, Sizes
from export.progress import Progress
from export.report.page import About, write_report
from export.train.checkpoint import NAMES, Checkpoint, checkpoint_directory, remove_checkpoints, training_key
from export.train.cold_items import Catalogued, describe_cold_items, with_catalogue
from export.train.epochs import Fitted, fit, fit_held_out
from export.train.holdout import HeldOut, halves, hold_out, new_items
from export.train.interrupts import Interrupts
from export.train.settings import TrainSettings
from export.train.warm_start import Older, check_older, describe_overlap, sessions_since, warm_network
from export.writable import check_writable
from stream import DISTRIBUTION
from stream.lists.rules import NO_CATEGORY
from stream.manifest import Manifest, Shortlist
from stream.settings import ALPHA


@dataclass(frozen=True)
class Job:
    """The inputs of one training, which its steps share.

    older       the model that the training starts from; None = random initial weights
    held_out    the split of the log; the categories are the catalogue's, if there is one
    catalogued  the vocabulary including the items that are only in the catalogue; None = no catalogue
    traces      the graphs are written twice, with other weights
    large       from so many items on fewer than all may be ranked
    """

    log: Log
    settings: TrainSettings
    progress: Progress
    older: Older | None
    held_out: HeldOut
    catalogued: Catalogued | None
    traces: Traces
    large: int

    @property
    def sizes(self) -> Sizes:
        vocabulary, settings = self.held_out.vocabulary, self.settings
        items, event_types = len(vocabulary.items), len(vocabulary.event_types)
        return Sizes(items, event_types, len(GAP_EDGES_MS) + 2, settings.hidden, settings.cell)

    @property
    def categories(self) -> int:
        """Count of different categories of the items."""
        category = self.held_out.category
        return len(np.unique(category[category != NO_CATEGORY]))

    def start(self) -> Network:
        """The initial network of steps 2 and 5. It also seeds PyTorch's generator, so that both start equally."""
        torch.manual_seed(self.settings.seed)
        if self.older is None:
            return Network(self.sizes)
        return warm_network(self.older, self.sizes, self.held_out.vocabulary)


def train_model(
    directory: Path,
    log: Log,
    settings: TrainSettings,
    progress: Progress,
    resume: bool = False,
    older: Older | None = None,
    catalogue: Path | None = None,
    large: int = LARGE,
) -> Manifest:
    """Train on a log and write a model directory, .../NAME/VERSION.

    resume     continue from the checkpoints that an interrupted training to the same directory left
    older      the model whose weights the training starts from (train/warm_start.py)
    catalogue  file of items with categories; items without clicks get a row from it (train/cold_items.py)
    large      from so many items on fewer than all may be ranked (fit/shortlist.py)

    Raises ConfigError if the directory cannot be written or already contains a model, or if the log cannot be trained
    on; ArtifactError if an ONNX graph differs from the network.
    """
    check_writable(directory)
    job = _hold_out(log, settings, progress, older, catalogue, large)  # 1
    checkpoints = checkpoint_directory(directory)
    first, second = _checkpoints(job, checkpoints, resume)
    with Interrupts(progress) as interrupts:
        with interrupts.allowed() as watched:
            chosen = fit_held_out(job.start(), job.held_out, settings, watched, first)  # 2
        served = _mix(job, chosen.network)  # 3
        calibration, findings, shortlist = _calibrate(job, served)  # 4
        findings = replace(findings, epochs=chosen.epochs, best_epoch=chosen.best_epoch)
        network = served.network
        if not chosen.interrupted and not interrupts.received:
            with interrupts.allowed() as watched:
                network = _train_on_all(job, served, chosen.best_epoch, watched, second)  # 5
        manifest = _write(directory, job, served, network, chosen, calibration, findings, shortlist)  # 6
        remove_checkpoints(checkpoints)
    held_out = calibration.behaviour.combined.size
    warning = calibration_warning(held_out, len(job.held_out.clicks), ALPHA)
    if warning:
        progress.say(warning)
    return manifest


def _hold_out(
    log: Log, settings: TrainSettings, progress: Progress, older: Older | None, catalogue: Path | None, large: int
) -> Job:
    """Step 1: split the log. Raises ConfigError if the older model does not fit it."""
    held_out, catalogued = hold_out(log, older), None
    vocabulary = held_out.vocabulary
    if catalogue is not None:
        catalogued = with_catalogue(catalogue, vocabulary.items)
        held_out = held_out._replace(category=catalogued.category[: len(vocabulary.items)])
    job = Job(log, settings, progress, older, held_out, catalogued, Traces(), large)
    with_categories = f", {job.categories:,} categories" if job.categories else ""
    progress.say(f"{len(held_out.clicks):,} clicks, {len(vocabulary.items):,} items{with_categories}")
    if older is not None:
        check_older(older, job.sizes, vocabulary)
        progress.say(
            f"starting from {older.label}, which was trained until {iso(older.until_ms)}; "
            + describe_overlap(older, [vocabulary.items[i] for i in np.unique(held_out.clicks.item)])
        )
        if older.sessions is None:
            progress.say(f"{older.label} has no readable sessions: the baselines use only the sessions of this log")
    return job


def _checkpoints(job: Job, directory: Path, resume: bool) -> tuple[Checkpoint, Checkpoint]:
    """The checkpoints of steps 2 and 5."""
    if resume and not any((directory / name).is_file() for name in NAMES):
        job.progress.say(f"{directory} has no checkpoint: the training starts with the first epoch")
    identity = None if job.older is None else job.older.identity
    key = training_key(job.log, job.held_out.category, asdict(job.settings), identity)
    first, second = (Checkpoint(directory / name, key, resume) for name in NAMES)
    return first, second


def _mix(job: Job, network: Network) -> Mixed:
    """Step 3: the network as it would be served if the log ended before the slice."""
    job.progress.say("choosing the recency correction, counting co-occurrences and fitting the mixture")
    served = mixed(network, job.held_out, job.settings.seed, job.older, job.catalogued)
    job.progress.say(served.recency.describe())
    if job.catalogued is not None:
        job.progress.say(describe_cold_items(job.catalogued.category, job.sizes.items))
    recall, mrr = served.quality["recall20"], served.quality["mrr20"]
    job.progress.say(
        "the lists as served, on every second held-out click, also on the first clicks of sessions: recall@20 "
        f"{recall:.4f}, MRR@20 {mrr:.4f}"
    )
    return served


def _calibrate(job: Job, served: Mixed) -> tuple[Calibrated, Findings, Shortlist | None]:
    """Step 4: the calibration pools from the surprises of the slice, the figures of the model on the slice, and the
    shortlist of a large catalogue."""
    network, held_out, recency = served.network, served.held_out, served.recency
    head, seen, vocabulary, cut_ms = held_out.head, held_out.seen, held_out.vocabulary, held_out.cut_ms
    job.progress.say("ablation: measuring the contribution of each part of the model on the held-out slice")
    _, judged = halves(seen, cut_ms)
    contributions = ablations(network, seen, judged, recency.shift(head.item, head.time_ms, job.sizes.items))
    shortlist = choose_shortlist(network, seen, judged, job.catalogued is not None, job.large, job.progress)
    job.progress.say("fitting the heads on the training part")
    fit_heads(network, head, recency.weights(head.time_ms), new_items(held_out.clicks), job.settings.seed)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "held-out" / "0"
        job.progress.say("exporting the graphs to ONNX and checking them, for the calibration")
        write_graphs(directory, network, vocabulary, job.traces, shortlist)
        job.progress.say("calibrating the anomalies on the held-out slice")
        (surprise, of_type), later = surprises(directory, network.state, seen), seen.time_ms >= cut_ms
        found = calibrated(surprise, of_type, seen, later, vocabulary, held_out.category, held_out.clicks)
        if found.ends is not None:
            job.progress.say(f"ends of sessions are scored: the log has {len(found.ends.vectors):,} kinds of sessions")
        job.progress.say("evaluating the model and the baselines on the held-out slice")
        names = {vocabulary.items[i] for i in np.flatnonzero(held_out.known)}
        earlier = sessions_since(job.older, job.log.between(None, cut_ms), vocabulary.items)
        tail = job.log.between(cut_ms, None)
        findings = judge_held_out(directory, network, vocabulary, found, earlier, tail, names, job.progress, shortlist)
    curve = calibration_curve(surprise[later], seen.time_ms[later])
    return found, replace(findings, calibration=curve, ablations=contributions), shortlist


def _train_on_all(job: Job, served: Mixed, epochs: int, watched: Progress, checkpoint: Checkpoint) -> Network:
    """Step 5: a network that is trained on the whole log, with the mixture of step 3.

    If Ctrl-C ends the training, it is the network of step 3.
    """
    held_out, settings = job.held_out, replace(job.settings, epochs=epochs)
    clicks, popularity, category = held_out.clicks, held_out.popularity, held_out.category
    watched.say(f"training again on the whole log, {epochs} epochs")
    whole = fit(
        job.start(), clicks, None, settings, watched, popularity, checkpoint, category, label="final training, epoch"
    )
    if whole.interrupted:
        return served.network
    network = with_final_popularity(whole.network, clicks, served.recency, held_out.counted, job.catalogued)
    network.mixture = served.network.mixture
    return network


def _write(
    directory: Path,
    job: Job,
    served: Mixed,
    network: Network,
    chosen: Fitted,
    calibration: Calibrated,
    findings: Findings,
    shortlist: Shortlist | None,
) -> Manifest:
    """Step 6: count and fit everything on the whole log, and write the model: the manifest last, then the report."""
    held_out, recency, log = served.held_out, served.recency, job.log
    clicks, vocabulary = held_out.clicks, held_out.vocabulary
    job.progress.say("counting co-occurrences and fitting the heads on the whole log")
    count_cooccurrence(network, clicks, recency, held_out.counted, job.older)
    fit_heads(network, clicks, recency.weights(clicks.time_ms), new_items(clicks), job.settings.seed)
    ahead = _ahead(job)
    job.progress.say("exporting the graphs to ONNX and checking them")
    write_graphs(directory, network, vocabulary, job.traces, shortlist, ahead and ahead.head)
    job.progress.say("writing the model and the training report")
    setting = VsKnnSetting(**findings.vsknn_setting)
    save_baselines(directory, sessions_since(job.older, log, vocabulary.items), setting)
    training = {
        "from": iso(int(log.time_ms.min())),
        "until": iso(int(log.time_ms.max())),
        "clicks": len(clicks),
        "users": len(np.unique(clicks.user)),
        "held_out_clicks": len(held_out.tail),
        "best_epoch": chosen.best_epoch,
        "clicks_per_s": round(chosen.clicks_per_s),
        "recency": recency.describe(),
        "categories": job.categories,
        "from_model": None if job.older is None else job.older.label,
        "items_without_clicks": len(vocabulary.items) - job.sizes.items,
        "settings": asdict(job.settings),
        "torch": torch.__version__.partition("+")[0],
    }
    facts = Facts(training, served.quality)
    extra = (baselines.FILE,)
    of_ahead = ahead and ahead.facts
    manifest = write_model(directory, network, vocabulary, calibration, extra, facts, shortlist, log.mapping, of_ahead)
    about = About(log.name, iso(time.time_ns() // 1_000_000), version(DISTRIBUTION))
    write_report(directory, manifest, findings, about)
    return manifest


def _ahead(job: Job) -> FittedAhead | None:
    """Fit the head that predicts what a user does next, and report it, or why the model has none."""
    held_out, settings = job.held_out, job.settings
    job.progress.say("fitting the prediction of what a user does next")
    types = held_out.vocabulary.event_types
    found: FittedAhead | str = "the times of the log are synthetic"
    if not job.log.in_order:
        found = fit_ahead(held_out.clicks, held_out.cut_ms, types, settings.intent_event, settings.seed)
    if isinstance(found, str):
        job.progress.say(f"what a user does next is not predicted: {found}")
        return None
    job.progress.say(found.describe())
    return found

"""The epoch loop with early stopping: train, evaluate on the held-out slice, keep the best network.

The held-out slice is the newest part of the log (holdout.py). It decides the number of epochs; a second training then
runs that number of epochs over the whole log, because on news the last hours are worth more than all earlier clicks.
The rule: no click of the slice is trained on before the network was evaluated on the slice.
"""

import copy
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from export.arrays import I64
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.measure.ranking import JUDGED, ranking_quality
from export.network.network import Network
from export.network.states import outputs
from export.progress import Progress
from export.train.checkpoint import Checkpoint
from export.train.holdout import HeldOut
from export.train.settings import TrainSettings
from export.train.trainer import ALL_ALIKE, Trainer

PATIENCE_STEPS = 200
"""Early stopping after so many training steps without a better epoch: one epoch of a large log, many of a small one."""


class Fitted(NamedTuple):
    """The result of a training.

    network       the network after the best epoch, on the CPU
    best_epoch    number of that epoch, from 1
    interrupted   True if Ctrl-C ended the training
    epochs        learning curve: epoch, loss (nats), recall20 and mrr20 of each evaluated epoch
    clicks_per_s  training speed over the epochs that this process completed, evaluation excluded; 0 = none completed
    """

    network: Network
    best_epoch: int
    interrupted: bool
    epochs: list[dict[str, float]]
    clicks_per_s: float


class Course:
    """The progress of one training: held-out quality of each epoch, and the network after the best epoch."""

    def __init__(self, trainer: Trainer, network: Network, settings: TrainSettings) -> None:
        self._trainer, self._network, self._settings = trainer, network, settings
        self.epoch = self.best_epoch = 0
        self.best = 0.0
        self.kept: Network | None = None
        self.epochs: list[dict[str, float]] = []

    @property
    def ended(self) -> bool:
        """True when all epochs were run, or when PATIENCE_STEPS steps brought no better epoch."""
        since = (self.epoch - self.best_epoch) * self._trainer.steps_per_epoch
        return self.epoch >= self._settings.epochs or (self.kept is not None and since >= PATIENCE_STEPS)

    def judge(self, network: Network, loss: float, recall: float, mrr: float) -> None:
        """Record the held-out quality of the current epoch; keep the network if it is the best so far. loss in nats."""
        self.epochs.append({"epoch": self.epoch, "loss": loss, "recall20": recall, "mrr20": mrr})
        quality = recall + mrr
        if self.kept is None or quality > self.best:
            self.best, self.best_epoch, self.kept = quality, self.epoch, network

    def state(self) -> dict[str, Any]:
        """Content of a checkpoint: the state of the trainer and of this object."""
        kept = None if self.kept is None else self.kept.state_dict()
        numbers = {"epoch": self.epoch, "best_epoch": self.best_epoch, "best": self.best}
        return {**numbers, "epochs": self.epochs, "kept": kept, "trainer": self._trainer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state` of an earlier process."""
        self._trainer.restore(state["trainer"])
        self.epoch, self.best_epoch, self.best = state["epoch"], state["best_epoch"], state["best"]
        self.epochs = state["epochs"]
        if state["kept"] is not None:
            self.kept = copy.deepcopy(self._network)
            self.kept.load_state_dict(state["kept"])


def fit_held_out(
    network: Network,
    held_out: HeldOut,
    settings: TrainSettings,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Fitted:
    """Train on the clicks before the held-out slice; that says after which epoch the network was best."""
    popularity, category = held_out.popularity, held_out.category
    return fit(network, held_out.head, held_out.tail, settings, progress, popularity, checkpoint, category)


def fit(
    network: Network,
    clicks: Clicks,
    later: Clicks | None,
    settings: TrainSettings,
    progress: Progress,
    popularity: Recency = ALL_ALIKE,
    checkpoint: Checkpoint | None = None,
    category: I64 | None = None,
    clock_s: Callable[[], float] = time.monotonic,
    label: str = "epoch",
) -> Fitted:
    """Train for at most settings.epochs epochs; returns the network after the best epoch.

    Ctrl-C ends the training and keeps the best network so far, or the current one if no epoch was evaluated.

    later       held-out clicks: the best epoch has the highest recall@20 + MRR@20 on them. None = run every epoch and
                return the network after the last one
    popularity, category  as in Trainer
    checkpoint  loaded before the first epoch and saved after each epoch; None = no checkpoint
    clock_s     monotonic clock, seconds
    label       the word before the number of an epoch in progress lines
    Raises ConfigError if the checkpoint belongs to another training.
    """
    trainer = Trainer(network, clicks, settings, progress, popularity, category)
    course = Course(trainer, network, settings)
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        course.restore(saved)
        progress.say(f"resuming after {label} {course.epoch}")
    interrupted = False
    learned, seconds = 0, 0.0
    try:
        while not course.ended:
            course.epoch += 1
            began_s = clock_s()
            loss = trainer.epoch(f"{label} {course.epoch}/{settings.epochs}")
            took_s = max(1e-9, clock_s() - began_s)
            learned, seconds = learned + len(clicks), seconds + took_s
            line = f"{label} {course.epoch}: loss {loss:.4f}, {len(clicks) / took_s:,.0f} clicks/s"
            if later is not None:
                network = trainer.trained()
                recall, mrr = held_out_quality(network, later)
                line += f", held-out recall@20 {recall:.4f}, MRR@20 {mrr:.4f}"
                course.judge(network, loss, recall, mrr)
            progress.say(line)
            _save(checkpoint, course, progress)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("interrupted: continuing with the best network so far")
    best, pace = (course.kept or trainer.trained()).cpu(), learned / max(1e-9, seconds)
    return Fitted(best, max(1, course.best_epoch), interrupted, course.epochs, pace)


def _save(checkpoint: Checkpoint | None, course: Course, progress: Progress) -> None:
    """Save a checkpoint. On a write error the training continues: a full disk only makes it impossible to resume."""
    if checkpoint is None:
        return
    try:
        checkpoint.save(course.state())
    except OSError as exc:
        progress.say(f"no checkpoint of epoch {course.epoch} ({exc.strerror or exc}): --resume would repeat this epoch")


@torch.no_grad()
def held_out_quality(network: Network, later: Clicks) -> tuple[float, float]:
    """recall@20 and MRR@20 of the network without the mixture, on at most JUDGED clicks of `later`.

    Users start from a zero state.
    """
    rows = drawn(np.flatnonzero(later.target >= 0), JUDGED)
    out = outputs(network, Windows(later), rows)
    return ranking_quality(later.target[rows], network.sizes.items, lambda some: network.logits(out[some]))

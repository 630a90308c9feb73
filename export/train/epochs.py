"""Epoch after epoch until none is better, and the network as it was best.

Validation is the newest part of the log, and what it decided (how many epochs) is then applied to that part too: on
news the last hours are worth more than all before. The rule: nothing of the slice is learned before it has been judged.
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
"""Steps without a better epoch after which training stops: one epoch of a large log, many of a small one."""


class Fitted(NamedTuple):
    """What a training came to.

    network       on the CPU, as it was best
    best_epoch    after which epoch that was
    interrupted   whether Ctrl-C ended the training
    epochs        the learning curves
    clicks_per_s  over the epochs that this process ran to their end, without judging them; 0 = none
    """

    network: Network
    best_epoch: int
    interrupted: bool
    epochs: list[dict[str, float]]
    clicks_per_s: float


class Course:
    """A training from epoch to epoch: how good each was on `later` clicks, and the network as the best one left it."""

    def __init__(self, trainer: Trainer, network: Network, settings: TrainSettings) -> None:
        self._trainer, self._network, self._settings = trainer, network, settings
        self.epoch = self.best_epoch = 0
        self.best = 0.0
        self.kept: Network | None = None
        self.epochs: list[dict[str, float]] = []

    @property
    def ended(self) -> bool:
        """All epochs are run, or none of the last ones was better than an earlier one."""
        since = (self.epoch - self.best_epoch) * self._trainer.steps_per_epoch
        return self.epoch >= self._settings.epochs or (self.kept is not None and since >= PATIENCE_STEPS)

    def judge(self, network: Network, loss: float, recall: float, mrr: float) -> None:
        """The network of this epoch was so good."""
        self.epochs.append({"epoch": self.epoch, "loss": loss, "recall20": recall, "mrr20": mrr})
        quality = recall + mrr
        if self.kept is None or quality > self.best:
            self.best, self.best_epoch, self.kept = quality, self.epoch, network

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the trainer's state and this course's."""
        kept = None if self.kept is None else self.kept.state_dict()
        numbers = {"epoch": self.epoch, "best_epoch": self.best_epoch, "best": self.best}
        return {**numbers, "epochs": self.epochs, "kept": kept, "trainer": self._trainer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
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
) -> Fitted:
    """Train for at most settings.epochs; returns the network as it was best on `later` clicks.

    With a checkpoint the training goes on from what it holds, and leaves what it has come to after each epoch.
    Without `later` every epoch is run and the last one counts. Ctrl-C keeps the best so far, or what there is.
    `popularity` and `category` are the Trainer's.
    """
    trainer = Trainer(network, clicks, settings, progress, popularity, category)
    course = Course(trainer, network, settings)
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        course.restore(saved)
        progress.say(f"going on after epoch {course.epoch}")
    interrupted = False
    learned, seconds = 0, 0.0
    try:
        while not course.ended:
            course.epoch += 1
            began_s = clock_s()
            loss = trainer.epoch(f"epoch {course.epoch}/{settings.epochs}")
            took_s = max(1e-9, clock_s() - began_s)
            learned, seconds = learned + len(clicks), seconds + took_s
            said = f"epoch {course.epoch}: loss {loss:.4f}, {len(clicks) / took_s:,.0f} clicks/s"
            if later is not None:
                network = trainer.trained()
                recall, mrr = held_out_quality(network, later)
                said += f", held out: recall@20 {recall:.4f}, MRR@20 {mrr:.4f}"
                course.judge(network, loss, recall, mrr)
            progress.say(said)
            _save(checkpoint, course, progress)
    except KeyboardInterrupt:
        interrupted = True
        progress.say("stopped: going on with the best model so far")
    best, pace = (course.kept or trainer.trained()).cpu(), learned / max(1e-9, seconds)
    return Fitted(best, max(1, course.best_epoch), interrupted, course.epochs, pace)


def _save(checkpoint: Checkpoint | None, course: Course, progress: Progress) -> None:
    """A full disk must not end a training: without a checkpoint it only cannot be resumed."""
    if checkpoint is None:
        return
    try:
        checkpoint.save(course.state())
    except OSError as exc:
        progress.say(f"no checkpoint of epoch {course.epoch} ({exc.strerror or exc}): --resume would begin before it")


@torch.no_grad()
def held_out_quality(network: Network, later: Clicks) -> tuple[float, float]:
    """recall@20 and MRR@20 of the network by itself on at most JUDGED of `later`, users from a zero state."""
    rows = drawn(np.flatnonzero(later.target >= 0), JUDGED)
    out = outputs(network, Windows(later), rows)
    return ranking_quality(later.target[rows], network.sizes.items, lambda places: network.logits(out[places]))

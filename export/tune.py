"""A click log -> the training settings that do best on its own newest part: the search of `eddy tune`.

A trial is a training on what comes before that, and its value recall@20 + MRR@20 on it of what would be served,
the network mixed with the user's last items: settings that make the network better where the mixture is good anyway win
nothing. No other log is seen, and none that a model is later tested on may be. The first trial has the settings that
`eddy train` takes by itself; the others are drawn by Optuna's TPE (Bergstra et al. 2011). A trial whose network is
behind the median of the earlier ones' at a quarter of its epochs is given up: the mixture is fitted only to a network
that is done. All trials lie in an SQLite file: the same search again goes on where it ended.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from export.fit.mixture import count_on, mix
from export.fit.popularity_shift import best_recency, shift_bias
from export.log.log import GAP_EDGES_MS, Log
from export.network.network import Network, Sizes
from export.progress import Progress
from export.train.epochs import fit
from export.train.holdout import HeldOut, hold_out
from export.train.settings import TrainSettings
from stream.errors import ConfigError

SPACE: dict[str, BaseDistribution] = {
    "hidden": IntDistribution(16, 256, step=16),
    "epochs": IntDistribution(4, 24, log=True),
    "tokens": IntDistribution(64, 4096, log=True),
    "negatives": IntDistribution(128, 4096, log=True),
    "rate": FloatDistribution(5e-4, 3e-2, log=True),
    "row_rate": FloatDistribution(0.02, 0.5, log=True),
    "dropout": FloatDistribution(0.0, 0.6),
    "alpha": FloatDistribution(0.25, 1.0),
}
"""What is searched, by the names in TrainSettings."""

CHECKS = 4
"""A trial may be given up after each quarter of its epochs, so that schedules of any length compare."""


@dataclass(frozen=True)
class Tuned:
    """What a search came to. Quality is on the held-out slice, as `eddy train` says it.

    settings   of the best trial, by their names in TrainSettings
    recall20, mrr20, best_epoch  of that trial
    default    recall@20 + MRR@20 of the first trial, with the settings that `eddy train` takes; None if it did not end
    trials     how many the study has
    given_up   how many of them were not run to their end
    """

    settings: dict[str, Any]
    recall20: float
    mrr20: float
    best_epoch: int
    default: float | None
    trials: int
    given_up: int


def tune(
    log: Log,
    base: TrainSettings,
    study_file: Path,
    trials: int,
    minutes: float | None,
    progress: Progress,
    clock_s: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Search until the study has `trials` trials, or for so many minutes, or until Ctrl-C; the best so far counts.

    base     the settings of the first trial; what is not in SPACE all trials share
    minutes  a trial that is late is given up, but for the first
    Raises ConfigError if nothing can be learned from the log, if the study is another log's, or if no trial ended.
    """
    held_out = hold_out(log)
    first = {name: _inside(space, getattr(base, name)) for name, space in SPACE.items()}
    deadline_s = float("inf") if minutes is None else clock_s() + 60 * minutes
    try:
        study = _open_study(study_file, held_out, base)
        study.enqueue_trial(first, skip_if_exists=True)
        while len(_ended(study)) < trials and (clock_s() < deadline_s or not _complete(study)):
            late = (lambda: clock_s() >= deadline_s) if _complete(study) else (lambda: False)
            if not _run(study, held_out, base, trials, late, progress):
                break
        return _best(study, first, base.cell)
    except SQLAlchemyError as exc:
        raise ConfigError(f"study {study_file}: cannot be used ({type(exc).__name__}); take another --study") from exc


class _GivenUp(Exception):
    """Ends the training of a trial."""


def _run(
    study: optuna.Study,
    held_out: HeldOut,
    base: TrainSettings,
    trials: int,
    late: Callable[[], bool],
    progress: Progress,
) -> bool:
    """One trial from asking to telling; False if Ctrl-C ended it."""
    trial = study.ask(SPACE)
    settings = replace(base, **trial.params)
    label = f"trial {len(_ended(study)) + 1}/{trials}"
    best = (0.0, 0.0)  # recall@20, MRR@20 of the network alone

    def judged(epoch: int, recall: float, mrr: float) -> None:
        nonlocal best
        best = max(best, (recall, mrr), key=sum)
        check = CHECKS * epoch // settings.epochs
        if check > CHECKS * (epoch - 1) // settings.epochs:
            trial.report(best[0] + best[1], check)
            if epoch < settings.epochs and (trial.should_prune() or late()):
                raise _GivenUp

    torch.manual_seed(settings.seed)
    network = Network(_sizes(held_out, settings))
    said = ", ".join(f"{name} {value:.4g}" for name, value in trial.params.items())
    tail = held_out.tail
    told = _InTrial(progress, label)
    try:
        fitted = fit(
            network,
            held_out.head,
            tail,
            settings,
            told,
            held_out.popularity,
            judged=judged,
            category=held_out.category,
        )
    except _GivenUp:
        study.tell(trial, state=TrialState.PRUNED)
        progress.say(f"{label}: given up, its network at recall@20 {best[0]:.4f}, MRR@20 {best[1]:.4f} ({said})")
        return True
    if fitted.interrupted:
        study.tell(trial, state=TrialState.FAIL)
        progress.say("stopped: the best trial so far counts")
        return False
    recency = best_recency(fitted.network, held_out.head, tail, held_out.popularity)
    count_on(shift_bias(fitted.network, held_out.head, recency), held_out.head, recency, None, None)
    quality = mix(fitted.network, held_out.seen, held_out.cut_ms, settings.seed)
    for name, value in {**quality, "best_epoch": fitted.best_epoch}.items():
        trial.set_user_attr(name, value)
    study.tell(trial, quality["recall20"] + quality["mrr20"])
    progress.say(f"{label}: recall@20 {quality['recall20']:.4f}, MRR@20 {quality['mrr20']:.4f} ({said})")
    return True


def _sizes(held_out: HeldOut, settings: TrainSettings) -> Sizes:
    vocabulary = held_out.vocabulary
    gaps = len(GAP_EDGES_MS) + 2
    return Sizes(len(vocabulary.items), len(vocabulary.event_types), gaps, settings.hidden, settings.cell)


class _InTrial:
    """The progress of a trial's epochs. Their lines are not said: the trial has one of its own."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress, self._label = progress, label

    def begin(self, label: str, clicks: int) -> None:
        self._progress.begin(f"{self._label}, {label}", clicks)

    def seen(self, clicks: int) -> None:
        self._progress.seen(clicks)

    def say(self, line: str) -> None:
        pass


def _open_study(path: Path, held_out: HeldOut, base: TrainSettings) -> optuna.Study:
    """The study in the file, or a new one there. Raises ConfigError if it is another log's."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="eddy", storage=f"sqlite:///{path}", direction="maximize", load_if_exists=True
    )
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
    # A seed of its own for each start, or a study that goes on would draw its first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=base.seed + 1000 * len(study.get_trials(deepcopy=False)))
    columns = (held_out.clicks.item, held_out.clicks.user, held_out.clicks.time_ms)
    digest = hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest()[:16]
    of = f"{len(held_out.clicks):,} clicks ({digest}), cell {base.cell}, seed {base.seed}"
    if study.user_attrs.setdefault("of", of) != of:
        raise ConfigError(f"study {path}: it is of {study.user_attrs['of']}, this is {of}; take another --study")
    study.set_user_attr("of", of)
    return study


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return trials


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return trials


def _inside(space: BaseDistribution, value: float) -> float:
    """The nearest value of the space."""
    assert isinstance(space, IntDistribution | FloatDistribution)
    near: float = min(max(value, space.low), space.high)
    if space.step is not None:
        near = space.low + space.step * round((near - space.low) / space.step)
    return near


def _best(study: optuna.Study, first: dict[str, float], cell: str) -> Tuned:
    complete = _complete(study)
    if not complete:
        raise ConfigError("no trial was run to its end: give the search more time")
    best = max(complete, key=lambda trial: trial.value or 0.0)
    default = next((trial.value for trial in complete if trial.params == first), None)
    return Tuned(
        settings={**best.params, "cell": cell},
        default=default,
        trials=len(_ended(study)),
        given_up=len(_ended(study)) - len(complete),
        **best.user_attrs,
    )

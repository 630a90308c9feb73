"""Measures next action, purchase intent and return against baselines, on public logs that are split by time.

    python -m bench.behaviour [--logs taobao,taobao-users,rees46,retailrocket,trivago,globo] [--seed 0] [--json]

The logs and their splits are in bench/behaviour/logs.py. Intervals are 95 %, from resamples of the users. Each log
replaces only its own results. Exit code 1 if a goal is missed: next action has a lower log loss and a higher macro-F1
than every baseline; intent a higher average precision and lift at 10 % than boosting; a calibration error of at most
.02; return a lower log loss and a higher AUROC than the recency rule and boosting.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.behaviour import baselines
from bench.behaviour.eddy import Answers, answers
from bench.behaviour.logs import SOURCES, Part, Split, split_of
from bench.behaviour.measures import (
    accuracy,
    auprc,
    auroc,
    calibration_error,
    lift,
    log_loss,
    macro_f1,
    measured,
)
from bench.command import say
from bench.report import RESULTS, Figures, conclude, kept, write_report
from export.ahead.upcoming import EDGES_MS, LEFT_AFTER
from export.arrays import F64, I64, Flags

RESULT = RESULTS / "behaviour.json"
DAY_MS = 86_400_000
EARLY = 3
"""Clicks of the session after which intent is measured apart."""

MOST_ERROR = 0.02
BOOSTING_MORE = "boosting_more"
"""Boosting that knows the click before, too. It is shown; the goals are against boosting on counts and times."""

NEXT = {"log_loss": log_loss, "macro_f1": macro_f1, "accuracy": accuracy}
INTENT = {
    "auprc": auprc, "lift_5": lift(0.05), "lift_10": lift(0.1), "log_loss": log_loss,
    "calibration_error": calibration_error,
}  # fmt: skip
RETURN = {"log_loss": log_loss, "auroc": auroc, "auprc": auprc, "calibration_error": calibration_error}


def next_action(split: Split, ours: Answers) -> Figures:
    train, test = split.train, split.test
    known, judged = train.label.next_type >= 0, test.label.next_type >= 0
    target, classes = train.label.next_type[known], len(split.event_types) + 2
    methods = {
        "eddy": ours.next,
        "majority": np.tile(baselines.shares(target, classes), (len(judged), 1)),
        "markov": baselines.by_group(train.event_type[known], target, test.event_type, classes),
        "boosting": baselines.boosting(train, known, target, test, classes),
        BOOSTING_MORE: baselines.boosting(train, known, target, test, classes, baselines.with_earlier),
    }
    label = test.label.next_type[judged]
    found = measured(label, _at(methods, judged), test.user[judged], NEXT, "boosting")
    leaves = {name: np.stack([1 - p[:, -1], p[:, -1]], axis=1) for name, p in _at(methods, judged).items()}
    left = (label == classes - 1).astype(np.int64)
    errors = {name: round(calibration_error(left, p, np.ones(len(left))), 4) for name, p in leaves.items()}
    return {"clicks": len(label), "leaves": round(float(left.mean()), 4), "leaves_calibration_error": errors, **found}


def intent(split: Split, ours: Answers) -> Figures:
    train, test = split.train, split.test
    known, judged = train.label.intent >= 0, test.label.intent >= 0
    target = train.label.intent[known]
    methods = {
        "eddy": ours.intent,
        "last_event": baselines.by_group(train.event_type[known], target, test.event_type, 2),
        "logistic": baselines.logistic(train, known, target, test),
        "boosting": baselines.boosting(train, known, target, test, 2),
        BOOSTING_MORE: baselines.boosting(train, known, target, test, 2, baselines.with_earlier),
    }
    early = judged & (test.counters[:, 0] == EARLY)
    return {
        part: _binary(test.label.intent, rows, methods, test.user, INTENT)
        for part, rows in (("every_click", judged), ("after_3_clicks", early))
    }


def returns(split: Split, ours: Answers, days: int) -> Figures:
    train, test = split.train, split.test
    (label, known), (later, judged) = (came_back(part, days) for part in (train, test))
    recent, of_test = baselines.recency_group(train), baselines.recency_group(test)
    methods = {
        "eddy": ours.returns[days],
        "recency": baselines.by_group(recent[known], label[known], of_test, 2),
        "boosting": baselines.boosting(train, known, label[known], test, 2),
    }
    return _binary(later, judged, methods, test.user, RETURN)


def came_back(part: Part, days: int) -> tuple[I64, Flags]:
    """Whether the user came back within so many days after the last click of a session, and where this is known: of
    clicks so many days before the end. Of later ones only those who came back soon would be known."""
    label = part.label
    back = label.clicked & (label.passed <= EDGES_MS.index(days * DAY_MS))
    return back.astype(np.int64), (label.passed >= LEFT_AFTER) & (part.rest_ms >= days * DAY_MS)


def _binary(label: I64, rows: Flags, methods: dict[str, F64], user: I64, measures: dict[str, Any]) -> Figures:
    counts = {"clicks": int(rows.sum()), "positive": int(label[rows].sum()), "users": len(np.unique(user[rows]))}
    positive = len(np.unique(user[rows & (label == 1)]))
    found = measured(label[rows], _at(methods, rows), user[rows], measures, "boosting")
    return {**counts, "users_with_positive": positive, **found}


def _at(methods: dict[str, F64], rows: Flags) -> dict[str, F64]:
    return {name: p[rows] for name, p in methods.items()}


def measure(name: str, seed: int) -> tuple[Figures, Figures]:
    say(f"{name}: reading")
    source, split = SOURCES[name], split_of(name)
    began = time.monotonic()
    ours = answers(split, source.over_ms, source.returns, seed)
    conditions = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "log": source.what,
        "clicks": len(split.log),
        "training_share": source.share,
        "event_types": split.event_types,
        "intent": source.intent,
        "weights": ours.trust,
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
    }
    say(f"{name}: measuring the baselines")
    found: Figures = {"next_action": next_action(split, ours)}
    if split.intent is not None:
        found["intent"] = intent(split, ours)
    for days in source.returns:
        found[f"return_{days}d"] = returns(split, ours, days)
    return found, conditions


def failures(results: dict[str, Figures]) -> list[str]:
    """One line for each goal that is missed."""
    goals = {
        "next_action": ("log_loss", "macro_f1"),
        "every_click": ("auprc", "lift_10", "calibration_error"),
        "after_3_clicks": ("auprc", "lift_10"),
        "return": ("log_loss", "auroc", "calibration_error"),
    }
    found = []
    for log, tasks in results.items():
        flat = {**tasks, **tasks.get("intent", {})}
        for task, figures in flat.items():
            for goal in goals.get("return" if task.startswith("return") else task, ()):
                ours = figures["eddy"][goal]
                if goal == "calibration_error":
                    if ours > MOST_ERROR:
                        found.append(f"{log}, {task}: calibration error {ours:.4f} is above {MOST_ERROR}")
                    continue
                sign = -1 if goal == "log_loss" else 1
                found += [
                    f"{log}, {task}: {goal} {ours:.4f} is not better than {name} with {one[goal]:.4f}"
                    for name, one in figures.items()
                    if isinstance(one, dict)
                    and goal in one
                    and name not in ("eddy", "eddy_minus_boosting", BOOSTING_MORE)
                    and sign * ours <= sign * one[goal]
                ]
    return found


def table(results: dict[str, Figures]) -> str:
    rows = []
    for log, tasks in results.items():
        for task, figures in {**tasks, **tasks.get("intent", {})}.items():
            for name, one in figures.items():
                if isinstance(one, dict) and "log_loss" in one and not name.startswith("eddy_minus"):
                    shown = "  ".join(f"{key} {value:.4f}" for key, value in one.items() if "_interval" not in key)
                    rows.append(f"{log:13}{task:15}{name:11}{shown}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--logs", default=",".join(SOURCES), help="logs, separated by commas [all]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the network and of the head [0]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results, conditions = kept(given.out, "results"), kept(given.out, "conditions")
    report: Figures = {}
    for name in given.logs.split(","):
        results[name], conditions[name] = measure(name, given.seed)
        report = write_report(given.out, "bench.behaviour", conditions, results, failures(results))
        print(table({name: results[name]}), flush=True)
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())

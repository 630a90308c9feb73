"""Injects anomalies into public logs, and measures what Eddy's alerts and simple rules find at equal false-alarm rates.

1. A model is trained on the first part of each log. Later clicks are the clean slice. It is clean only in the sense
   that nothing was injected: real logs have bots too.
2. The threshold of each contender is its score that 1 (and 10) of 10,000 clean sessions exceed.
3. Each kind of episode is injected into the clean slice at three strengths, one kind and strength at a time. An episode
   is found at its first click above the threshold. Faults and credential stuffing concern many users at once; here each
   user of them is an episode.
4. Controls are unusual and harmless. Their alerts are compared with those of the clean slice.

The report has recall, delay in clicks and average precision by kind and strength, and nominal against realised shares
of sessions with an alert. The tuning set has other seeds and other ranges than the reporting set. Use --set tuning
while you work on a detector; publish figures of the reporting set only. A run replaces the results of its own logs.

    make anomaly-bench
    python -m bench.anomaly --logs taobao --seeds 0 --set tuning --out tuning.json    one log, to work on a detector
    python -m bench.anomaly --train "--epochs 2 --hidden 64"                          smaller models
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.progress import Progress

from bench.anomaly.clicks import apply
from bench.anomaly.command import Measured, options, run
from bench.anomaly.contenders import Contender, score_world
from bench.anomaly.controls import CONTROLS, control
from bench.anomaly.eddy import EddyPValue, contenders
from bench.anomaly.injections import KINDS, inject, left_out
from bench.anomaly.logs import Log
from bench.anomaly.measures import (
    F64,
    FALSE,
    PER,
    Threshold,
    alerts_among,
    average_precision,
    found,
    realised,
    session_maxima,
    summary,
    threshold,
    touched_maxima,
)
from bench.anomaly.ranges import STRENGTHS
from bench.command import stop
from bench.report import RESULTS, Figures

RESULT = RESULTS / "anomaly.json"
MEAN = "mean of medium and strong"


class Scored:
    """A contender with its scores of the clean clicks, the final ones, and the thresholds that come from these."""

    def __init__(self, contender: Contender, log: Log) -> None:
        self.contender = contender
        self.clean: F64 = contender.score(log.later)
        self.final: F64 = contender.final(log.later, self.clean)
        self.maxima = session_maxima(self.final, log.clean_session)
        self.thresholds: dict[int, Threshold] = {rate: threshold(self.maxima, rate) for rate in FALSE}


def measure(log: Log, methods: dict[str, Contender], which: str, seeds: list[int], progress: Progress) -> Figures:
    """The figures of all contenders on one log."""
    kinds = [kind for kind in KINDS if left_out(log, kind) is None]
    steps = len(methods) + len(seeds) * (len(kinds) * len(STRENGTHS) + len(CONTROLS))
    bar = progress.add_task(f"{log.name}: clean clicks", total=steps)
    scored = {}
    for name, method in methods.items():
        scored[name] = Scored(method, log)
        progress.update(bar, advance=1)
    cells: dict[str, dict[str, list[Figures]]] = {name: {} for name in methods}
    alerts: dict[str, dict[str, list[dict[str, int]]]] = {name: {} for name in methods}
    for seed in seeds:
        for kind in kinds:
            for strength in STRENGTHS:
                progress.update(bar, description=f"{log.name}: {kind}, {strength}", advance=1)
                world = apply(log.later, inject(log, which, kind, strength, seed))
                for name, one in scored.items():
                    score = score_world(one.contender, one.clean, world)
                    cell: Figures = {"auprc": average_precision(touched_maxima(world, score), one.maxima)}
                    for rate, at in one.thresholds.items():
                        hits = found(world, score, at.value)
                        cell |= {"episodes": hits.episodes, f"delays_{rate}": hits.delays}
                    if world.episodes:
                        cells[name].setdefault(f"{kind}, {strength}", []).append(cell)
        for kind in CONTROLS:
            progress.update(bar, description=f"{log.name}: {kind}", advance=1)
            world = apply(log.later, control(log, which, kind, seed))
            for name, one in scored.items():
                score = score_world(one.contender, one.clean, world)
                counts = alerts_among(world, score, one.thresholds[FALSE[-1]].value)
                alerts[name].setdefault(kind, []).append(counts)
    progress.remove_task(bar)
    return {name: figures(log, one, cells[name], alerts[name]) for name, one in scored.items()}


def figures(log: Log, one: Scored, cells: dict[str, list[Figures]], alerts: dict[str, list[dict[str, int]]]) -> Figures:
    """The figures of one contender on one log."""
    kinds = {name: summary(parts) for name, parts in cells.items()}
    judged = [found for name, found in kinds.items() if not name.endswith(STRENGTHS[0])]
    at = one.thresholds[FALSE[-1]]
    clean = {
        "sessions": len(one.maxima),
        "clicks": len(one.clean) - log.begins,
        **{f"false_sessions_{rate}": threshold.false for rate, threshold in one.thresholds.items()},
        **{f"allowed_sessions_{rate}": threshold.allowed for rate, threshold in one.thresholds.items()},
        f"alert_rate_per_click_{FALSE[-1]}": float((one.final[log.begins :] > at.value).mean()),
    }
    result: Figures = {"clean": clean, MEAN: {}, "kinds": kinds, "controls": {}}
    for key in (*(f"recall_{rate}" for rate in FALSE), "auprc"):
        result[MEAN][key] = round(float(np.mean([each[key] for each in judged])), 4)
    for kind, parts in alerts.items():
        total = {key: sum(part[key] for part in parts) for key in parts[0]}
        rate = total["clicks_alerted"] / max(1, total["clicks"])
        result["controls"][kind] = {**total, "alert_rate_per_click": round(rate, 6)}
    if isinstance(one.contender, EddyPValue):
        first = np.full(len(one.maxima), np.iinfo(np.int64).max)
        inside = log.clean_session >= 0
        np.minimum.at(first, log.clean_session[inside], log.later.time_ms[inside])
        result["nominal_and_realised"] = realised(one.maxima, first)
    return result


def table(log: str, methods: dict[str, Figures]) -> str:
    """The figures of a log, for a person."""
    head = "".join(f"{name[:18]:>20}" for name in methods)
    first = next(iter(methods.values()))
    clean = first["clean"]
    lines = [f"{log}: {clean['sessions']:,} clean sessions, {clean['clicks']:,} clicks", ""]
    lines += [f"recall at 1 / at 10 of {PER:,} clean sessions, delay in clicks at 10", f"{'':36}{head}"]
    for kind in (*first["kinds"], MEAN):
        cells = [one[MEAN] if kind == MEAN else one["kinds"][kind] for one in methods.values()]
        lines.append(f"{kind:36}" + "".join(f"{_cell(cell):>20}" for cell in cells))
    lines += ["", f"users alerted in controls, at 10 of {PER:,}", f"{'':36}{head}"]
    for kind, of in first["controls"].items():
        row = "".join(f"{one['controls'][kind]['users_alerted']:>20,}" for one in methods.values())
        lines.append(f"{kind + ' (' + format(of['users'], ',') + ')':36}{row}")
    for name, one in methods.items():
        rates = one.get("nominal_and_realised", {}).items()
        lines += [
            f"{name}, sessions with an alert: {a} -> {r['rate']:.5f}, worst hour {r['worst_hour']:.5f}"
            for a, r in rates
        ]
    return "\n".join(lines)


def _cell(found: Figures) -> str:
    delay = found.get("delay_10")
    return f"{found['recall_1']:.3f} / {found['recall_10']:.3f}" + (f" {delay:>4}" if delay else " " * 5)


def conditions_of(log: Log, given: argparse.Namespace, seeds: list[int]) -> Figures:
    """The conditions of one log's measurement, with what was left out."""
    found = log.clean_session
    return {
        "log": log.what,
        "set": given.set,
        "seeds": seeds,
        "options of eddy train": given.train,
        "clicks_trained_on": len(log.train),
        "clean_clicks": len(log.later) - log.begins,
        "clean_sessions": int(found.max()) + 1,
        "smallest_rate_of_sessions": round(1 / (int(found.max()) + 1), 8),
        "warm_up_clicks": log.begins,
        "users_share": "the share of users with an episode is drawn from ranges.SHARES",
        "left_out": {kind: reason for kind in KINDS if (reason := left_out(log, kind))},
        "contenders_left_out": {"isolation forest": "scikit-learn is not a dependency"},
    }


def main() -> int:
    parser = options("bench.anomaly", __doc__, RESULT)
    parser.add_argument("--seeds", default="0", help="seeds of the injections, separated by commas [0]")
    given = parser.parse_args()
    if not all(seed.isdigit() for seed in given.seeds.split(",")):
        stop(f"--seeds {given.seeds!r} is not a list of whole numbers, such as 0,1")
    seeds = [int(seed) for seed in given.seeds.split(",")]

    def measured(log: Log, model: Path, progress: Progress) -> Measured:
        found = measure(log, contenders(log, model), given.set, seeds, progress)
        return Measured(found, conditions_of(log, given, seeds), table(log.name, found))

    return run("bench.anomaly", given, measured)


if __name__ == "__main__":
    sys.exit(main())

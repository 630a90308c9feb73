"""Measures the alerts on the HDFS log, whose sessions are labelled: the classical log of research on anomalies.

1. A model is trained with the default settings on 4,855 normal sessions. It knows nothing of the test sessions.
2. Each test session goes through the engine, and then ends: with a later click of another user, and by the clock.
3. A session is found if it has an alert, on a click or on its end. F1 is computed for the p-value .001, which was fixed
   before; .01 and .0001 are beside it.

The test has a hundredth of the normal sessions of the original, so each counts WEIGHT times. The log has no times: its
clicks are 10 s apart. Each session is in a partition of its own. So the p-values are not corrected by the live stream:
three of four test sessions are anomalous, in the original one of 34.

Source of the log: Xu et al. 2009, in the split of Du et al. 2017 (DeepLog). The log is no part of the project.

    python -m bench.hdfs [--model MODEL] [--json]
"""

import argparse
import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.command import run_eddy, say, stop
from bench.report import DATA_DIRECTORY, RESULTS, ROOT, Figures, conclude, write_report
from stream.engine.engine import Cycle, Engine
from stream.events import Anomaly, Click, Origin, Partition, Session
from stream.manifest import read_manifest
from stream.model.runtime import load_model
from stream.sessions.ends import rest_ends
from stream.sessions.unusual import never
from stream.worker.served import anomalies, open_engine, sessions

RESULT, SCRATCH = RESULTS / "hdfs.json", ROOT / ".cache" / "hdfs"
ALPHA, BESIDE = 0.001, (0.01, 0.0001)
LEAST_F1 = 0.975
NORMAL_SESSIONS = 553_366
"""Of the original test part, of which test_normal is a hundredth."""

TRAINED_MS, TESTED_MS = 1_700_000_000_000, 1_800_000_000_000
CLICK_MS, SESSION_MS, LATER_MS = 10_000, 60_000, 86_400_000
TOPIC, CLOCK = "hdfs", "clock"
PER_BATCH = 200


class Judged(NamedTuple):
    """What was found of a test session.

    click  the smallest p-value of a click
    end    the p-value of the end
    never  its items are not those of a training session
    alert  it has an alert, at ALPHA
    """

    click: float
    end: float
    never: bool
    alert: bool


def read(name: str) -> list[list[str]]:
    """The items of each session of a file."""
    path = DATA_DIRECTORY / "hdfs" / f"{name}.txt.gz"
    if not path.is_file():
        stop(f"left out: {path} does not exist; set EDDY_DATA to the directory above it")
    with gzip.open(path, "rt") as lines:
        return [line.split(",")[-1].split() for line in lines]


def trained() -> Path:
    """Train a model on the normal sessions; their users begin a minute apart."""
    log, model = SCRATCH / "train.csv", SCRATCH / "hdfs" / "1"
    if (model / "manifest.json").is_file():
        stop(f"{model} exists: give --model {model}, or delete it to train again")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    clicks = sorted(
        (TRAINED_MS + i * SESSION_MS + j * CLICK_MS, f"b{i}", item)
        for i, session in enumerate(read("train_normal"))
        for j, item in enumerate(session)
    )
    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "user_id", "item_id"])
        writer.writerows(clicks)
    run_eddy("train", log, "--out", model)
    return model


def judge(engine: Engine, tested: Sequence[Sequence[str]]) -> Iterator[Judged]:
    """Pass test sessions through the engine. Ends the benchmark if an end depends on how the session ends."""
    for start in range(0, len(tested), PER_BATCH):
        numbers = range(start, min(start + PER_BATCH, len(tested)))
        clicks = [Click(f"b{n}", item, TESTED_MS + j * CLICK_MS) for n in numbers for j, item in enumerate(tested[n])]
        origins = [Origin(TOPIC, n, j) for n in numbers for j in range(len(tested[n]))]
        cycle = engine.process(engine.encoder.columns(clicks, origins), TESTED_MS)
        alerts = anomalies(engine, clicks, origins, cycle)
        engine.commit(cycle)
        later = [Click(CLOCK, tested[n][0], TESTED_MS + LATER_MS) for n in numbers]
        its = [Origin(TOPIC, n, len(tested[n])) for n in numbers]
        by_time = engine.process(engine.encoder.columns(later, its), TESTED_MS)
        quiet = [Partition(TOPIC, n) for n in numbers]
        at_rest = engine.rest({one: rest_ends(engine.arena.newest_ms(one)) for one in quiet})
        ended = ends(engine, later, its, by_time)
        if _bytes(*ended) != _bytes(*ends(engine, (), (), at_rest)):
            stop("an end by the clock differs from the same end by time of the partition")
        found = {alert.user_id for alert in [*alerts, *ended[0]]}
        p_values = dict.fromkeys((f"b{n}" for n in numbers), 1.0)
        for click, p_value in zip(clicks, cycle.decisions.p_value.tolist(), strict=True):
            p_values[click.user_id] = min(p_values[click.user_id], p_value)
        new = _never(engine, by_time)
        of_end = {session.user_id: session.p_value for session in ended[1]}
        for user, p_value in p_values.items():
            end = of_end[user]
            if end is None:
                stop("the model does not score ends")
            yield Judged(p_value, end, user in new, user in found)


def ends(
    engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle
) -> tuple[list[Anomaly], list[Session]]:
    """The alerts on ends, and the ends themselves, without those of the user CLOCK."""
    alerts = [one for one in anomalies(engine, clicks, origins, cycle) if one.user_id != CLOCK]
    return alerts, [one for one in sessions(engine, clicks, origins, cycle) if one.user_id != CLOCK]


def _bytes(alerts: list[Anomaly], closed: list[Session]) -> list[bytes]:
    return sorted(msgspec.json.encode(one) for one in [*alerts, *closed])


def _never(engine: Engine, cycle: Cycle) -> set[str]:
    """The users whose session has items that no training session had together."""
    ending = cycle.ended.sessions.ending
    if engine.ends is None or ending is None:
        stop("the model does not score ends")
    new = never(engine.ends.vectors, ending.vector)
    return {user.decode() for (_, user), one in zip(cycle.ended.owners, new.tolist(), strict=True) if one}


def measures(normal: list[bool], anomalous: list[bool]) -> Figures:
    """F1, precision and recall. Each normal session counts as often as the original has more of them."""
    weight = NORMAL_SESSIONS / len(normal)
    true, false = sum(anomalous), sum(normal) * weight
    precision, recall = true / max(1.0, true + false), true / len(anomalous)
    f1 = 2 * precision * recall / max(1e-9, precision + recall)
    return {
        "f1": round(f1, 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "normal_found": sum(normal),
        "anomalous_found": true,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="a model that this benchmark has trained before; else it trains one")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    normal, anomalous = read("test_normal"), read("test_abnormal")
    model = given.model or trained()
    engine = open_engine(load_model(model, "cpu"), model, 1, 1, ALPHA, forget_after_days=0, lists="last")
    say(f"judging {len(normal):,} normal and {len(anomalous):,} anomalous sessions")
    judged = list(judge(engine, normal + anomalous))
    parts = judged[: len(normal)], judged[len(normal) :]

    def measured(rule: str, alpha: float = ALPHA) -> Figures:
        of = {
            "alerts": lambda one: one.alert,
            "clicks or end": lambda one: min(one.click, one.end) <= alpha,
            "clicks": lambda one: one.click <= alpha,
            "end": lambda one: one.end <= alpha,
            "never seen": lambda one: one.never,
        }[rule]
        return measures(*([of(one) for one in part] for part in parts))

    results = {
        f"alerts, {ALPHA:g}": measured("alerts"),
        **{f"clicks or end, {alpha:g}": measured("clicks or end", alpha) for alpha in (ALPHA, *BESIDE)},
        f"clicks alone, {ALPHA:g}": measured("clicks"),
        **{f"end alone, {alpha:g}": measured("end", alpha) for alpha in (ALPHA, *BESIDE)},
        "items never seen together": measured("never seen"),
    }
    failures = []
    if results[f"alerts, {ALPHA:g}"] != results[f"clicks or end, {ALPHA:g}"]:
        failures.append("the sessions with an alert are not those with a small p-value")
    if results[f"alerts, {ALPHA:g}"]["f1"] < LEAST_F1:
        failures.append(f"F1 is below {LEAST_F1}")
    manifest = read_manifest(model)
    conditions = {
        "normal": len(normal),
        "anomalous": len(anomalous),
        "normal_weight": round(NORMAL_SESSIONS / len(normal), 1),
        "alpha": ALPHA,
        "held_out_sessions": engine.judge.detector.held_out,
        "kinds_of_training_sessions": 0 if engine.ends is None else len(engine.ends.vectors),
        "clicks_trained": manifest.training.get("clicks"),
        "ends_by_time_and_by_clock": "equal, byte for byte",
    }
    for name, figures in results.items():
        print(f"{name:28}" + "".join(f"  {key} {value:>8,}" for key, value in figures.items()))
    return conclude(write_report(given.out, "bench.hdfs", conditions, results, failures), given.json)


if __name__ == "__main__":
    sys.exit(main())

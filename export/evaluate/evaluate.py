"""Evaluates a model on a log with the serving engine, and compares it with the baselines.

The target of each list is the same user's next click in the same session. A target that the model does not know counts
as a miss for every method. The engine runs the ONNX files on the clicks in time order, and users start from a zero
state. So with the worker's `exclude_recent` and rules these are the metrics of the `recommendations` topic. With equal
scores the item with more training clicks ranks first, for every method.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from export.arrays import F64, I64
from export.evaluate.baselines import Baseline, best, load_baselines, rivals
from export.evaluate.columns import log_columns
from export.evaluate.positions import Judged, Positions, rank_in
from export.log.log import Log
from export.log.times import iso, parse_time
from export.measure.metrics import (
    KINDS,
    POSITIONS,
    K,
    by_kind,
    intervals,
    measures,
    popularity_kind,
    position_kind,
)
from export.progress import NullProgress, Progress
from stream.engine.engine import Engine
from stream.errors import ConfigError
from stream.model.gaps import starts_session
from stream.model.runtime import load_model
from stream.settings import RECENT_ITEMS, Rules
from stream.worker.served import NO_RULES, open_engine

CYCLE = 1_000
"""Clicks per cycle of the engine, as in a busy worker. The results do not depend on it."""

ALPHAS = (0.05, 0.01, 0.001)
"""The nominal false-alarm rates whose realised rate is reported."""


class Quality(NamedTuple):
    """recall20: share of judged clicks whose next item was among the first 20; mrr20: mean of 1/rank, 0 for a miss."""

    judged: int
    recall20: float
    mrr20: float


def judge(clicks: Iterable[tuple[str, str, str, Sequence[str]]]) -> Quality:
    """The quality of recommended lists: each list is judged by the next item of its session.

    clicks  (user, session, item, recommended), in time order
    """
    waiting: dict[tuple[str, str], Sequence[str]] = {}
    ranks = []
    for user, session, item, recommended in clicks:
        listed = waiting.get((user, session))
        if listed is not None:
            ranks.append(rank_in(listed, item))
        waiting[user, session] = recommended
    if not ranks:
        return Quality(0, 0.0, 0.0)
    figures = measures(np.array(ranks, np.uint8))
    return Quality(len(ranks), figures["recall20"], figures["mrr20"])


def _run_engine(engine: Engine, log: Log, positions: Positions, watch: Progress) -> tuple[Judged, F64]:
    """Run the engine on the log; return its judged lists and the p-value of every click, (n,)."""
    judged, p_values = Judged(len(positions), len(engine.model.items), engine.category), np.ones(len(log))
    number = np.full(len(log), -1, np.int64)
    number[positions.row] = np.arange(len(positions))
    rows, clicks = log.in_time_order(), log_columns(log, engine.encoder)
    watch.begin("evaluating eddy", len(log))
    for start in range(0, len(log), CYCLE):
        part = np.arange(start, min(start + CYCLE, len(log)))
        cycle = engine.process(clicks.take(part), now_ms=int(clicks.time_ms[part[-1]]))
        engine.commit(cycle)
        lists, decided = cycle.decisions.lists, rows[part[cycle.decided]]
        p_values[decided] = cycle.decisions.p_value
        at_row = number[decided].tolist()
        for at, listed, count in zip(at_row, lists.items.tolist(), lists.counts.tolist(), strict=True):
            if at >= 0:
                judged.take(at, listed[:count], int(positions.target[at]))
        watch.seen(len(part))
    return judged, p_values


def _run_baseline(
    name: str, method: Baseline, judged: Judged, positions: Positions, exclude_recent: int, watch: Progress
) -> Judged:
    watch.begin(f"evaluating {name}", len(positions))
    for at, (session, recent, target) in enumerate(positions.seen(exclude_recent)):
        judged.take(at, best(method, session, recent, len(judged.recommended)), target)
        if at % CYCLE == CYCLE - 1:
            watch.seen(CYCLE)
    return judged


def evaluate(
    directory: Path,
    log: Log,
    exclude_recent: int,
    device: str = "cpu",
    watch: Progress | None = None,
    judge_from_ms: int | None = None,
    rules: Rules = NO_RULES,
) -> dict[str, Any]:
    """Evaluate the model and the baselines on the log; return the JSON object of `eddy evaluate`.

    exclude_recent  every method excludes the items of the user's last N clicks; 0 = full ranking
    judge_from_ms   lists of earlier clicks are not judged: these clicks only build the users' states
    rules           the worker's rules, for Eddy's lists only: the baselines have no rules
    Raises ArtifactError on a bad model, ConfigError on a wrong setting or if no click can be judged.
    """
    if not 0 <= exclude_recent <= RECENT_ITEMS:
        raise ConfigError(f"exclude_recent is {exclude_recent}; it must be between 0 and {RECENT_ITEMS}")
    watch = watch or NullProgress()
    model = load_model(directory, device)
    sessions, setting = load_baselines(directory)
    positions = Positions(log, model.index, judge_from_ms)
    if not len(positions):
        when = "" if judge_from_ms is None else f" from {iso(judge_from_ms)} on"
        raise ConfigError(f"nothing to judge: no session of the log has two clicks{when}")
    engine = open_engine(model, directory, k=K, exclude_recent=exclude_recent, alpha=min(ALPHAS), rules=rules)
    ours, p_values = _run_engine(engine, log, positions, watch)
    judged = {"eddy": ours}
    for name, method in rivals(sessions, setting).items():
        empty = Judged(len(positions), len(model.items), engine.category)
        judged[name] = _run_baseline(name, method, empty, positions, exclude_recent, watch)
    return {
        "model": model.manifest.label,
        "clicks": len(log),
        "judged": len(positions),
        "exclude_recent": exclude_recent,
        "rules": {name: value for name, value in msgspec.to_builtins(rules).items() if value},
        "judged_from": None if judge_from_ms is None else iso(judge_from_ms),
        **report(judged, positions, sessions.counts),
        "vsknn_setting": asdict(setting),
        "training_clicks_kept": len(sessions.item),
        "calibration": calibration(p_values, log),
        "remarks": [
            *remarks(positions.target, model.items, _first_unknown(log, model.index)),
            *unknown_events(log, model.manifest.event_types),
            *already_learned(log, positions.row, model.manifest.training.get("until")),
        ],
    }


def calibration(p_values: F64, log: Log) -> dict[str, float]:
    """For each of ALPHAS the share of sessions with a click whose p-value is at most alpha, the nominal share.

    p_values  (n,) of each click of the log
    """
    starts = (log.user[1:] != log.user[:-1]) | starts_session(np.diff(log.time_ms))
    lowest = np.minimum.reduceat(p_values, np.flatnonzero(np.append(True, starts)))
    return {f"p<={alpha:g}": float((lowest <= alpha).mean()) for alpha in ALPHAS}


def _first_unknown(log: Log, index: dict[str, int]) -> str:
    """The first item of the log that the model does not know; "" if it knows all."""
    return next((log.items[i] for i in log.item if log.items[i] not in index), "")


def remarks(target: I64, names: Sequence[str], unknown: str) -> list[str]:
    """Remarks about targets that no method can recommend, and about a small catalogue.

    target   (m,) as in Positions
    names    (V,) the model's items
    unknown  an item of the log that the model does not know: it shows whether ids have a different format
    """
    found, items, missed = [], len(names), int((target == len(names)).sum())
    if missed == len(target):
        ids = f"such as {unknown!r}; an item that it knows is {names[0]!r}"
        found.append(f"all judged clicks are on items that the model does not know, {ids}: a miss for every method")
    elif missed:
        share = f"{missed:,} of the {len(target):,}"
        found.append(f"{share} judged clicks are on items that the model does not know: a miss for every method")
    if items <= K:
        found.append(
            f"the catalogue has {items} items, a list has {K}: all methods have the same recall@20, compare MRR"
        )
    return found


def unknown_events(log: Log, known: Sequence[str]) -> list[str]:
    """A remark about event types that the model does not know: they all have the same index."""
    clicks = np.bincount(log.event_type, minlength=len(log.event_types))
    new = [i for i, name in enumerate(log.event_types) if name not in known and clicks[i]]
    if not new:
        return []
    most = log.event_types[max(new, key=lambda i: clicks[i])]
    share = f"{sum(clicks[i] for i in new):,} of the {len(log):,} clicks"
    return [f"{share} have an event type that the model does not know, such as {most!r}; it knows {_some(known)}"]


def already_learned(log: Log, judged: I64, until: str | None) -> list[str]:
    """A remark about judged clicks that may have been part of the training.

    judged  (m,) rows of the log
    until   time of the last training click, to the second
    """
    if until is None or log.in_order:
        return []
    early = int((log.time_ms[judged] < parse_time(until) + 1000).sum())
    if not early:
        return []
    share = f"{early:,} of the {len(judged):,} judged clicks"
    return [f"{share} are not later than the last training click at {until}: the model may have been trained on them"]


def _some(names: Sequence[str]) -> str:
    return ", ".join([*map(repr, names[:5]), *(["..."] if len(names) > 5 else [])])


def report(judged: dict[str, Judged], positions: Positions, counts: I64) -> dict[str, Any]:
    """The metrics of each method, and in `lead` the difference between eddy and the best baseline."""
    found = intervals({name: one.rank for name, one in judged.items()}, positions.session)
    so_far, popularity = position_kind(positions.so_far), popularity_kind(positions.target, counts)
    methods = {
        name: {
            **measures(one.rank),
            **found[name],
            **one.beyond_accuracy(counts),
            "by_position": by_kind(one.rank, so_far, tuple(POSITIONS)),
            "by_popularity": by_kind(one.rank, popularity, KINDS),
        }
        for name, one in judged.items()
    }
    return {**methods, "lead": found["lead"]}

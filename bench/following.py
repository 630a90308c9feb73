"""Measures the cost of predicting what users do next and following their sessions: CPU time per click, bytes of a row.

The functions of these parts are timed inside of `Engine.process`, on one thread, by the thread's CPU time:

    next action, intent, return    ahead.onnx, and what it reads of a user
    sessions                       begins, ends and revisions, by the user's clicks and the partition's time; summaries
    events                         the messages about begins and ends, and the values in the decisions, as JSON

Random weights, because the cost does not depend on them. One click in five begins a session. The result is the median
of the rounds; a round has new states. Cycles of a worker that keeps up have some hundred clicks, those of one that is
behind up to 5,000. Exit code 1 if a goal is missed: 10 us a click in cycles of 1,000 clicks, and 200 bytes of a row
with four event types.

    python -m bench.following [--rounds N] [--json]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench.report import RESULTS, Figures, conclude, write_report
from export.model.untrained import write_untrained
from stream.ahead.counters import counter_fields
from stream.engine import engine as engine_room
from stream.engine.engine import Cycle, Engine
from stream.events import Click, Origin
from stream.manifest import Ahead
from stream.model.runtime import Model, load_model
from stream.sessions.track import SEEN, Track, session_fields
from stream.wire.json import encode
from stream.wire.output import Foreseen
from stream.worker import served
from stream.worker.served import open_engine, sessions

RESULT = RESULTS / "following.json"
ITEMS, HIDDEN, USERS, K = 2_000, 64, 800, 20
EVENTS = ["view", "cart", "wish", "purchase"]
CLICKS, NEW_SESSION = 20_000, 0.2
START_MS, HOUR_MS = 1_700_000_000_000, 3_600_000
BATCHES, JUDGED = (160, 1_000, 5_000), 1_000
"""Clicks of a cycle."""

MOST_US, MOST_BYTES = 10.0, 200

PARTS = AHEAD, SESSIONS, TOLD = "next action, intent, return", "sessions", "events"


def clicks_of(rng: np.random.Generator) -> list[Click]:
    """Random clicks. In each hour a user makes about five clicks, all within ten minutes: a session."""
    hours = CLICKS * NEW_SESSION / USERS
    at_s = np.sort(rng.integers(0, int(HOUR_MS / 1000 * max(1, hours)), CLICKS))
    user, item, kind = (rng.integers(most, size=CLICKS) for most in (USERS, ITEMS, len(EVENTS)))
    hour_s = HOUR_MS // 1000
    minute = user * 7 % 30 * 60 + at_s % 600  # of the hour: each user has an own part of it
    time_ms = START_MS + 1000 * (at_s // hour_s * hour_s + minute)
    order = np.argsort(time_ms, kind="stable")
    return [Click(f"u{user[n]}", f"i{item[n]}", int(time_ms[n]), EVENTS[kind[n]]) for n in order.tolist()]


class Clock:
    """Adds the thread's CPU time in functions to their parts, but for what is timed inside of them."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = 0.0

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            began = time.thread_time()
            try:
                return function(*args, **named)
            finally:
                took = time.thread_time() - began
                self.seconds[part] += took - self._inner
                self._inner = outer + took

        return run


METHODS = ("__init__", "write", "after", "summarise", "foresee")
"""Of Track."""

foreseen = served._foreseen


def as_json(engine: Engine, cycle: Cycle) -> list[Foreseen] | None:
    """The fields of the decisions: `next`, `leaves`, `intent`, `returns_7d`. Their values are written as JSON, too."""
    found = foreseen(engine, cycle)
    made = None if found is None else list(found)
    encode(made)
    return made


def one_round(model: Model, directory: Path, clicks: list[Click], batch: int) -> Figures:
    """Part -> CPU us per click; and the sessions that ended."""
    engine, clock = open_engine(model, directory, K, 1, 0.001), Clock()
    origins = [Origin("clicks", 0, n) for n in range(len(clicks))]
    told = clock.timed(TOLD, lambda *given: [encode(one) for one in sessions(*given)])
    ended = 0
    methods = {name: clock.timed(SESSIONS, getattr(Track, name)) for name in METHODS}
    with (
        patch.object(engine_room, "foresee", clock.timed(AHEAD, engine_room.foresee)),
        patch.object(engine_room, "summed", clock.timed(SESSIONS, engine_room.summed)),
        patch.object(engine_room, "ended", clock.timed(SESSIONS, engine_room.ended)),
        patch.multiple(Track, **methods),
        patch.object(served, "_foreseen", clock.timed(TOLD, as_json)),
    ):
        for begin in range(0, len(clicks), batch):
            part, at = clicks[begin : begin + batch], origins[begin : begin + batch]
            cycle = engine.process(engine.encoder.columns(part, at), now_ms=part[-1].timestamp)
            told(engine, part, at, cycle)
            served.recommendations(engine, part, at, cycle)
            engine.commit(cycle)
            ended += len(cycle.ended.owners)
    return {"us": {part: 1e6 * took / len(clicks) for part, took in clock.seconds.items()}, "ended": ended}


def row_bytes(model: Model) -> int:
    """Bytes of a row that these parts add: their fields, without the time of the partition, which others need too."""
    types = len(model.manifest.event_types)
    fields = (*session_fields(types, None, True), *counter_fields(types))
    return sum(np.dtype(one.dtype).itemsize * int(np.prod(one.shape, dtype=int)) for one in fields if one.name != SEEN)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds [7]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[int, list[Figures]] = {batch: [] for batch in BATCHES}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "random" / "1"
        items = [f"i{n}" for n in range(ITEMS)]
        write_untrained(directory, items, EVENTS, HIDDEN, ahead=Ahead(True, 0, {}, "purchase"))
        model, clicks = load_model(directory, "cpu"), clicks_of(np.random.default_rng(0))
        for _ in range(given.rounds + 1):
            for batch, its in runs.items():
                its.append(one_round(model, directory, clicks, batch))
    costs: Figures = {}
    for batch, its in runs.items():  # the first round warms up
        us = {part: round(statistics.median(run["us"][part] for run in its[1:]), 2) for part in PARTS}
        costs[str(batch)] = us | {"all": round(sum(us.values()), 2)}
    total, size, ended = costs[str(JUDGED)]["all"], row_bytes(model), runs[JUDGED][0]["ended"]
    failures = [f"all parts take {total} us a click, the goal is {MOST_US:g}"] if total > MOST_US else []
    failures += [f"a row has {size} bytes more, the goal is {MOST_BYTES}"] if size > MOST_BYTES else []
    conditions = {"clicks": CLICKS, "users": USERS, "sessions ended": ended, "event types": len(EVENTS), "threads": 1}
    results = {"cpu_us_per_click": costs, "row_bytes": size}
    report = write_report(given.out, "bench.following", conditions | {"rounds": given.rounds}, results, failures)
    print(f"{'clicks of a cycle':30}" + "".join(f"{batch:>9,}" for batch in BATCHES))
    for part in (*PARTS, "all"):
        print(f"{part:30}" + "".join(f"{costs[str(batch)][part]:>9.2f}" for batch in BATCHES) + " us")
    print(f"{'row':30}{size:>9} bytes")
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())

"""Measures the clicks per second of `Engine.process` and `commit`, in this checkout and in an older one.

Each side is a process that writes its own model once, with the same random weights, because the format of a model may
differ. The sides run in turn, one round after another, with the same clicks and new states. Times are CPU times: the
engine is one thread that never waits. An old engine (before `stream/engine/columns.py`) takes clicks and returns
events, and is timed over `process`. An engine that takes columns is timed twice: over `process` alone, and over the
complete work of an old engine, from clicks to events. In one mix half of the clicks come from one user. Exit code 1 if
the complete work is slower than in the older checkout.

    python -m bench.engine [--old CHECKOUT] [--rounds N] [--json]

CHECKOUT has its own environment, CHECKOUT/.venv.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent


class Mix(NamedTuple):
    """Clicks of a round: clicks per batch, clicks in all, the share of one user beside the others, and the tries.

    Each round measures each side so often, in turn, and takes the fastest: other programs only make a side slower. They
    disturb short tries most.
    """

    batch: int
    clicks: int
    busy: float = 0.0
    tries: int = 3


MIXES = {
    "batches of 1": Mix(1, 500, tries=10),
    "batches of 64": Mix(64, 3_200, tries=6),
    "batches of 2000": Mix(2_000, 6_000),
    "batches of 2000, half from one user": Mix(2_000, 6_000, 0.5),
}
ITEMS, HIDDEN, USERS, K = 20_000, 128, 800, 20
START_MS = 1_735_689_600_000
EVENTS = ("view", "view", "view", "view", "cart", "purchase")
SAME = 0.98
"""Minimum median ratio that counts as equal: medians of a few rounds differ by 2 %."""


class Times(NamedTuple):
    """Clicks per second of one round. from_columns is None if the engine of this side does not take columns."""

    from_clicks: float
    from_columns: float | None


# -- one side: imports `stream` and `export` from its own checkout ----------------------------------------------------


def serve_rounds(scratch: Path, commands: TextIO) -> None:
    """Run a round for each line "MODEL MIX" of the commands, and print its Times as JSON."""
    try:
        from export.model.untrained import write_untrained
    except ImportError:
        from export.convert import write_untrained  # type: ignore[import-not-found,no-redef]
    from stream.model.runtime import load_model

    made = scratch / "untrained" / "1"
    with redirect_stdout(sys.stderr):
        write_untrained(made, [f"i{n}" for n in range(ITEMS)], ["view", "cart", "purchase"], HIDDEN)
    directories = {"shop": Path.cwd() / "models" / "shop" / "1", "untrained": made}
    models = {name: load_model(path, "cpu") for name, path in directories.items()}
    print(json.dumps({name: len(model.items) for name, model in models.items()}), flush=True)
    for line in commands:
        name, mix = json.loads(line)
        print(json.dumps(one_round(models[name], directories[name], MIXES[mix])), flush=True)


def one_round(model: Any, directory: Path, mix: Mix) -> Times:
    """Process the clicks of a round with a new engine, from clicks; and with another new engine, from columns."""
    try:
        from stream.worker.served import open_engine
    except ImportError:
        from stream.engine.engine import open_engine  # type: ignore[attr-defined,no-redef]
    from stream.events import Click, Origin

    batch, count, rng = mix.batch, mix.clicks, random.Random(0)
    known = len(model.items)
    clicks = [
        Click(
            "busy" if rng.random() < mix.busy else f"user-{int(USERS * rng.random() ** 2)}",
            model.items[int(known * rng.random() ** 3)] if rng.random() < 0.97 else f"new-{n % 50}",
            START_MS + 137 * n,
            rng.choice(EVENTS),
        )
        for n in range(count)
    ]
    parts = [
        (clicks[a : a + batch], [Origin("clicks", 0, a + i) for i in range(len(clicks[a : a + batch]))])
        for a in range(0, count, batch)
    ]
    engine: Any = open_engine(model, directory, K, 1, 0.001)
    if not hasattr(engine, "encoder"):
        began = time.process_time()
        for part in parts:
            engine.commit(engine.process(*part))
        return Times(count / (time.process_time() - began), None)

    from stream.worker.served import anomalies, recommendations

    began = time.process_time()
    for part in parts:
        cycle = engine.process(engine.encoder.columns(*part), START_MS)
        recommendations(engine, *part, cycle), anomalies(engine, *part, cycle)
        engine.commit(cycle)
    whole = time.process_time() - began
    engine = open_engine(model, directory, K, 1, 0.001)
    columns = [engine.encoder.columns(*part) for part in parts]
    began = time.process_time()
    for part in columns:
        engine.commit(engine.process(part, START_MS))
    return Times(count / whole, count / (time.process_time() - began))


# -- both sides -------------------------------------------------------------------------------------------------------


class Side:
    """A process that runs rounds with the `stream` of one checkout."""

    def __init__(self, checkout: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [checkout / ".venv" / "bin" / "python", __file__, "--side", self._scratch.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            text=True,
        )
        self.items: dict[str, int] = json.loads(self._answer())  # model -> number of items

    def round(self, model: str, mix: str) -> Times:
        assert self._process.stdin is not None
        print(json.dumps([model, mix]), file=self._process.stdin, flush=True)
        return Times(*json.loads(self._answer()))

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._scratch.cleanup()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side has ended with exit code {self._process.wait()}")
        return line


def measure(old: Path | None, rounds: int) -> dict[str, dict[str, Any]]:
    """Model and mix -> median clicks per second, and the ratios of the rounds. old: None = measure one side only.

    Both sides start again after each round of all models and mixes: the layout of a process in memory alone makes
    it up to 7 % faster or slower.
    """
    pairs: dict[str, list[tuple[Times | None, Times | None]]] = {}
    for number in range(rounds):
        now = Side(ROOT)
        before = None if old is None else Side(old)
        for name, items in now.items.items():
            for mix, of_mix in MIXES.items():
                tries = [[side and side.round(name, mix) for side in (before, now)] for _ in range(of_mix.tries + 1)]
                earlier, this = zip(*tries[1:], strict=True)  # the first one warms up
                pair = _fastest(earlier), _fastest(this)
                pairs.setdefault(f"{name}-{items}-items, {mix}", []).append(pair)
        for side in (now, before):
            if side:
                side.end()
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return {what: _figures(its) for what, its in pairs.items()}


def _fastest(tries: tuple[Times | None, ...]) -> Times | None:
    made = [its for its in tries if its]
    if not made:
        return None
    columns = [its.from_columns for its in made if its.from_columns is not None]
    return Times(max(its.from_clicks for its in made), max(columns, default=None))


def _figures(pairs: list[tuple[Times | None, Times | None]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "process": round(statistics.median(new.from_columns or 0.0 for _, new in pairs if new)),
        "clicks_to_events": round(statistics.median(new.from_clicks for _, new in pairs if new)),
    }
    ratios = [new.from_clicks / old.from_clicks for old, new in pairs if old and new]
    if ratios:
        found |= {
            "old_clicks_to_events": round(statistics.median(old.from_clicks for old, _ in pairs if old)),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_lowest": round(min(ratios), 3),
            "ratio_highest": round(max(ratios), 3),
        }
    return found


def main() -> int:
    from bench.report import RESULTS, commit, write_report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="a checkout with its own .venv to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="also print the report")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json", help="where to write the report")
    given = parser.parse_args()
    found = measure(given.old and given.old.resolve(), given.rounds)
    conditions = {
        "users": USERS,
        "k": K,
        "hidden": {"untrained": HIDDEN},
        "mixes": {name: mix._asdict() for name, mix in MIXES.items()},
        "rounds": given.rounds,
        "old": given.old and commit(given.old),
        "new": commit(ROOT),
        "unit": "clicks per CPU second; process: from columns to columns; clicks_to_events: what the old engine did",
    }
    slower = [f"{name}: {its['ratio']} of the old side" for name, its in found.items() if its.get("ratio", 1.0) < SAME]
    report = write_report(given.out, "bench.engine", conditions, found, slower)
    print(f"{'':56}{'process':>10}{'events':>10}{'old':>10}{'ratio':>8}")
    for name, its in found.items():
        old = f"{its['old_clicks_to_events']:>10,}{its['ratio']:>8.2f}" if "ratio" in its else ""
        print(f"{name:56}{its['process']:>10,}{its['clicks_to_events']:>10,}{old}")
    if given.json:
        print(json.dumps(report))
    for line in slower:
        print(f"FAILED: {line}")
    return 1 if slower else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        serve_rounds(Path(sys.argv[2]), sys.stdin)
    else:
        sys.exit(main())

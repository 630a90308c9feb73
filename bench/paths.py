"""Measures the time on processors and the peak memory of `eddy paths` on a made-up log: `python -m bench.paths`.

The log has 20 million clicks of a million users by default, on 50,000 items in 300 categories. Users have sessions of
ten clicks on average, hours apart; most clicks are views.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.command import run_eddy, say
from bench.report import RESULTS, conclude, write_report

ITEMS, CATEGORIES = 50_000, 300
START_MS = 1_735_689_600_000
ENDS = 0.1
"""Chance that a click is the last one of its session."""

EVENTS, SHARES = ("view", "cart", "purchase"), (0.9, 0.07, 0.03)
RUNS: dict[str, tuple[str, ...]] = {
    "by event type": (),
    "by item": ("--by", "item"),
    "by category, with a comparison": ("--by", "category", "--compare", "2025-01-03"),
}


def write_log(path: Path, clicks: int, users: int, seed: int) -> None:
    """Write the log as Parquet, in the order of time."""
    rng = np.random.default_rng(seed)
    user = np.sort(rng.integers(0, users, clicks, np.int32))
    pause = np.where(rng.random(clicks) < ENDS, rng.integers(3_600_000, 30_000_000, clicks), 60_000)
    passed = np.cumsum(pause)
    first = np.append(True, user[1:] != user[:-1])
    time_ms = START_MS + passed - np.repeat(passed[first], np.diff(np.append(np.flatnonzero(first), clicks)))
    item = (ITEMS * rng.random(clicks) ** 3).astype(np.int32)
    event = rng.choice(len(EVENTS), clicks, p=SHARES).astype(np.int32)
    log = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "category": item % CATEGORIES,
            "event_type": pl.Series(event).replace_strict(dict(enumerate(EVENTS)), return_dtype=pl.String),
            "timestamp": time_ms,
        }
    )
    log.sort("timestamp").write_parquet(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULTS / "paths.json", help="where to write the result")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log.parquet"
        say(f"writing a log of {given.clicks:,} clicks")
        write_log(log, given.clicks, given.users, given.seed)
        for name, options in RUNS.items():
            ran = run_eddy("paths", log, "--json", *options)
            counted = json.loads(ran.output)
            found[name] = {
                "clicks": counted["clicks"],
                "sessions": counted["sessions"],
                "cpu_seconds": round(ran.cpu_seconds, 1),
                "seconds": round(ran.seconds, 1),
                "peak_mb": ran.peak_mb,
            }
            print(f"{name:32}{ran.cpu_seconds:>8.1f} s of CPU {ran.seconds:>8.1f} s {ran.peak_mb:>8,} MB")
    conditions = {"clicks": given.clicks, "users": given.users, "items": ITEMS, "seed": given.seed}
    return conclude(write_report(given.out, "bench.paths", conditions, found, []), given.json)


if __name__ == "__main__":
    sys.exit(main())

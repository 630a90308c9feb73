"""Measures the cost of each rule for the lists: CPU time per click of the engine, with and without the rule.

The model has random weights, 10,000 items and 128 hidden units. The cost of a rule does not depend on the quality of
the lists, but on how deep in the ranking the allowed items are. Random weights are the worst case, because a trained
model ranks items of the click's category first. The engine runs in one thread. All cases run once per round; the result
is the median and the range over the rounds.

    python -m bench.rules [--rounds N] [--json]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.report import RESULTS, write_report
from export.measure.metrics import K
from export.model.untrained import write_untrained
from stream.events import Click, Origin
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.worker.served import open_engine

RESULT = RESULTS / "rules.json"
ITEMS, HIDDEN, CATEGORIES = 10_000, 128, 50
CLICKS, CYCLE, USERS = 4_000, 1_000, 800
IN_STOCK = 0.9
EVENTS = ["view", "cart", "purchase"]


def cases(catalogue: str) -> dict[str, Rules]:
    """Name -> the rules to measure. Each category has a fiftieth of the items; the market `at` has half of them."""
    return {
        "no rules": Rules(),
        "leave out what was bought or is in the cart": Rules(exclude_events="cart,purchase"),
        "popular if unknown": Rules(popular_if_unknown=True),
        "in stock (90 % of the items)": Rules(catalogue=catalogue, only_available=True),
        "one market (50 %)": Rules(catalogue=catalogue, only="market=at"),
        "five categories (10 %)": Rules(catalogue=catalogue, only="category=c1,c2,c3,c4,c5"),
        "one category (2 %)": Rules(catalogue=catalogue, only="category=c1"),
        "the click's category (2 %)": Rules(catalogue=catalogue, same_category=True),
        "at most 2 of a category": Rules(catalogue=catalogue, max_per_category=2),
        "diversity 0.5": Rules(catalogue=catalogue, diversity=0.5),
        "explore 0.1": Rules(explore=0.1),
        "all but one category": Rules(
            exclude_events="cart,purchase",
            catalogue=catalogue,
            only="market=at",
            only_available=True,
            max_per_category=2,
            diversity=0.5,
            popular_if_unknown=True,
            explore=0.1,
        ),
    }


def write_catalogue(path: Path, rng: np.random.Generator) -> None:
    """Write a catalogue of ITEMS items in CATEGORIES categories; IN_STOCK are available, half are in market `at`."""
    lines = (
        {
            "item_id": f"i{n}",
            "category": f"c{rng.integers(CATEGORIES)}",
            "in_stock": bool(rng.random() < IN_STOCK),
            "market": ["de", "at"][: 1 + int(rng.integers(2))],
        }
        for n in range(ITEMS)
    )
    path.write_text("\n".join(map(json.dumps, lines)))


def clicks_of(rng: np.random.Generator) -> list[Click]:
    """Random clicks of USERS users: few items are popular, and some are unknown to the model."""
    items = rng.zipf(1.3, CLICKS) % (ITEMS + 50)
    return [
        Click(f"u{rng.integers(USERS)}", f"i{item}", 1_700_000_000_000 + 1000 * n, EVENTS[rng.integers(3)])
        for n, item in enumerate(items)
    ]


def cpu_us(model: Model, directory: Path, rules: Rules, clicks: list[Click]) -> float:
    """CPU time per click in microseconds, from columns to decisions and committed rows."""
    engine = open_engine(model, directory, K, exclude_recent=1, alpha=0.001, rules=rules)
    origins = [Origin("clicks", 0, n) for n in range(len(clicks))]
    columns = engine.encoder.columns(clicks, origins)
    parts = [columns.take(np.arange(a, min(a + CYCLE, len(clicks)))) for a in range(0, len(clicks), CYCLE)]
    began = time.process_time()
    for part in parts:
        engine.commit(engine.process(part, now_ms=0))
    return (time.process_time() - began) / len(clicks) * 1e6


def measure(scratch: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Case -> median CPU time per click, and its ratio to the time without rules in the same round."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    directory = scratch / "random" / "1"
    write_untrained(directory, [f"i{n}" for n in range(ITEMS)], EVENTS, HIDDEN)
    write_catalogue(scratch / "items.jsonl", rng)
    model, clicks, rules = load_model(directory, "cpu"), clicks_of(rng), cases(str(scratch / "items.jsonl"))
    cpu_us(model, directory, Rules(), clicks)  # warm-up: the first run is slower
    took = [{name: cpu_us(model, directory, its, clicks) for name, its in rules.items()} for _ in range(rounds)]
    found = {}
    for name in rules:
        ratios = [one[name] / one["no rules"] for one in took]
        found[name] = {
            "cpu_us_per_click": round(statistics.median(one[name] for one in took), 1),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_lowest": round(min(ratios), 2),
            "ratio_highest": round(max(ratios), 2),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        results = measure(Path(scratch), given.rounds)
    conditions = {"items": ITEMS, "hidden": HIDDEN, "k": K, "clicks": CLICKS, "rounds": given.rounds, "threads": 1}
    report = write_report(RESULT, "bench.rules", conditions, results, [])
    if given.json:
        print(json.dumps(report))
        return
    for name, its in results.items():
        print(f"{name:45}{its['cpu_us_per_click']:>8.1f} us{its['ratio']:>7.2f}x")


if __name__ == "__main__":
    main()

"""Reads damaged and odd inputs, and counts how they end: a result or the documented error class, and nothing else.

Targets: messages, logs, mappings, manifests, model directories, catalogues and changelog rows (tests/fuzz/targets.py).
The inputs follow from the seed. A finding is printed with its seed and ends the run with exit code 1 after all inputs.

    python -m bench.fuzz [--inputs N] [--first SEED]
    python -m bench.fuzz --target decode --seed 123      # one input again, with the stack trace
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.report import RESULTS, write_report
from export.model.untrained import write_untrained
from tests.fuzz.targets import Fuzz

SHARES = {
    "decode": 0.86,
    "catalogue": 0.05,
    "changelog": 0.05,
    "manifest": 0.02,
    "log": 0.01,
    "mapping": 0.005,
    "model": 0.005,
}
"""Share of the inputs of each target: a file takes longer than a message."""

MOST_FINDINGS = 20


def fuzz(targets: Fuzz, target: str, first: int, count: int) -> dict[str, Any]:
    """Read the inputs of `count` seeds. Returns the counts by outcome, the seconds, and the findings by seed."""
    outcomes: Counter[str] = Counter()
    findings: dict[int, str] = {}
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            outcomes[targets.run(target, seed)] += 1
        except Exception as exc:
            outcomes["findings"] += 1
            if len(findings) < MOST_FINDINGS:
                findings[seed] = f"{type(exc).__name__}: {' '.join(str(exc).split())[:200]}"
    seconds = round(time.monotonic() - began, 1)
    return {"inputs": count, "outcomes": dict(outcomes.most_common()), "seconds": seconds, "findings": findings}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed")
    parser.add_argument("--target", choices=[*SHARES], help="only this target")
    parser.add_argument("--seed", type=int, help="only this seed of --target")
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz.json", help="where to write the report")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "tiny" / "1"
        write_untrained(model, [f"i{n}" for n in range(50)], ["view", "cart", "purchase"], hidden=16, seed=0)
        targets = Fuzz(Path(scratch), model)
        if given.seed is not None:
            print(targets.run(given.target, given.seed))
            return 0
        shares = {given.target: 1.0} if given.target else SHARES
        found: dict[str, Any] = {}
        for target, share in shares.items():
            found[target] = its = fuzz(targets, target, given.first, round(share * given.inputs))
            print(f"{target:10}{its['inputs']:>10,} inputs in {its['seconds']:,.0f} s: {its['outcomes']}", flush=True)
    failures = [f"{name}, seed {seed}: {what}" for name, its in found.items() for seed, what in its["findings"].items()]
    write_report(given.out, "bench.fuzz", {"inputs": given.inputs, "first seed": given.first}, found, failures)
    for line in failures:
        print(f"FOUND: {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

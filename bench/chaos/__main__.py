"""Random faults under load on a real Kafka, and a check that no click was lost, repeated or decided differently.

A run starts one broker or three, two workers and a generator of clicks, a tenth of them bad messages. It kills, stops
and freezes workers and brokers and disturbs the network, in an order that the seed decides. Then it compares all
topics, the committed offsets and every state row with a plain loop over the same clicks and with an undisturbed worker,
before and after the changelog is compacted. docs/delivery.md has the list of faults and checks.

    make chaos N=200 SEED=7                         200 faults on one broker, about half an hour
    python -m bench.chaos --faults 20 --seed 3      the same, shorter
    python -m bench.chaos --brokers 3 --faults 50   three brokers, also with leader kills and elections

A run that fails prints the command that repeats it and keeps the logs of its workers and the data of its brokers. The
clicks and the faults are the same again; the times at which processes react are not. Exit code 0: nothing was wrong; 1:
something was; 2: the run could not start.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.apache_kafka import VERSION, KafkaUnavailable
from bench.chaos.cluster import Cluster
from bench.chaos.faults import Done, schedule
from bench.chaos.run import Run
from bench.chaos.traffic import EVENT_TYPES, ITEMS
from bench.chaos.workers import RunFailed, clock
from bench.command import stop
from bench.report import RESULTS, conclude, kept, write_report

RESULT = RESULTS / "chaos.json"


def one_run(given: argparse.Namespace, directory: Path, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    """Do a run; return its figures and what was wrong with it. Raises KafkaUnavailable if it could not start."""
    model = given.model or directory / "random" / "1"
    if given.model is None:
        from export.model.untrained import write_untrained  # here, because it imports torch, which takes seconds

        write_untrained(model, ITEMS, EVENT_TYPES, hidden=16)
    faults = schedule(given.seed, given.faults, given.brokers, given.gap, given.overlap)
    bar = progress.add_task("faults", total=len(faults))
    began = time.monotonic()
    with Cluster(given.brokers) as cluster:

        def phase(line: str) -> None:
            progress.update(bar, description=line)
            with (directory / "run.log").open("a") as log:  # same clock as the workers' logs
                log.write(f"{datetime.now()} {line}\n")

        def each(done: Done) -> None:
            progress.update(bar, advance=1)
            phase(f"{len(run.faults)}. {done.kind}")

        run = Run(cluster, model, directory, given.seed, given.rate, phase)
        errors: list[str] = []
        figures: dict[str, Any] = {}
        try:
            figures["pauses"] = run.disturbed(faults, each)
            figures["loaded_s"] = round(time.monotonic() - began)
            run.undisturbed()
            run.check("before compaction")
            run.compact()
            run.check("after compaction")
        except (RunFailed, KafkaUnavailable) as exc:
            done = ", ".join(f"{clock(time.monotonic() - one.began)} {one.kind}" for one in run.faults)
            errors.append(f"after {len(run.faults)} of {len(faults)} faults ({done}): {exc}")
            run.traffic.end()
        for when, found in run.found.items():
            errors += [f"{when}: {line}" for line in found.errors]
            figures[when] = dict(found.counts)
        if errors:
            run.keep_sent()
            cluster.keep(directory / "brokers")
    figures["faults"] = len(run.faults)
    figures["exits"] = dict(sorted(run.exits.items()))
    return figures, errors


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=50, help="number of faults [50]")
    parser.add_argument("--seed", type=int, help="decides on faults and clicks [a random one, which is printed]")
    parser.add_argument(
        "--brokers", type=int, choices=(1, 3), default=1, help="brokers; 3 have replication factor 3 [1]"
    )
    parser.add_argument("--rate", type=float, default=300.0, help="messages per second [300]")
    parser.add_argument("--gap", type=float, default=4.0, help="longest time between two faults, seconds [4]")
    parser.add_argument("--overlap", type=float, default=0.3, help="share of faults that overlap with the next [0.3]")
    parser.add_argument(
        "--model", type=Path, help="model directory with the items i0 to i299 [one with random weights]"
    )
    parser.add_argument("--logs", type=Path, help="new directory for the logs, which are then always kept")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result; other runs in it stay")
    given = parser.parse_args()
    if given.faults < 1 or given.rate <= 0 or given.gap <= 0:
        stop("--faults, --rate and --gap must be above 0")
    given.seed = random.randrange(10_000) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that brokers and workers are ended
    directory = given.logs or Path(tempfile.mkdtemp(prefix="eddy-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    again = f"python -m bench.chaos --faults {given.faults} --seed {given.seed} --brokers {given.brokers}"
    again += f" --rate {given.rate:g} --gap {given.gap:g} --overlap {given.overlap:g}"
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    print(f"run: {again}\nlogs: {directory}", file=sys.stderr)
    columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            figures, errors = one_run(given, directory, progress)
    except KafkaUnavailable as exc:
        stop(str(exc))
    report = record(given, again, figures, errors)
    print(table(figures))
    if errors:
        print(f"again: {again}\nlogs: {directory}")
    elif given.logs is None:
        shutil.rmtree(directory, ignore_errors=True)
    return conclude(report, given.json)


def record(given: argparse.Namespace, again: str, figures: dict[str, Any], errors: list[str]) -> dict[str, Any]:
    """Write the run into the result file, beside the runs with other seeds and brokers. Returns the report."""
    name = f"seed {given.seed}, {given.brokers} broker{'s' if given.brokers > 1 else ''}"
    results, conditions = kept(given.out, "results"), kept(given.out, "conditions")
    results[name] = figures | {"failures": errors}
    conditions[name] = {"command": again, "date": datetime.now(UTC).isoformat(timespec="seconds"), "rate": given.rate}
    failures = [f"{run}: {line}" for run, found in results.items() for line in found["failures"]]
    return write_report(given.out, "bench.chaos", conditions, results, failures, kafka=VERSION)


def table(figures: dict[str, Any]) -> str:
    """The figures of a run, for a person."""
    rows = [f"{'fault':14}{'times':>6}{'median pause':>14}{'longest':>9}"]
    rows += [
        f"{kind:14}{of['faults']:>6}{of['median_pause_s']:>12.2f} s{of['longest_pause_s']:>7.2f} s"
        for kind, of in figures.get("pauses", {}).items()
    ]
    rows += [f"workers ended {how}: {count} times" for how, count in figures["exits"].items()]
    for when in ("before compaction", "after compaction"):
        rows += [f"{when}: {count:,} {name}" for name, count in figures.get(when, {}).items()]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
